//! What usage and quotas are counted for.

/// A key, an organization, or everything. Each subject has a distinct number, so that the rows of all
/// subjects fit into one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// All keys.
    All,
    /// All keys of the organization with this `seq`; 0 stands for platform keys.
    Organization(i64),
    /// The key with this `seq`.
    Key(i64),
}

impl Subject {
    /// The subject's number: 0 for all keys, negative for an organization, positive for a key.
    pub(crate) fn number(self) -> i64 {
        match self {
            Subject::All => 0,
            Subject::Organization(seq) => -1 - seq,
            Subject::Key(seq) => seq,
        }
    }

    /// The subject with this number.
    pub(crate) fn from_number(number: i64) -> Self {
        match number {
            0 => Subject::All,
            1.. => Subject::Key(number),
            _ => Subject::Organization(-1 - number),
        }
    }
}
