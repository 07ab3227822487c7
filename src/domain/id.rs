//! Identifiers of resources: `<type>_<26-character ULID>`, or a custom id with the same prefix.

use ulid::Ulid;

use super::sha256::sha256;
use super::time::Timestamp;

/// The kind of resource, event or request that an id identifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `org_…`, the id of an organization.
    Organization,
    /// `user_…`, the id of a user.
    User,
    /// `key_…`, the id of an API key.
    ApiKey,
    /// `evt_…`, the id of an audit event.
    Event,
    /// `req_…`, the id of an HTTP request.
    Request,
    /// `batch_…`, the id of a batch, contained in the audit events of all its operations.
    Batch,
}

impl Kind {
    /// Returns the prefix of all ids of this kind.
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

    /// Creates an id whose ULID consists of the time and the low 80 bits of `random`.
    pub fn new_id(self, now: Timestamp, random: u128) -> String {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let mut digits = [0; ulid::ULID_LEN];
        let digits: &str = Ulid::from_parts(millis, random).array_to_str(&mut digits);
        [self.prefix(), digits].concat()
    }

    /// True if a caller may choose this id. A custom id is the prefix followed by 1 to 64 characters of
    /// `[0-9A-Za-z-]`.
    pub(crate) fn accepts_custom_id(self, id: &str) -> bool {
        id.strip_prefix(self.prefix()).is_some_and(|rest| {
            (1..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    }

    /// Converts an id of another system. An id that is a valid custom id is kept; otherwise the prefix is
    /// added. If the result would be too long or contain other characters, it is the prefix with a hash of
    /// the foreign id. The same foreign id always gives the same id.
    pub(crate) fn convert_foreign_id(self, foreign: &str) -> String {
        let prefixed = [self.prefix(), foreign].concat();
        if self.accepts_custom_id(foreign) {
            foreign.to_owned()
        } else if self.accepts_custom_id(&prefixed) {
            prefixed
        } else {
            let hash = sha256(foreign.as_bytes());
            format!("{}x-{}", self.prefix(), hex::encode(&hash[..16]))
        }
    }
}

/// Converts the id of an audit event into the 16 bytes of its ULID, as stored in the audit table. Returns
/// `None` if `id` isn't the id of an event.
pub(crate) fn event_id_bytes(id: &str) -> Option<[u8; 16]> {
    let ulid = Ulid::from_string(id.strip_prefix(Kind::Event.prefix())?).ok()?;
    // ULIDs are case-insensitive, but only the canonical spelling is accepted, so that the requested id
    // equals the returned one.
    (ulid.to_string() == id[Kind::Event.prefix().len()..]).then(|| ulid.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_prefixed_ids_of_allowed_characters_are_accepted() {
        assert!(Kind::Organization.accepts_custom_id("org_123"));
        assert!(
            Kind::Organization.accepts_custom_id(&Kind::Organization.new_id(Timestamp::from_millis(1), 7))
        );
        let long = format!("org_{}", "a".repeat(65));
        for id in ["org_", "user_1", "org_a/b", "org_a b", "org_ä", "ORG_1", "org_a_b", long.as_str()] {
            assert!(!Kind::Organization.accepts_custom_id(id), "{id}");
        }
    }

    #[test]
    fn foreign_ids_are_converted_deterministically() {
        for (foreign, ours) in [
            ("key_2cGKbMxRyIzhCxo1Idjz8q", "key_2cGKbMxRyIzhCxo1Idjz8q"),
            ("sJoz8O4VTTtHgEE1elcONnzF8aaLoqCC", "key_sJoz8O4VTTtHgEE1elcONnzF8aaLoqCC"),
            ("3f0e7c1a-9d43-4f0b-8f4e-0a2f5b1c7d90", "key_3f0e7c1a-9d43-4f0b-8f4e-0a2f5b1c7d90"),
            // SHA-256 of "a_b".
            ("a_b", "key_x-648fa9b31bc7ff7eb914e7a7180f07e0"),
        ] {
            let adopted = Kind::ApiKey.convert_foreign_id(foreign);
            assert!(Kind::ApiKey.accepts_custom_id(&adopted));
            assert_eq!(adopted, ours);
        }
    }

    #[test]
    fn event_ids_become_bytes_only_in_canonical_spelling() {
        let id = Kind::Event.new_id(Timestamp::from_millis(1_700_000_000_000), 42);
        assert!(event_id_bytes(&id).is_some());
        assert_eq!(event_id_bytes(&id.to_lowercase()), None);
        assert_eq!(event_id_bytes("evt_1"), None);
    }
}
