//! Parsers of values that several resources share. Each parser takes a JSON value and records its faults.

use std::collections::BTreeMap;
use std::str::FromStr;

use strum::VariantNames;

use super::fields::{Faults, Json};
use super::id::Kind;
use super::patch::Metadata;
use super::time::Timestamp;
use super::unicode;

/// The maximum number of metadata key-value pairs of a resource.
pub(crate) const MAX_METADATA_PAIRS: usize = 50;

/// Parses a name: 1 to 200 characters, one of them visible, without control characters, also none that change the
/// direction of text.
pub(crate) fn parse_name(json: &Json, faults: &mut Faults) -> Option<String> {
    let name = parse_text(json, faults, 200)?;
    if name.chars().any(unicode::is_bidi_control) {
        faults.add("INVALID_CHARACTER", "Must not contain characters that change the direction of text.");
        return None;
    }
    if !name.chars().any(unicode::is_visible) {
        faults.add("INVALID_CHARACTER", "Must contain a visible character.");
        return None;
    }
    Some(name)
}

/// Parses a text of 1 to `max` characters without control characters.
pub(crate) fn parse_text(json: &Json, faults: &mut Faults, max: usize) -> Option<String> {
    let text = faults.expect_string(json)?;
    check_text(text, faults, max).then(|| text.to_owned())
}

/// True if the text has 1 to `max` characters and no control characters; otherwise records a fault.
pub(crate) fn check_text(text: &str, faults: &mut Faults, max: usize) -> bool {
    let length = text.chars().count();
    if !(1..=max).contains(&length) {
        faults.add("INVALID_LENGTH", format!("Must have 1 to {max} characters; has {length}."));
        return false;
    }
    if text.chars().any(char::is_control) {
        faults.add("INVALID_CHARACTER", "Must not contain control characters.");
        return false;
    }
    true
}

/// Parses a text that clients sent as the secret of a key. It can be anything but U+0000, which no string contains.
pub(crate) fn parse_secret(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.expect_unstored_string(json)?;
    if text.contains('\0') {
        faults.add("INVALID_CHARACTER", "Must not contain U+0000.");
        return None;
    }
    Some(text.to_owned())
}

/// Parses an email address. The check is minimal, because only sending mail can show that an address exists:
/// exactly one `@` with text before and after it, no whitespace or invisible characters, at most 254 characters (RFC 5321).
pub(crate) fn parse_email(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.expect_string(json)?;
    let is_valid = text.chars().count() <= 254
        && !text.chars().any(|c| c.is_control() || c.is_whitespace() || unicode::is_invisible(c))
        && matches!(text.split_once('@'), Some((local, host)) if !local.is_empty() && !host.is_empty() && !host.contains('@'));
    if is_valid {
        return Some(text.to_owned());
    }
    faults.add("INVALID_EMAIL", "Must be an email address, such as admin@example.com.");
    None
}

/// Parses an RFC 3339 timestamp.
pub(crate) fn parse_time(json: &Json, faults: &mut Faults) -> Option<Timestamp> {
    let time = Timestamp::parse(faults.expect_string(json)?);
    if time.is_none() {
        faults.add("INVALID_TIME", "Must be an RFC 3339 timestamp, such as 2026-11-23T07:08:09Z.");
    }
    time
}

/// Returns a parser of whole numbers from `min` to `max`.
pub(crate) fn integer_parser(min: u64, max: u64) -> impl FnOnce(&Json, &mut Faults) -> Option<u64> {
    move |json, faults| {
        let number = match json {
            Json::Number(number) => number.as_u64(),
            _ => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            faults.add("INVALID_VALUE", format!("Must be a whole number from {min} to {max}."));
        }
        number
    }
}

/// Returns a parser of custom ids of this kind.
pub(crate) fn custom_id_parser(kind: Kind) -> impl FnOnce(&Json, &mut Faults) -> Option<String> {
    move |json, faults| {
        let id = faults.expect_string(json)?;
        if kind.accepts_custom_id(id) {
            return Some(id.to_owned());
        }
        let prefix = kind.prefix();
        faults.add("INVALID_ID", format!("Must match ^{prefix}[0-9A-Za-z-]{{1,64}}$."));
        None
    }
}

/// Parses the name of a variant of `T`. For any other text it records a fault that lists the names.
pub(crate) fn parse_one_of<T: FromStr + VariantNames>(json: &Json, faults: &mut Faults) -> Option<T> {
    match parse_variant(faults.expect_string(json)?) {
        Ok(variant) => Some(variant),
        Err(message) => {
            faults.add("INVALID_VALUE", message);
            None
        }
    }
}

/// Parses the name of a variant of `T`. The error is a message that lists the names.
pub(super) fn parse_variant<T: FromStr + VariantNames>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("Must be one of: {}.", T::VARIANTS.join(", ")))
}

/// Parses the metadata of a new resource: at most 50 key-value pairs with names of 1 to 40 characters and
/// string values of at most 500 characters.
pub(crate) fn parse_metadata(json: &Json, faults: &mut Faults) -> Option<Metadata> {
    let pairs = parse_metadata_patch(json, faults)?;
    let mut metadata = Metadata::new();
    for (name, value) in pairs {
        match value {
            Some(value) => drop(metadata.insert(name, value)),
            None => faults.at_child(&name, |faults| faults.add("INVALID_TYPE", "Must be a string.")),
        }
    }
    check_metadata_size(&metadata, faults);
    Some(metadata)
}

/// Parses metadata in a merge patch, in which the value `null` removes a pair.
pub(crate) fn parse_metadata_patch(
    json: &Json,
    faults: &mut Faults,
) -> Option<BTreeMap<String, Option<String>>> {
    let mut pairs = BTreeMap::new();
    for (name, value) in faults.expect_object(json)? {
        faults.at_child(name, |faults| {
            if !(1..=40).contains(&name.chars().count()) || name.chars().any(char::is_control) {
                faults.add("INVALID_LENGTH", "Names must have 1 to 40 characters and no control characters.");
            }
            let value = match value {
                Json::Null => None,
                value => match faults.expect_string(value) {
                    Some(text) => Some(text),
                    // The pair is skipped. Treating its value as `null` could cause a second fault.
                    None => return,
                },
            };
            if value.is_some_and(|value| value.chars().count() > 500 || value.contains('\0')) {
                faults.add("INVALID_LENGTH", "Values must have at most 500 characters and no NUL.");
            }
            pairs.insert(name.clone(), value.map(str::to_owned));
        });
    }
    Some(pairs)
}

/// Records a fault if the metadata has too many pairs. Also called after merging a patch.
pub(crate) fn check_metadata_size(metadata: &Metadata, faults: &mut Faults) {
    if metadata.len() > MAX_METADATA_PAIRS {
        faults.add(
            "TOO_MANY",
            format!("At most {MAX_METADATA_PAIRS} pairs are allowed; this would be {}.", metadata.len()),
        );
    }
}

/// Parses a boolean.
pub(crate) fn parse_bool(json: &Json, faults: &mut Faults) -> Option<bool> {
    match json {
        Json::Bool(flag) => Some(*flag),
        _ => {
            faults.add("INVALID_TYPE", "Must be true or false.");
            None
        }
    }
}
