//! Rules for single values that more than one resource has. Each reads a JSON value and notes what is
//! wrong with it.

use std::collections::BTreeMap;

use super::fields::{Faults, Json};
use super::id::Kind;
use super::patch::Metadata;
use super::time::Timestamp;

/// Pairs of metadata that a resource may have.
pub(crate) const MAX_METADATA: usize = 50;

/// A name: 1 to 200 characters, no control characters.
pub(crate) fn name(json: &Json, faults: &mut Faults) -> Option<String> {
    text(json, faults, 200)
}

/// A text of 1 to `max` characters without control characters.
pub(crate) fn text(json: &Json, faults: &mut Faults, max: usize) -> Option<String> {
    let text = faults.text(json)?;
    let length = text.chars().count();
    if !(1..=max).contains(&length) {
        faults.add("INVALID_LENGTH", format!("Must have 1 to {max} characters; this has {length}."));
        return None;
    }
    if text.chars().any(char::is_control) {
        faults.add("INVALID_CHARACTER", "Must not contain control characters.");
        return None;
    }
    Some(text.to_owned())
}

/// An e-mail address. Whether it exists only a mail can tell, so this looks no closer than needed:
/// something before and behind one `@`, no spaces, at most 254 characters (RFC 5321).
pub(crate) fn email(json: &Json, faults: &mut Faults) -> Option<String> {
    let text = faults.text(json)?;
    let fits = text.chars().count() <= 254
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
        && matches!(text.split_once('@'), Some((local, host)) if !local.is_empty() && !host.is_empty() && !host.contains('@'));
    if fits {
        return Some(text.to_owned());
    }
    faults.add("INVALID_EMAIL", "Must be an e-mail address such as admin@example.com.");
    None
}

/// Folds a text for comparison without regard to case.
pub(crate) fn casefold(text: &str) -> String {
    text.to_lowercase()
}

/// A time in RFC 3339.
pub(crate) fn time(json: &Json, faults: &mut Faults) -> Option<Timestamp> {
    let time = Timestamp::parse(faults.text(json)?);
    if time.is_none() {
        faults.add("INVALID_TIME", "Must be a time in RFC 3339, such as 2026-11-23T07:08:09Z.");
    }
    time
}

/// A whole number from `least` to `max`.
pub(crate) fn whole(min: u64, max: u64) -> impl FnOnce(&Json, &mut Faults) -> Option<u64> {
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

/// A caller's own id of the kind.
pub(crate) fn custom_id(kind: Kind) -> impl FnOnce(&Json, &mut Faults) -> Option<String> {
    move |json, faults| {
        let id = faults.text(json)?;
        if kind.accepts(id) {
            return Some(id.to_owned());
        }
        let prefix = kind.prefix();
        faults.add("INVALID_ID", format!("Must match ^{prefix}[0-9A-Za-z-]{{1,64}}$."));
        None
    }
}

/// One of the names in a table, else a fault that lists them.
pub(crate) fn one_of<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl FnOnce(&Json, &mut Faults) -> Option<T> {
    move |json, faults| {
        let text = faults.text(json)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            faults.add("INVALID_VALUE", format!("Must be one of: {}.", names.join(", ")));
        }
        found
    }
}

/// Metadata of a new resource: at most 50 pairs, names of 1 to 40 characters, values strings of at most 500.
pub(crate) fn metadata(json: &Json, faults: &mut Faults) -> Option<Metadata> {
    let pairs = metadata_patch(json, faults)?;
    let mut metadata = Metadata::new();
    for (name, value) in pairs {
        match value {
            Some(value) => drop(metadata.insert(name, value)),
            None => faults.nested(&name, |faults| faults.add("INVALID_TYPE", "Must be a string.")),
        }
    }
    metadata_size(&metadata, faults);
    Some(metadata)
}

/// Metadata in a merge patch, where `null` takes a pair away.
pub(crate) fn metadata_patch(json: &Json, faults: &mut Faults) -> Option<BTreeMap<String, Option<String>>> {
    let mut pairs = BTreeMap::new();
    for (name, value) in faults.object(json)? {
        faults.nested(name, |faults| {
            if !(1..=40).contains(&name.chars().count()) || name.chars().any(char::is_control) {
                faults.add("INVALID_LENGTH", "Names have 1 to 40 characters and no control characters.");
            }
            let value = match value {
                Json::Null => None,
                value => match faults.text(value) {
                    Some(text) => Some(text),
                    // Not put down as `null`, which may be a second fault.
                    None => return,
                },
            };
            if value.is_some_and(|value| value.chars().count() > 500 || value.contains('\0')) {
                faults.add("INVALID_LENGTH", "Values have at most 500 characters and no NUL.");
            }
            pairs.insert(name.clone(), value.map(str::to_owned));
        });
    }
    Some(pairs)
}

/// Notes a fault when there are too many pairs; also asked after a patch was merged.
pub(crate) fn metadata_size(metadata: &Metadata, faults: &mut Faults) {
    if metadata.len() > MAX_METADATA {
        faults.add("TOO_MANY", format!("At most {MAX_METADATA} pairs; this would be {}.", metadata.len()));
    }
}

/// Yes or no.
pub(crate) fn flag(json: &Json, faults: &mut Faults) -> Option<bool> {
    match json {
        Json::Bool(flag) => Some(*flag),
        _ => {
            faults.add("INVALID_TYPE", "Must be true or false.");
            None
        }
    }
}
