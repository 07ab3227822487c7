//! JSON merge patch (RFC 7396): an omitted field is kept, `null` clears the field, a value replaces its
//! content.

use std::collections::BTreeMap;

/// A merge patch of one nullable field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Patch<T> {
    /// The patch omits the field, so its value is kept.
    #[default]
    Keep,
    /// The patch contains `null`, so the field's value is removed.
    Clear,
    /// The patch contains this new value for the field.
    Set(T),
}

impl<T: Clone> Patch<T> {
    /// Returns the field's value after the patch.
    pub(crate) fn apply(&self, before: &Option<T>) -> Option<T> {
        match self {
            Patch::Keep => before.clone(),
            Patch::Clear => None,
            Patch::Set(value) => Some(value.clone()),
        }
    }

    /// True if the patch contains the field, as a value or `null`.
    pub(crate) fn is_given(&self) -> bool {
        !matches!(self, Patch::Keep)
    }

    /// Returns the value for a new resource, for which an omitted field and `null` both mean no value.
    pub(crate) fn into_option(self) -> Option<T> {
        match self {
            Patch::Set(value) => Some(value),
            Patch::Keep | Patch::Clear => None,
        }
    }
}

/// Key-value pairs that callers attach to a resource.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A patch of [`Metadata`], merged pair by pair; `None` removes a pair.
pub(crate) type MetadataPatch = Patch<BTreeMap<String, Option<String>>>;

impl MetadataPatch {
    /// Returns the metadata after the patch.
    pub(crate) fn merge(&self, before: &Metadata) -> Metadata {
        match self {
            Patch::Keep => before.clone(),
            Patch::Clear => Metadata::new(),
            Patch::Set(pairs) => {
                let mut after = before.clone();
                for (name, value) in pairs {
                    match value {
                        Some(value) => after.insert(name.clone(), value.clone()),
                        None => after.remove(name),
                    };
                }
                after
            }
        }
    }
}
