//! A cached key: its credential, and the states of the key and its organization.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::subject_state::{SubjectState, SubjectStates};
use super::version_clock::Freshness;
use crate::domain::api_key::Credential;
use crate::domain::subject::Subject;
use crate::error::Result;

/// A cached key. The states are shared with other records of the same key and organization, and outlive this one.
pub struct KeyRecord {
    /// The key and all other data that decides whether it is valid.
    pub credential: Arc<Credential>,
    pub(super) freshness: Freshness,
    /// Looked up by the first verification, so that keys that only call the Admin API need none.
    states: OnceLock<RecordStates>,
}

/// The states of a key and of its organization; the latter is `None` for a platform key.
#[derive(Clone)]
pub(crate) struct RecordStates {
    pub(super) key: Arc<SubjectState>,
    pub(super) organization: Option<Arc<SubjectState>>,
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord").field("credential", &self.credential).finish_non_exhaustive()
    }
}

impl KeyRecord {
    pub(super) fn new(credential: Credential, freshness: Freshness) -> Self {
        Self { credential: Arc::new(credential), freshness, states: OnceLock::new() }
    }

    /// A record that isn't cached.
    pub fn uncached(credential: Credential) -> Self {
        Self::new(credential, Freshness::never())
    }

    /// The states of the key and its organization.
    ///
    /// # Errors
    /// `UNAVAILABLE` when too many keys are in use.
    pub(super) fn states(&self, all: &SubjectStates, monotonic: Duration) -> Result<&RecordStates> {
        if let Some(states) = self.states.get() {
            return Ok(states);
        }
        let Credential { seq, organization, .. } = &*self.credential;
        let organization = organization.as_ref().map(|organization| Subject::Organization(organization.seq));
        let parent = organization.unwrap_or(Subject::Organization(0));
        let states = RecordStates {
            key: all.get_or_insert(Subject::Key(*seq), parent, monotonic)?,
            organization: organization
                .map(|subject| all.get_or_insert(subject, subject, monotonic))
                .transpose()?,
        };
        Ok(self.states.get_or_init(|| states))
    }
}
