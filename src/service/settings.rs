//! The platform settings: reads and changes the settings, and checks the rules that the settings impose on
//! other changes, in the transaction of the change.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::operation::{Answer, Operation};
use super::{RequestContext, etag, secret_prefixes};
use crate::app::App;
use crate::domain::action::TargetKind;
use crate::domain::api_key::ApiKey;
use crate::domain::audit::AuditEntry;
use crate::domain::fields::{Faults, Json};
use crate::domain::import::NewSettings;
use crate::domain::invalidation::Invalidation;
use crate::domain::key_policy;
use crate::domain::limits::{self, Limit};
use crate::domain::meter::Meter;
use crate::domain::organization::{Organization, UNKNOWN_PLAN, unknown_plan_message};
use crate::domain::secret_prefix::KnownPrefixes;
use crate::domain::settings::{
    self, Plan, SETTINGS_ID, STANDARD_PLAN, Settings, SettingsPatch, StoredSettings,
};
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::store::{self, db::Tx};

/// The value of the `Retry-After` header for changes refused in read-only mode, in seconds.
const RETRY_AFTER_SECONDS: u64 = 60;

/// The platform settings with their ETag.
pub(crate) struct SettingsWithEtag {
    pub(crate) settings: Settings,
    /// The strong ETag of the settings.
    pub(crate) etag: String,
}

impl SettingsWithEtag {
    fn into_answer(self) -> Result<Answer> {
        Ok(Answer::ok(&self.settings)?.with_etag(self.etag))
    }
}

impl From<&StoredSettings> for SettingsWithEtag {
    fn from(current: &StoredSettings) -> Self {
        // The ETag includes the time of the last update, because a restored database may reach the same
        // revision with other settings.
        Self { settings: current.settings.clone(), etag: etag(current.updated_at, current.revision) }
    }
}

/// Reads a request body that names a plan. Whether it exists is decided in the transaction ([`ensure_plan_exists`]): an
/// earlier operation of a batch may add it. Only if the body has other faults, an unknown plan is reported together with
/// these.
pub(super) async fn read_with_plan<T>(app: &App, read: impl Fn(Option<&Settings>) -> Result<T>) -> Result<T> {
    match read(None) {
        Err(_) => read(Some(&app.settings.get().await?.settings)),
        input => input,
    }
}

/// Prepares reading the platform settings. Only platform keys can read the settings.
pub(crate) fn get() -> Operation {
    Operation::new(|tx, caller| {
        caller.require_platform()?;
        let current = SettingsWithEtag::from(&*store::settings::get(tx)?);
        Ok((current.into_answer()?, vec![audit_entry()]))
    })
}

/// Prepares a change of the platform settings. Only platform keys can update the settings, and the request must have an
/// `If-Match` header.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(crate) fn update(ctx: &Arc<RequestContext>, body: &Json) -> Result<Operation> {
    let patch = SettingsPatch::read(body)?;
    let context = ctx.clone();
    Ok(Operation::new(move |tx, caller| {
        caller.require_platform()?;
        let before = store::settings::get(tx)?;
        if context.if_match.is_none() {
            let message = "If-Match is required. Send the ETag of the configuration you last read.";
            return Err(Error::new(Code::PreconditionRequired, message));
        }
        let tagged = SettingsWithEtag::from(&*before);
        context.require_if_match(&tagged.etag)?;
        let after = patch.apply(&before.settings)?;
        let changed = settings::changed_settings(&before.settings, &after);
        if changed.is_empty() {
            return Ok((tagged.into_answer()?, vec![audit_entry()]));
        }
        let known_prefixes =
            secret_prefixes::add_configured(tx, &before, &after.keys.prefixes, context.expiry_time)?;
        let tagged = replace_settings(tx, &before, after, known_prefixes, context.now)?;
        Ok((tagged.into_answer()?, vec![audit_entry().with_changes(changed)]))
    }))
}

/// Replaces the platform settings `before` with `after`.
fn replace_settings(
    tx: &Tx<'_>,
    before: &StoredSettings,
    after: Settings,
    known_prefixes: KnownPrefixes,
    now: Timestamp,
) -> Result<SettingsWithEtag> {
    for plan in before.settings.plans.keys().filter(|plan| !after.plans.contains_key(*plan)) {
        ensure_plan_removable(tx, plan)?;
    }
    for meter in before.settings.meters.iter().filter(|meter| !after.meters.contains(meter)) {
        ensure_meter_removable(tx, *meter)?;
    }
    let revision = before.revision + 1;
    let current = StoredSettings { settings: after, known_prefixes, revision, updated_at: now };
    let tagged = SettingsWithEtag::from(&current);
    store::settings::update(tx, current)?;
    tx.invalidate(Invalidation::Id(SETTINGS_ID.to_owned()));
    Ok(tagged)
}

/// Imports the platform settings. Returns `ALREADY_EXISTS` if the stored settings differ from the imported
/// ones and were changed since the database was created.
pub(super) fn import_settings(
    tx: &Tx<'_>,
    new: &NewSettings,
    now: Timestamp,
    expiry_time: Timestamp,
) -> Result<Vec<AuditEntry>> {
    let before = store::settings::get(tx)?;
    let after = new.patch.apply(&before.settings)?;
    let known_prefixes = secret_prefixes::add_imported(tx, &before, new, &after.keys, expiry_time)?;
    let changed = settings::changed_settings(&before.settings, &after);
    if changed.is_empty() && known_prefixes == before.known_prefixes {
        return Ok(Vec::new());
    }
    if before.revision > 1 && !changed.is_empty() {
        let fields: Vec<_> = changed.iter().map(|change| change.field.as_str()).collect();
        let fields = fields.join(", ");
        let message =
            format!("The settings were changed here and differ in: {fields}. They were not changed.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    replace_settings(tx, &before, after, known_prefixes, now)?;
    Ok(vec![audit_entry().with_changes(changed)])
}

/// Returns `CONFLICT` if this plan can't be removed: it is the default plan, or an organization is on the
/// plan.
fn ensure_plan_removable(tx: &Tx<'_>, plan: &str) -> Result<()> {
    if plan == STANDARD_PLAN {
        let message = "The plan standard can't be removed: it is the default for new organizations.";
        return Err(Error::new(Code::Conflict, message));
    }
    if store::organizations::any_organization_on_plan(tx, plan)? {
        let message =
            format!("At least one organization is on the plan {plan}. Move it to another plan first.");
        return Err(Error::new(Code::Conflict, message));
    }
    Ok(())
}

/// Returns `CONFLICT` if a key that isn't revoked or an organization has a limit on this meter. The limits of plans are
/// checked with the settings.
fn ensure_meter_removable(tx: &Tx<'_>, meter: Meter) -> Result<()> {
    let Some(id) = store::limit_meters::find_user_of_meter(tx, meter)? else { return Ok(()) };
    let message = format!("{id} has a limit on the meter {meter}. Remove the limits on {meter} first.");
    Err(Error::new(Code::Conflict, message))
}

/// Returns `UNKNOWN_METER` unless the meters of all these limits exist in the transaction that sets the limits.
pub(super) fn ensure_meters_exist(tx: &Tx<'_>, limits: Option<&[Limit]>) -> Result<()> {
    let Some(limits) = limits else { return Ok(()) };
    let current = store::settings::get(tx)?;
    let mut faults = Faults::default();
    faults.at_child("limits", |faults| limits::check_meters(limits, &current.settings.meters, faults));
    faults.finish(()).map_err(Error::with_code_of_details)
}

fn audit_entry() -> AuditEntry {
    AuditEntry::for_resource(None, TargetKind::Config, "config", "configuration")
}

/// Returns `INVALID_REQUEST` unless this plan exists in the transaction that assigns the plan.
pub(super) fn ensure_plan_exists(tx: &Tx<'_>, plan: &str) -> Result<()> {
    let current = store::settings::get(tx)?;
    let Some(message) = unknown_plan_message(&current.settings, plan) else { return Ok(()) };
    Err(Error::invalid_request(vec![ErrorDetail {
        pointer: Some("/plan".to_owned()),
        parameter: None,
        code: UNKNOWN_PLAN.into(),
        message,
    }]))
}

/// Returns `CONFLICT` if the organization has more unrevoked API keys than its plan allows (`max_keys`). The
/// check runs after the new key was inserted, in the same transaction.
pub(super) fn check_key_limit(tx: &Tx<'_>, organization: &Organization) -> Result<()> {
    let max = plan_of(tx, organization)?.max_keys;
    if max == 0 || store::overview::count_unrevoked_keys(tx, &organization.id)? <= max.into() {
        return Ok(());
    }
    Err(plan_limit_error(organization, "max_keys", max, "Revoke a key"))
}

/// Returns `CONFLICT` if the organization has more members than its plan allows (`max_members`). The check
/// runs after the new member was inserted, in the same transaction.
pub(super) fn check_member_limit(tx: &Tx<'_>, organization: &Organization) -> Result<()> {
    let max = plan_of(tx, organization)?.max_members;
    if max == 0 || store::overview::count_users(tx, Some(&organization.id))? <= max.into() {
        return Ok(());
    }
    Err(plan_limit_error(organization, "max_members", max, "Remove a member"))
}

fn plan_of(tx: &Tx<'_>, organization: &Organization) -> Result<Plan> {
    let current = store::settings::get(tx)?;
    let plan = current.settings.plan(&organization.plan).cloned();
    plan.ok_or_else(|| Error::internal("the plan standard is missing from the settings"))
}

fn plan_limit_error(organization: &Organization, setting: &str, max: u32, remedy: &str) -> Error {
    let plan = &organization.plan;
    let message = format!(
        "The limit of the plan {plan} is reached: its {setting} is {max}. {remedy}, or move the organization to \
         a larger plan."
    );
    Error::new(Code::Conflict, message)
}

/// Returns an error if a created or changed API key violates the key policy of the platform settings.
pub(super) fn check_key_policy(
    tx: &Tx<'_>,
    ctx: &RequestContext,
    before: Option<&ApiKey>,
    after: &ApiKey,
) -> Result<()> {
    key_policy::ensure_allowed(&store::settings::get(tx)?.settings.keys, before, after, ctx.now)
}

/// True if a change only takes access away. It is accepted in read-only mode and on a full disk, like an update
/// of the settings, which ends read-only mode and can shorten the retention.
pub(super) fn is_always_accepted(ctx: &RequestContext, entries: &[AuditEntry]) -> bool {
    let only_withdraws_access =
        !entries.is_empty() && entries.iter().all(|entry| entry.only_withdraws_access);
    only_withdraws_access || ctx.action.is_always_accepted()
}

/// Returns an error for a change while the platform is read-only, unless the change is
/// [always accepted](is_always_accepted). The decision depends on the changes already made in the transaction;
/// an error rolls them back.
pub(super) fn check_read_only(tx: &Tx<'_>, ctx: &RequestContext, entries: &[AuditEntry]) -> Result<()> {
    let current = store::settings::get(tx)?;
    let maintenance = &current.settings.maintenance;
    // The operator at the command line and the server itself have no secret, and are exempt from read-only
    // mode.
    if !maintenance.read_only || ctx.secret.is_none() {
        return Ok(());
    }
    if is_always_accepted(ctx, entries) {
        return Ok(());
    }
    let message = maintenance.message.clone();
    let default = "The platform is in read-only mode for maintenance. Try again later.";
    let refusal = Error::unavailable(message.unwrap_or_else(|| default.to_owned()), RETRY_AFTER_SECONDS);
    Err(Error { caused_by_request: true, ..refusal })
}

/// While storage is full: returns an error for a change, unless it is [always accepted](is_always_accepted), and
/// lets such a change use the storage reserve.
pub(super) fn check_storage_full(tx: &Tx<'_>, ctx: &RequestContext, entries: &[AuditEntry]) -> Result<()> {
    if !tx.is_storage_full() {
        return Ok(());
    }
    if !is_always_accepted(ctx, entries) {
        return Err(Error::only_withdrawals_accepted());
    }
    tx.allow_reserve();
    Ok(())
}

/// A setting in the configuration whose value differs from the stored one. The configured value has no
/// effect: such settings are initial values, and the value in the database is in force.
pub(crate) struct ShadowedSetting {
    /// The name of the setting, such as `keys.prefixes`.
    pub(crate) setting: String,
    /// The source of the configured value: a file and line, or an environment variable.
    pub(crate) origin: String,
    /// The configured value, as JSON.
    pub(crate) named: String,
    /// The value in the database, which is in force, as JSON.
    pub(crate) stored: String,
}

/// The configured initial values that have no effect.
#[derive(Default)]
pub(crate) struct IgnoredInitialValues {
    pub(crate) settings: Vec<ShadowedSetting>,
    /// The configured plans that the database doesn't have: the source of one of the settings of each, by the plan's
    /// name.
    pub(crate) plans: BTreeMap<String, String>,
}

/// Finds the configured initial values that differ from the stored settings. `setting_sources` has the source of each
/// configured setting, by the setting's name.
pub(crate) async fn find_ignored_initial_values(
    app: &App,
    setting_sources: &BTreeMap<String, String>,
) -> Result<IgnoredInitialValues> {
    let given = app.config.initial_settings().by_name();
    let current = app.settings.get().await?;
    let stored = current.settings.by_name();
    let mut ignored = IgnoredInitialValues::default();
    for (setting, origin) in setting_sources {
        let missing_plan = match setting.split('.').collect::<Vec<_>>().as_slice() {
            ["plans", plan] | ["plans", plan, _] if !current.settings.plans.contains_key(*plan) => {
                Some((*plan).to_owned())
            }
            _ => None,
        };
        if let Some(plan) = missing_plan {
            ignored.plans.entry(plan).or_insert_with(|| origin.clone());
            continue;
        }
        let Some(given) = given.get(setting) else { continue };
        let stored = stored.get(setting).cloned().unwrap_or_default();
        if *given != stored {
            ignored.settings.push(ShadowedSetting {
                setting: setting.clone(),
                origin: origin.clone(),
                named: given.to_string(),
                stored: stored.to_string(),
            });
        }
    }
    Ok(ignored)
}
