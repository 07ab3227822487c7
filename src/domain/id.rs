//! Identifiers: `<type>_<26-character ULID>`, or a caller's own behind the same prefix.

use ulid::Ulid;

use super::chain;
use super::time::Timestamp;

/// What an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `org_…`
    Organization,
    /// `user_…`
    User,
    /// `key_…`
    ApiKey,
    /// `evt_…`, an audit event.
    Event,
    /// `req_…`, a request.
    Request,
    /// `batch_…`, what the operations of one batch share in the audit log.
    Batch,
}

impl Kind {
    /// What every id of this kind begins with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Kind::Organization => "org_",
            Kind::User => "user_",
            Kind::ApiKey => "key_",
            Kind::Event => "evt_",
            Kind::Request => "req_",
            Kind::Batch => "batch_",
        }
    }

    /// A new id from a time and 80 bits of randomness.
    pub fn make(self, now: Timestamp, random: u128) -> String {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let mut digits = [0; ulid::ULID_LEN];
        let digits: &str = Ulid::from_parts(millis, random).array_to_str(&mut digits);
        [self.prefix(), digits].concat()
    }

    /// Is this the form of an id that a caller may choose: the prefix, then 1 to 64 of `[0-9A-Za-z-]`?
    pub(crate) fn accepts(self, id: &str) -> bool {
        id.strip_prefix(self.prefix()).is_some_and(|rest| {
            (1..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    }

    /// Our id for what has this one in another system: the same if it has our form, else behind our prefix;
    /// one that can't stand there gives way to a hash of it. The same one always becomes the same.
    pub(crate) fn adopt(self, foreign: &str) -> String {
        let prefixed = [self.prefix(), foreign].concat();
        if self.accepts(foreign) {
            foreign.to_owned()
        } else if self.accepts(&prefixed) {
            prefixed
        } else {
            let hash = ring::digest::digest(&ring::digest::SHA256, foreign.as_bytes());
            format!("{}x-{}", self.prefix(), chain::hex(&hash.as_ref()[..16]))
        }
    }
}

/// The 16 bytes of an event's ULID, as the audit table keeps them; `None` when it isn't such an id.
pub(crate) fn event_bytes(id: &str) -> Option<[u8; 16]> {
    let ulid = Ulid::from_string(id.strip_prefix(Kind::Event.prefix())?).ok()?;
    // One spelling only: what was asked for must be what would be answered.
    (ulid.to_string() == id[Kind::Event.prefix().len()..]).then(|| ulid.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_the_contracts_form() {
        assert!(Kind::Organization.accepts("org_123"));
        assert!(Kind::Organization.accepts(&Kind::Organization.make(Timestamp::from_millis(1), 7)));
        let long = format!("org_{}", "a".repeat(65));
        for id in ["org_", "user_1", "org_a/b", "org_a b", "org_ä", "ORG_1", "org_a_b", long.as_str()] {
            assert!(!Kind::Organization.accepts(id), "{id}");
        }
    }

    #[test]
    fn ids_of_other_systems_become_ours_and_always_the_same() {
        for (foreign, ours) in [
            ("key_2cGKbMxRyIzhCxo1Idjz8q", "key_2cGKbMxRyIzhCxo1Idjz8q"),
            ("sJoz8O4VTTtHgEE1elcONnzF8aaLoqCC", "key_sJoz8O4VTTtHgEE1elcONnzF8aaLoqCC"),
            ("3f0e7c1a-9d43-4f0b-8f4e-0a2f5b1c7d90", "key_3f0e7c1a-9d43-4f0b-8f4e-0a2f5b1c7d90"),
            // SHA-256 of "a_b".
            ("a_b", "key_x-648fa9b31bc7ff7eb914e7a7180f07e0"),
        ] {
            let adopted = Kind::ApiKey.adopt(foreign);
            assert!(Kind::ApiKey.accepts(&adopted));
            assert_eq!(adopted, ours);
        }
    }

    #[test]
    fn event_ids_go_to_bytes_and_only_in_one_spelling() {
        let id = Kind::Event.make(Timestamp::from_millis(1_700_000_000_000), 42);
        assert!(event_bytes(&id).is_some());
        assert_eq!(event_bytes(&id.to_lowercase()), None);
        assert_eq!(event_bytes("evt_1"), None);
    }
}
