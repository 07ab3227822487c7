//! Prefixes of the secrets of API keys: their form, and those that the server knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fields::{Faults, Json};
use super::rules;
use super::secret_format::is_reserved_prefix;

/// The pattern of a prefix.
pub(crate) const SECRET_PREFIX_PATTERN: &str = "^[a-z]([a-z0-9_]{0,14}[a-z0-9])?$";

/// The pattern in words, for error messages.
pub(crate) const SECRET_PREFIX_FORM: &str =
    "1 to 16 lowercase letters, digits and underscores, a letter first and no underscore last";

/// The maximum number of configured prefixes.
pub(crate) const MAX_PREFIXES: usize = 16;

/// The maximum number of prefixes that are ever configured. Removed prefixes stay known, so without a maximum the list
/// of them would grow with each change.
pub(crate) const MAX_KNOWN_PREFIXES: usize = 256;

/// The code of a fault: a prefix that isn't configured.
pub(crate) const UNKNOWN_PREFIX: &str = "UNKNOWN_PREFIX";

/// What is wrong with the prefix of a new key; `None` if it is configured.
pub(crate) fn unknown_prefix_message(configured: &[String], prefix: &str) -> Option<String> {
    let is_known = configured.iter().any(|known| known == prefix);
    (!is_known).then(|| format!("Must be one of the prefixes: {}.", configured.join(", ")))
}

/// Returns a parser of the prefix of a new key. A prefix that isn't configured is a fault, if the `configured` ones are
/// given.
pub(crate) fn prefix_parser(
    configured: Option<&[String]>,
) -> impl FnOnce(&Json, &mut Faults) -> Option<String> {
    move |json, faults| {
        let prefix = faults.expect_string(json)?;
        if let Some(message) = configured.and_then(|configured| unknown_prefix_message(configured, prefix)) {
            faults.add(UNKNOWN_PREFIX, message);
            return None;
        }
        Some(prefix.to_owned())
    }
}

/// Parses the list of configured prefixes.
pub(crate) fn parse_prefixes(json: &Json, faults: &mut Faults) -> Option<Vec<String>> {
    let items = faults.expect_array(json)?;
    if !(1..=MAX_PREFIXES).contains(&items.len()) {
        let message = format!("Must have 1 to {MAX_PREFIXES} prefixes; has {}.", items.len());
        faults.add("INVALID_LENGTH", message);
        return None;
    }
    let mut prefixes = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let Some(text) = faults.expect_string(item) else { return };
            check_prefix(text, faults);
            if prefixes.iter().any(|other| other == text) {
                faults.add("DUPLICATE", "This prefix is already in the list.");
            }
            prefixes.push(text.to_owned());
        });
    }
    Some(prefixes)
}

/// Adds a fault unless secrets can have this prefix.
fn check_prefix(text: &str, faults: &mut Faults) {
    if is_reserved_prefix(text) {
        faults.add("RESERVED", "Ids have this prefix, so secrets can't. Choose another.");
    } else if !has_prefix_form(text) {
        faults.add("INVALID_VALUE", format!("Must be {SECRET_PREFIX_FORM}."));
    }
}

/// True if the text matches [`SECRET_PREFIX_PATTERN`].
fn has_prefix_form(text: &str) -> bool {
    text.len() <= 16
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('_')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The prefixes that are or were configured. A prefix stays known after it is removed from the settings.
///
/// For each one, it is stored whether its checksums can be relied on: no secret with this prefix and a wrong checksum
/// was valid when the prefix was configured. A secret with a wrong checksum is then refused without a lookup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct KnownPrefixes(BTreeMap<String, bool>);

impl KnownPrefixes {
    /// The known prefixes of an empty database.
    pub(crate) fn of_new_database(configured: &[String]) -> Self {
        Self(configured.iter().map(|prefix| (prefix.clone(), true)).collect())
    }

    /// Parses the known prefixes of an export.
    pub(crate) fn parse(json: &Json, faults: &mut Faults) -> Option<Self> {
        let entries = faults.expect_object(json)?;
        if entries.len() > MAX_KNOWN_PREFIXES {
            let message =
                format!("At most {MAX_KNOWN_PREFIXES} prefixes are allowed; this is {}.", entries.len());
            faults.add("TOO_MANY", message);
            return None;
        }
        let mut known = Self::default();
        for (prefix, is_checked) in entries {
            faults.at_child(prefix, |faults| {
                check_prefix(prefix, faults);
                known.add(prefix, rules::parse_bool(is_checked, faults).unwrap_or_default());
            });
        }
        Some(known)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, prefix: &str) -> bool {
        self.0.contains_key(prefix)
    }

    /// True if a secret with this prefix and a wrong checksum can't be valid.
    pub(crate) fn is_checked(&self, prefix: &str) -> bool {
        self.0.get(prefix) == Some(&true)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds a prefix. A prefix whose checksums are relied on stays so.
    pub(crate) fn add(&mut self, prefix: &str, is_checked: bool) {
        *self.0.entry(prefix.to_owned()).or_default() |= is_checked;
    }

    /// The known prefix of a secret with this visible start. A prefix can contain `_`, but the digits after it can't,
    /// so the last `_` ends the prefix.
    pub(crate) fn prefix_of_start<'s>(&self, start: &'s str) -> Option<&'s str> {
        let (prefix, _) = start.rsplit_once('_')?;
        self.contains(prefix).then_some(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Vec<String>, Vec<(String, String)>> {
        let mut faults = Faults::default();
        let prefixes = parse_prefixes(&Json::parse(json.as_bytes()).unwrap(), &mut faults);
        match faults.finish(()) {
            Ok(()) => Ok(prefixes.unwrap()),
            Err(error) => {
                let details = error.details.into_iter();
                Err(details.map(|detail| (detail.pointer.unwrap(), detail.code.to_string())).collect())
            }
        }
    }

    #[test]
    fn the_list_of_prefixes_is_validated() {
        for valid in
            [r#"["a"]"#, r#"["acme_live", "acme_test", "a__1", "my_key"]"#, r#"["a123456789012345"]"#]
        {
            assert_eq!(
                serde_json::to_value(parse(valid).unwrap()).unwrap(),
                serde_json::from_str::<serde_json::Value>(valid).unwrap()
            );
        }
        let sixteen: Vec<_> = (0..16).map(|index| format!("p{index}")).collect();
        assert_eq!(parse(&serde_json::to_string(&sixteen).unwrap()), Ok(sixteen.clone()));
        let seventeen = [&sixteen[..], &["q".to_owned()]].concat();
        for (invalid, pointer, code) in [
            ("[]", "", "INVALID_LENGTH"),
            (&*serde_json::to_string(&seventeen).unwrap(), "", "INVALID_LENGTH"),
            (r#""toll""#, "", "INVALID_TYPE"),
            (r#"["toll", 7]"#, "/1", "INVALID_TYPE"),
            (r#"["toll", "acme", "toll"]"#, "/2", "DUPLICATE"),
            (r#"["toll", "key"]"#, "/1", "RESERVED"),
            (r#"["whsec"]"#, "/0", "RESERVED"),
            (r#"[""]"#, "/0", "INVALID_VALUE"),
            (r#"["1a"]"#, "/0", "INVALID_VALUE"),
            (r#"["_a"]"#, "/0", "INVALID_VALUE"),
            (r#"["a_"]"#, "/0", "INVALID_VALUE"),
            (r#"["Toll"]"#, "/0", "INVALID_VALUE"),
            (r#"["a-b"]"#, "/0", "INVALID_VALUE"),
            (r#"["é"]"#, "/0", "INVALID_VALUE"),
            (r#"["a1234567890123456"]"#, "/0", "INVALID_VALUE"),
        ] {
            assert_eq!(parse(invalid), Err(vec![(pointer.to_owned(), code.to_owned())]), "{invalid}");
        }
    }

    #[test]
    fn the_last_underscore_of_a_start_ends_the_prefix() {
        let known = KnownPrefixes::of_new_database(&["acme".to_owned(), "acme_live".to_owned()]);
        assert_eq!(known.prefix_of_start("acme_a1B2"), Some("acme"));
        assert_eq!(known.prefix_of_start("acme_live_a1B2"), Some("acme_live"));
        // 4 digits that continue like the other prefix.
        assert_eq!(known.prefix_of_start("acme_live"), Some("acme"));
        for foreign in ["", "acme", "acme_test_a1B2", "toll_a1B2", "x_acme_a1B2", "_a1B2"] {
            assert_eq!(known.prefix_of_start(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn known_prefixes_of_an_export_are_validated() {
        let parse = |json: &str| {
            let mut faults = Faults::default();
            let known = KnownPrefixes::parse(&Json::parse(json.as_bytes()).unwrap(), &mut faults);
            faults.finish(()).map(|()| known.unwrap())
        };
        let known = parse(r#"{"acme": true, "acme_live": false}"#).unwrap();
        assert!(known.is_checked("acme") && known.contains("acme_live") && !known.is_checked("acme_live"));
        let many: BTreeMap<_, _> = (0..257).map(|index| (format!("p{index}"), true)).collect();
        for invalid in [
            r#"["acme"]"#,
            r#"{"acme": 1}"#,
            r#"{"key": true}"#,
            r#"{"Acme": true}"#,
            &serde_json::to_string(&many).unwrap(),
        ] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_checked_prefix_stays_checked() {
        let mut known = KnownPrefixes::default();
        known.add("acme", false);
        assert!(known.contains("acme") && !known.is_checked("acme"));
        known.add("acme", true);
        known.add("acme", false);
        assert!(known.is_checked("acme") && known.len() == 1);
        assert!(!known.is_checked("other"));
    }
}
