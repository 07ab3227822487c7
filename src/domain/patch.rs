//! JSON merge patch (RFC 7396): a field that is left out stays, `null` clears it, a value replaces it.

use std::collections::BTreeMap;

/// What a patch says of a field that may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Patch<T> {
    /// Left out.
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

    /// Was anything said at all?
    pub(crate) fn is_given(&self) -> bool {
        !matches!(self, Patch::Keep)
    }

    /// For a creation, where keeping and clearing are the same: nothing there.
    pub(crate) fn into_option(self) -> Option<T> {
        match self {
            Patch::Set(value) => Some(value),
            Patch::Keep | Patch::Clear => None,
        }
    }
}

/// Names and values that callers attach to a resource.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A patch of [`Metadata`]: it is merged pair by pair, `null` takes a pair away.
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
