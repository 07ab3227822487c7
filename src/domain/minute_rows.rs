//! Decides which rows of a minute an aggregated log keeps: a limited number, chosen so that no organization
//! displaces the rows of another.

use std::collections::HashMap;

/// The number of rows per minute that are reserved for each organization.
pub(crate) const MAX_RESERVED_ROWS: usize = 10;

/// The number of rows per minute that all organizations and the platform share. Rows of keys have precedence
/// over rows of addresses.
pub(crate) const MAX_SHARED_ROWS: usize = 1000;

/// The largest number of rows in memory, of all organizations and of all minutes that are not yet written.
pub(crate) const MAX_ROWS_IN_MEMORY: usize = 100_000;

/// To whom a row belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowOwner<'a> {
    /// The organization that sees the row; `None` for the platform.
    pub(crate) organization_id: Option<&'a str>,
    /// True for a row of a key, false for a row of an address. A client can have many addresses.
    pub(crate) is_key: bool,
}

/// The decision about a new row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RowAdmission<K> {
    /// There is room for the row.
    Admitted,
    /// The row replaces this row, which is counted in the overflow row from now on.
    Replaces(K),
    /// There is no room for the row; it is counted in the overflow row.
    Overflow,
}

/// The rows of one minute. `K` is the key of a row.
#[derive(Debug)]
pub(crate) struct MinuteRows<K> {
    /// The reserved rows of each organization.
    by_organization: HashMap<String, RowGroup<K>>,
    /// The rows that all organizations and the platform share.
    shared: RowGroup<K>,
}

/// Rows that share one limit.
#[derive(Debug)]
struct RowGroup<K> {
    /// The number of rows of keys.
    key_count: usize,
    /// The rows of addresses.
    addresses: Vec<K>,
}

impl<K> Default for RowGroup<K> {
    fn default() -> Self {
        Self { key_count: 0, addresses: Vec::new() }
    }
}

impl<K> Default for MinuteRows<K> {
    fn default() -> Self {
        Self { by_organization: HashMap::new(), shared: RowGroup::default() }
    }
}

impl<K: Clone> RowGroup<K> {
    fn admit(&mut self, row: &K, is_key: bool, max: usize) -> RowAdmission<K> {
        let admission = if self.key_count + self.addresses.len() < max {
            RowAdmission::Admitted
        } else {
            match self.addresses.pop_if(|_| is_key) {
                Some(address) => RowAdmission::Replaces(address),
                None => return RowAdmission::Overflow,
            }
        };
        if is_key {
            self.key_count += 1;
        } else {
            self.addresses.push(row.clone());
        }
        admission
    }
}

impl<K: Clone> MinuteRows<K> {
    /// Decides whether to keep a new row.
    pub(crate) fn admit(&mut self, row: &K, owner: RowOwner<'_>) -> RowAdmission<K> {
        let reserved = owner.organization_id.map(|id| match self.by_organization.get_mut(id) {
            Some(group) => group.admit(row, owner.is_key, MAX_RESERVED_ROWS),
            None => self.by_organization.entry(id.to_owned()).or_default().admit(
                row,
                owner.is_key,
                MAX_RESERVED_ROWS,
            ),
        });
        match reserved {
            Some(RowAdmission::Admitted) => RowAdmission::Admitted,
            // The replaced row is no longer a reserved row, but it may become a shared one.
            Some(RowAdmission::Replaces(address)) => {
                match self.shared.admit(&address, false, MAX_SHARED_ROWS) {
                    RowAdmission::Overflow => RowAdmission::Replaces(address),
                    admitted => admitted,
                }
            }
            Some(RowAdmission::Overflow) | None => self.shared.admit(row, owner.is_key, MAX_SHARED_ROWS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLATFORM: Option<&str> = None;

    fn admit(
        rows: &mut MinuteRows<String>,
        row: &str,
        id: Option<&str>,
        is_key: bool,
    ) -> RowAdmission<String> {
        rows.admit(&row.to_owned(), RowOwner { organization_id: id, is_key })
    }

    fn fill(rows: &mut MinuteRows<String>, id: Option<&str>, is_key: bool, count: usize) {
        for index in 0..count {
            assert_eq!(admit(rows, &format!("{id:?} {index}"), id, is_key), RowAdmission::Admitted);
        }
    }

    #[test]
    fn other_organizations_take_none_of_the_reserved_rows() {
        let mut rows = MinuteRows::default();
        fill(&mut rows, Some("org_a"), true, MAX_RESERVED_ROWS + MAX_SHARED_ROWS);
        assert_eq!(admit(&mut rows, "one more", Some("org_a"), true), RowAdmission::Overflow);
        assert_eq!(admit(&mut rows, "platform", PLATFORM, true), RowAdmission::Overflow);
        for organization in ["org_b", "org_c"] {
            fill(&mut rows, Some(organization), true, MAX_RESERVED_ROWS);
            assert_eq!(admit(&mut rows, "one more", Some(organization), true), RowAdmission::Overflow);
        }
    }

    #[test]
    fn keys_replace_addresses_and_nothing_replaces_keys() {
        let mut rows = MinuteRows::default();
        fill(&mut rows, PLATFORM, false, MAX_SHARED_ROWS);
        assert_eq!(admit(&mut rows, "address", PLATFORM, false), RowAdmission::Overflow);
        for _ in 0..MAX_SHARED_ROWS {
            let admission = admit(&mut rows, "key", PLATFORM, true);
            assert!(matches!(admission, RowAdmission::Replaces(_)), "{admission:?}");
        }
        assert_eq!(admit(&mut rows, "key", PLATFORM, true), RowAdmission::Overflow);
        assert_eq!(admit(&mut rows, "address", PLATFORM, false), RowAdmission::Overflow);
    }

    #[test]
    fn a_key_replaces_an_address_among_the_reserved_rows() {
        let mut rows = MinuteRows::default();
        fill(&mut rows, Some("org_a"), false, MAX_RESERVED_ROWS);
        // While there are shared rows, the address moves there.
        assert_eq!(admit(&mut rows, "key 0", Some("org_a"), true), RowAdmission::Admitted);
        fill(&mut rows, PLATFORM, true, MAX_SHARED_ROWS - 1);
        let replaced = admit(&mut rows, "key 1", Some("org_a"), true);
        assert_eq!(
            replaced,
            RowAdmission::Replaces(format!("{:?} {}", Some("org_a"), MAX_RESERVED_ROWS - 2))
        );
        for index in 2..MAX_RESERVED_ROWS {
            let admission = admit(&mut rows, &format!("key {index}"), Some("org_a"), true);
            assert!(matches!(admission, RowAdmission::Replaces(_)), "{admission:?}");
        }
    }
}
