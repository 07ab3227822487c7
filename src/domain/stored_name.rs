//! Names in stored records that another version of the program may have written.

use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// The name of a variant of `T`. A name that this version doesn't know is kept as text, so that the record stays
/// readable and is returned as it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum StoredName<T> {
    Known(T),
    Unknown(String),
}

impl<T: Copy + Into<&'static str>> StoredName<T> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            StoredName::Known(variant) => (*variant).into(),
            StoredName::Unknown(name) => name,
        }
    }
}

impl<T> From<T> for StoredName<T> {
    fn from(variant: T) -> Self {
        StoredName::Known(variant)
    }
}

impl<T: PartialEq> PartialEq<T> for StoredName<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, StoredName::Known(variant) if variant == other)
    }
}

impl<T: Copy + Into<&'static str>> Serialize for StoredName<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: FromStr> Deserialize<'de> for StoredName<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(name.parse().map_or(StoredName::Unknown(name), StoredName::Known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::action::Action;
    use crate::domain::audit::Event;

    #[test]
    fn a_name_is_written_as_it_was_read() {
        let read = |json| serde_json::from_str::<StoredName<Action>>(json).unwrap();
        let unknown = r#""api_key.of_a_later_version""#;
        assert_eq!(read(r#""api_key.create""#), Action::CreateApiKey);
        for json in [r#""api_key.create""#, unknown, r#""""#] {
            assert_eq!(serde_json::to_string(&read(json)).unwrap(), json);
        }
    }

    #[test]
    fn an_event_of_another_version_is_written_as_it_was_read() {
        let json = concat!(
            r#"{"id":"evt_1","seq":1,"occurred_at":"2026-11-23T07:08:09.000Z","organization_id":null,"#,
            r#""actor":{"type":"robot","id":null,"name":null,"user_id":null},"action":"robot.start","#,
            r#""access":"execute","target":{"type":"robot","id":"1","name":null},"outcome":"unclear","#,
            r#""code":null,"count":1,"changes":[],"context":{"request_id":null,"method":null,"path":null,"#,
            r#""status":null,"ip":null,"user_agent":null,"batch_id":null}}"#,
        );
        let event: Event = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
    }
}
