//! The limits that apply to a key.

use super::decision::{LimitOwner, OwnedLimits};
use super::key_record::{KeyRecord, RecordStates};
use super::settings::SettingsGuard;
use crate::domain::api_key::Credential;
use crate::domain::limits::Limit;
use crate::domain::meter::{Cost, units_of};
use crate::domain::settings::Settings;

/// The limits that apply to a key, with their states.
pub(super) fn owned_limits<'a>(
    settings: &'a SettingsGuard,
    record: &'a KeyRecord,
    states: &'a RecordStates,
) -> (OwnedLimits<'a>, Option<OwnedLimits<'a>>) {
    let (key_limits, organization_limits) = effective_limits(&settings.settings, &record.credential);
    let version = match record.freshness.loaded_at() {
        // A record that isn't cached.
        0 => 0,
        loaded_at => loaded_at.max(settings.loaded_at()),
    };
    let key = OwnedLimits { owner: LimitOwner::Key, limits: key_limits, version, state: &states.key };
    let state =
        states.organization.as_ref().filter(|state| !organization_limits.is_empty() || state.has_windows());
    let owner = LimitOwner::Organization;
    (key, state.map(|state| OwnedLimits { owner, limits: organization_limits, version, state }))
}

/// The limits of a key and of its organization: their own, or else those of the organization's plan. A platform key
/// has no plan.
fn effective_limits<'a>(settings: &'a Settings, credential: &'a Credential) -> (&'a [Limit], &'a [Limit]) {
    let plan = credential.organization.as_ref().and_then(|tenant| settings.plan(&tenant.plan));
    let key_limits = credential.key.limits.as_deref().or(plan.map(|plan| plan.key_limits.as_slice()));
    let own = credential.organization.as_ref().and_then(|organization| organization.limits.as_deref());
    let organization_limits = own.or(plan.map(|plan| plan.organization_limits.as_slice()));
    (key_limits.unwrap_or_default(), organization_limits.unwrap_or_default())
}

/// The limits that a report of usage charges, as they stood when it arrived. They are copied, because a report may wait,
/// and a key can take a hundred times their memory.
pub(crate) struct ReportedLimits {
    key: Vec<Limit>,
    organization: Vec<Limit>,
    states: RecordStates,
}

impl ReportedLimits {
    /// The limits on the meters of these costs.
    pub(super) fn new(
        settings: &Settings,
        credential: &Credential,
        states: RecordStates,
        costs: &[Cost],
    ) -> Self {
        let charged = |limits: &[Limit]| -> Vec<Limit> {
            limits.iter().filter(|limit| units_of(costs, limit.meter).is_some()).copied().collect()
        };
        let (key, organization) = effective_limits(settings, credential);
        Self { key: charged(key), organization: charged(organization), states }
    }

    /// The limits of the key and of its organization, with their states. The lists lack other meters, so they have no
    /// version.
    pub(super) fn owned(&self) -> (OwnedLimits<'_>, Option<OwnedLimits<'_>>) {
        let Self { key, organization, states } = self;
        let key = OwnedLimits { owner: LimitOwner::Key, limits: key, version: 0, state: &states.key };
        let owner = LimitOwner::Organization;
        let owned = |state| OwnedLimits { owner, limits: organization, version: 0, state };
        (key, states.organization.as_ref().map(owned))
    }
}
