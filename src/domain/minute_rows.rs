//! Which rows of one minute an aggregated log keeps: bounded, and so that nobody pushes out the rows of another
//! organization.

use std::collections::HashMap;

/// The rows a minute that each organization has for itself.
pub(crate) const MAX_OWN_ROWS: usize = 10;

/// The rows a minute beyond those, which all share. Rows of keys come before rows of addresses.
pub(crate) const MAX_SHARED_ROWS: usize = 1000;

/// The largest number of rows in memory, of all organizations and of all minutes that aren't written yet.
pub(crate) const MAX_ROWS: usize = 100_000;

/// Whose row it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowOwner<'a> {
    /// The organization that sees the row; `None` for the platform.
    pub(crate) organization_id: Option<&'a str>,
    /// True for a row of a key, false for one of an address, of which anyone can have many.
    pub(crate) is_key: bool,
}

/// What happens to a new row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission<K> {
    /// There is room for it.
    Admitted,
    /// It replaces this row, which is counted in the overflow row from now on.
    Replaces(K),
    /// There is no room: it is counted in the overflow row.
    Overflow,
}

/// The rows of one minute, by their keys.
#[derive(Debug)]
pub(crate) struct MinuteRows<K> {
    by_organization: HashMap<String, Share<K>>,
    shared: Share<K>,
}

/// Rows that share one bound.
#[derive(Debug)]
struct Share<K> {
    /// Number of rows of keys.
    keys: usize,
    /// The rows of addresses.
    addresses: Vec<K>,
}

impl<K> Default for Share<K> {
    fn default() -> Self {
        Self { keys: 0, addresses: Vec::new() }
    }
}

impl<K> Default for MinuteRows<K> {
    fn default() -> Self {
        Self { by_organization: HashMap::new(), shared: Share::default() }
    }
}

impl<K: Clone> Share<K> {
    fn admit(&mut self, row: &K, is_key: bool, max: usize) -> Admission<K> {
        let admission = if self.keys + self.addresses.len() < max {
            Admission::Admitted
        } else {
            match self.addresses.pop_if(|_| is_key) {
                Some(address) => Admission::Replaces(address),
                None => return Admission::Overflow,
            }
        };
        if is_key {
            self.keys += 1;
        } else {
            self.addresses.push(row.clone());
        }
        admission
    }
}

impl<K: Clone> MinuteRows<K> {
    /// Decides about a row that isn't there yet.
    pub(crate) fn admit(&mut self, row: &K, owner: RowOwner<'_>) -> Admission<K> {
        let own = owner.organization_id.map(|id| match self.by_organization.get_mut(id) {
            Some(share) => share.admit(row, owner.is_key, MAX_OWN_ROWS),
            None => {
                self.by_organization.entry(id.to_owned()).or_default().admit(row, owner.is_key, MAX_OWN_ROWS)
            }
        });
        match own {
            Some(Admission::Admitted) => Admission::Admitted,
            // The replaced row isn't the organization's own any more, but may still be one of the shared.
            Some(Admission::Replaces(address)) => match self.shared.admit(&address, false, MAX_SHARED_ROWS) {
                Admission::Overflow => Admission::Replaces(address),
                admitted => admitted,
            },
            Some(Admission::Overflow) | None => self.shared.admit(row, owner.is_key, MAX_SHARED_ROWS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLATFORM: Option<&str> = None;

    fn admit(rows: &mut MinuteRows<String>, row: &str, id: Option<&str>, is_key: bool) -> Admission<String> {
        rows.admit(&row.to_owned(), RowOwner { organization_id: id, is_key })
    }

    fn fill(rows: &mut MinuteRows<String>, id: Option<&str>, is_key: bool, count: usize) {
        for index in 0..count {
            assert_eq!(admit(rows, &format!("{id:?} {index}"), id, is_key), Admission::Admitted);
        }
    }

    #[test]
    fn an_organization_has_its_own_rows_whatever_others_do() {
        let mut rows = MinuteRows::default();
        fill(&mut rows, Some("org_a"), true, MAX_OWN_ROWS + MAX_SHARED_ROWS);
        assert_eq!(admit(&mut rows, "one more", Some("org_a"), true), Admission::Overflow);
        assert_eq!(admit(&mut rows, "platform", PLATFORM, true), Admission::Overflow);
        for organization in ["org_b", "org_c"] {
            fill(&mut rows, Some(organization), true, MAX_OWN_ROWS);
            assert_eq!(admit(&mut rows, "one more", Some(organization), true), Admission::Overflow);
        }
    }

    #[test]
    fn keys_replace_addresses_and_nothing_replaces_keys() {
        let mut rows = MinuteRows::default();
        fill(&mut rows, PLATFORM, false, MAX_SHARED_ROWS);
        assert_eq!(admit(&mut rows, "address", PLATFORM, false), Admission::Overflow);
        for _ in 0..MAX_SHARED_ROWS {
            let admission = admit(&mut rows, "key", PLATFORM, true);
            assert!(matches!(admission, Admission::Replaces(_)), "{admission:?}");
        }
        assert_eq!(admit(&mut rows, "key", PLATFORM, true), Admission::Overflow);
        assert_eq!(admit(&mut rows, "address", PLATFORM, false), Admission::Overflow);
    }

    #[test]
    fn a_key_replaces_an_address_among_its_organizations_own_rows() {
        let mut rows = MinuteRows::default();
        fill(&mut rows, Some("org_a"), false, MAX_OWN_ROWS);
        // While there are shared rows, the address moves there.
        assert_eq!(admit(&mut rows, "key 0", Some("org_a"), true), Admission::Admitted);
        fill(&mut rows, PLATFORM, true, MAX_SHARED_ROWS - 1);
        let replaced = admit(&mut rows, "key 1", Some("org_a"), true);
        assert_eq!(replaced, Admission::Replaces(format!("{:?} {}", Some("org_a"), MAX_OWN_ROWS - 2)));
        for index in 2..MAX_OWN_ROWS {
            let admission = admit(&mut rows, &format!("key {index}"), Some("org_a"), true);
            assert!(matches!(admission, Admission::Replaces(_)), "{admission:?}");
        }
    }
}
