//! Changes of the table `words`, collected until the commit, and the blocks in which the table stores rows.
//!
//! A row of the table stands for up to 256 rows with consecutive `seq` that have a word in common. The changes of a group
//! of mutations are combined, so that a word that all of them add is written once.

use std::collections::BTreeSet;

/// Number of consecutive `seq` in a block.
const BLOCK_ROWS: i64 = 256;
/// The same, as a number of rows.
pub(super) const MAX_ROWS_PER_BLOCK: usize = 256;

/// Words of a row, each with the number in the column `kind`.
pub(super) type Words = BTreeSet<(i64, String)>;

/// The block that contains a `seq`.
pub(super) fn block_of(seq: i64) -> i64 {
    seq.div_euclid(BLOCK_ROWS)
}

/// The rows of a block with these offsets, in ascending order.
pub(super) fn rows_of_block(block: i64, offsets: &[u8]) -> impl DoubleEndedIterator<Item = i64> {
    let mut sorted = offsets.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    // A damaged block may have any number.
    let first = block.saturating_mul(BLOCK_ROWS);
    sorted.into_iter().map(move |offset| first.saturating_add(i64::from(offset)))
}

fn offset_of(seq: i64) -> u8 {
    // Less than 256.
    u8::try_from(seq.rem_euclid(BLOCK_ROWS)).unwrap_or_default()
}

/// A tenant, a kind, a word, and the `seq` of a row that has it.
type Entry<'c> = (i64, i64, &'c str, i64);

enum Change {
    /// The words of a row were added or removed.
    Words { tenants: Vec<i64>, seq: i64, words: Words, is_added: bool },
    /// All words of a kind were removed.
    Kind { tenant: i64, kind: i64 },
}

/// Changes in the order in which they were made.
#[derive(Default)]
pub(super) struct WordChanges {
    changes: Vec<Change>,
    /// How many of them, from the first, the transaction has stored.
    stored: usize,
}

/// How many changes there were at a savepoint, and how many of them were stored.
#[derive(Clone, Copy)]
pub(super) struct SavedChanges {
    made: usize,
    stored: usize,
}

/// A change of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BlockChange<'c> {
    pub(super) tenant: i64,
    pub(super) kind: i64,
    pub(super) word: &'c str,
    pub(super) block: i64,
    /// Offsets of the rows that have the word now, in ascending order.
    pub(super) added: Vec<u8>,
    /// Offsets of the rows that no longer have the word.
    pub(super) removed: Vec<u8>,
}

/// What the changes come to, in the order of the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CombinedChanges<'c> {
    /// Tenants and kinds whose words are removed before the changes of blocks.
    pub(super) removed_kinds: Vec<(i64, i64)>,
    pub(super) blocks: Vec<BlockChange<'c>>,
}

impl WordChanges {
    pub(super) fn save(&self) -> SavedChanges {
        SavedChanges { made: self.changes.len(), stored: self.stored }
    }

    /// Forgets what was made and what was stored since the savepoint, which is rolled back.
    pub(super) fn restore(&mut self, saved: SavedChanges) {
        self.changes.truncate(saved.made);
        self.stored = saved.stored;
    }

    /// True if no changes are left to store.
    pub(super) fn are_stored(&self) -> bool {
        self.stored == self.changes.len()
    }

    /// Records that all changes are stored.
    pub(super) fn set_stored(&mut self) {
        self.stored = self.changes.len();
    }

    /// Adds words to a row, under each of the tenants.
    pub(super) fn add(&mut self, tenants: Vec<i64>, seq: i64, words: Words) {
        self.changes.push(Change::Words { tenants, seq, words, is_added: true });
    }

    /// Removes words from a row, under each of the tenants.
    pub(super) fn remove(&mut self, tenants: Vec<i64>, seq: i64, words: Words) {
        self.changes.push(Change::Words { tenants, seq, words, is_added: false });
    }

    /// Removes all words of a kind under a tenant.
    pub(super) fn remove_kind(&mut self, tenant: i64, kind: i64) {
        self.changes.push(Change::Kind { tenant, kind });
    }

    /// Combines the changes that aren't stored. Of several changes of the same word of a row, the last one counts.
    pub(super) fn combine(&self) -> CombinedChanges<'_> {
        let mut combined = CombinedChanges::default();
        let mut entries: Vec<(Entry<'_>, bool)> = Vec::new();
        for change in self.changes.iter().skip(self.stored) {
            match change {
                Change::Kind { tenant, kind } => {
                    let (tenant, kind) = (*tenant, *kind);
                    entries.retain(|((of_tenant, of_kind, ..), _)| (*of_tenant, *of_kind) != (tenant, kind));
                    combined.removed_kinds.push((tenant, kind));
                }
                Change::Words { tenants, seq, words, is_added } => {
                    entries.extend(tenants.iter().flat_map(|tenant| {
                        words
                            .iter()
                            .map(move |(kind, word)| ((*tenant, *kind, word.as_str(), *seq), *is_added))
                    }));
                }
            }
        }
        // Stable, so changes of the same word of a row stay in their order.
        entries.sort_by_key(|(entry, _)| *entry);
        let same_row = entries.chunk_by(|(one, _), (other, _)| one == other);
        for ((tenant, kind, word, seq), is_added) in same_row.filter_map(<[_]>::last) {
            let (tenant, kind, block) = (*tenant, *kind, block_of(*seq));
            let is_same = |last: &BlockChange<'_>| {
                (last.tenant, last.kind, last.word, last.block) == (tenant, kind, *word, block)
            };
            if !combined.blocks.last().is_some_and(is_same) {
                let (added, removed) = (Vec::new(), Vec::new());
                combined.blocks.push(BlockChange { tenant, kind, word, block, added, removed });
            }
            if let Some(change) = combined.blocks.last_mut() {
                let offsets = if *is_added { &mut change.added } else { &mut change.removed };
                offsets.push(offset_of(*seq));
            }
        }
        combined
    }
}

impl BlockChange<'_> {
    /// The offsets of a block after the change, in ascending order.
    pub(super) fn apply_to(&self, offsets: &[u8]) -> Vec<u8> {
        let stored: BTreeSet<u8> = offsets.iter().chain(&self.added).copied().collect();
        stored.into_iter().filter(|offset| !self.removed.contains(offset)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Words {
        words.iter().map(|word| (0, (*word).to_owned())).collect()
    }

    /// The tenant, word and block of a change, and the added and the removed offsets.
    type Block<'c> = (i64, &'c str, i64, Vec<u8>, Vec<u8>);

    fn blocks(changes: &WordChanges) -> Vec<Block<'_>> {
        let blocks = changes.combine().blocks.into_iter();
        blocks.map(|of| (of.tenant, of.word, of.block, of.added, of.removed)).collect()
    }

    #[test]
    fn rows_are_in_the_block_that_contains_them() {
        for (seq, block, offset) in
            [(1, 0, 1), (255, 0, 255), (256, 1, 0), (1_000_000, 3906, 64), (-1, -1, 255)]
        {
            assert_eq!((block_of(seq), offset_of(seq)), (block, offset));
            assert_eq!(rows_of_block(block, &[offset]).collect::<Vec<_>>(), [seq]);
        }
        assert_eq!(rows_of_block(2, &[7, 0, 7, 255]).collect::<Vec<_>>(), [512, 519, 767]);
    }

    #[test]
    fn rows_with_the_same_word_share_a_block() {
        let mut changes = WordChanges::default();
        changes.add(vec![0, 3], 300, words(&["key", "ada"]));
        changes.add(vec![0], 10, words(&["key"]));
        changes.add(vec![0], 299, words(&["key"]));
        let expected = [
            (0, "ada", 1, vec![44], vec![]),
            (0, "key", 0, vec![10], vec![]),
            (0, "key", 1, vec![43, 44], vec![]),
            (3, "ada", 1, vec![44], vec![]),
            (3, "key", 1, vec![44], vec![]),
        ];
        assert_eq!(blocks(&changes), expected);
    }

    #[test]
    fn the_last_change_of_a_row_counts() {
        let mut changes = WordChanges::default();
        changes.add(vec![0], 5, words(&["ada"]));
        changes.remove(vec![0], 5, words(&["ada"]));
        changes.remove(vec![0], 6, words(&["ada"]));
        changes.add(vec![0], 6, words(&["ada"]));
        assert_eq!(blocks(&changes), [(0, "ada", 0, vec![6], vec![5])]);
    }

    #[test]
    fn a_savepoint_that_is_rolled_back_takes_its_changes_and_their_storage_with_it() {
        let mut changes = WordChanges::default();
        changes.add(vec![0], 5, words(&["ada"]));
        let saved = changes.save();
        changes.remove(vec![0], 5, words(&["ada"]));
        changes.set_stored();
        assert!(changes.are_stored() && blocks(&changes).is_empty());
        changes.add(vec![0], 7, words(&["ada"]));
        assert_eq!(blocks(&changes), [(0, "ada", 0, vec![7], vec![])]);
        changes.restore(saved);
        assert_eq!(blocks(&changes), [(0, "ada", 0, vec![5], vec![])]);
    }

    #[test]
    fn removing_a_kind_ends_what_was_added_before() {
        let mut changes = WordChanges::default();
        changes.add(vec![0, 3], 5, words(&["ada"]));
        changes.remove_kind(3, 0);
        changes.add(vec![3], 6, words(&["ada"]));
        assert_eq!(changes.combine().removed_kinds, [(3, 0)]);
        let expected = [(0, "ada", 0, vec![5], vec![]), (3, "ada", 0, vec![6], vec![])];
        assert_eq!(blocks(&changes), expected);
    }

    #[test]
    fn a_change_is_applied_to_the_rows_of_its_block() {
        let mut changes = WordChanges::default();
        for seq in [7, 2] {
            changes.add(vec![0], seq, words(&["ada"]));
        }
        changes.remove(vec![0], 9, words(&["ada"]));
        let combined = changes.combine();
        assert_eq!(combined.blocks[0].apply_to(&[9, 200, 7, 9]), [2, 7, 200]);
        assert_eq!(combined.blocks[0].apply_to(&[]), [2, 7]);
    }
}
