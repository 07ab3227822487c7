//! JSON merge patch (RFC 7396): an omitted field is kept, `null` clears it, a value replaces it.

use std::collections::BTreeMap;

/// A patch of a nullable field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Patch<T> {
    /// Omitted.
    #[default]
    Keep,
    /// `null`.
    Clear,
    /// A value.
    Set(T),
}

impl<T: Clone> Patch<T> {
    /// The field after the patch.
    pub(crate) fn apply(&self, before: &Option<T>) -> Option<T> {
        match self {
            Patch::Keep => before.clone(),
            Patch::Clear => None,
            Patch::Set(value) => Some(value.clone()),
        }
    }

    /// True unless the field was omitted.
    pub(crate) fn is_given(&self) -> bool {
        !matches!(self, Patch::Keep)
    }

    /// The value for a creation, where omitting and clearing both mean no value.
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
    /// The pairs after the patch.
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
