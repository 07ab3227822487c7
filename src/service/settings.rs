//! The platform's settings: reading and changing them, and the rules they impose on other changes, checked
//! inside the transaction of the change.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{RequestContext, etag, mutate, read_audited};
use crate::app::App;
use crate::domain::api_key::ApiKey;
use crate::domain::audit::Entry;
use crate::domain::fields::Json;
use crate::domain::invalidation::Invalidation;
use crate::domain::key_policy;
use crate::domain::organization::Organization;
use crate::domain::settings::{self, Current, Plan, SETTINGS_ID, STANDARD, Settings, SettingsPatch};
use crate::domain::time::Timestamp;
use crate::error::{Code, Detail, Error, Result};
use crate::store::{self, db::Tx};

/// `Retry-After` of changes refused in read-only mode, in seconds.
const RETRY_AFTER: u64 = 60;

/// The settings with their ETag.
pub(crate) struct Tagged {
    pub(crate) settings: Settings,
    /// The strong ETag.
    pub(crate) etag: String,
}

impl From<&Current> for Tagged {
    fn from(current: &Current) -> Self {
        // Includes the time: a restored database may reach the same revision with other settings.
        Self { settings: current.settings.clone(), etag: etag(current.updated_at, current.revision) }
    }
}

/// The settings for an operation: as seen by its open transaction, if any; otherwise from memory.
pub(super) async fn current(app: &App, ctx: &RequestContext) -> Result<Arc<Current>> {
    match &ctx.seat {
        Some(seat) => seat.run(store::settings::get).await,
        None => Ok(app.settings.get().await?.shared()),
    }
}

/// Reads the settings; platform keys only.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>) -> Result<Tagged> {
    read_audited(app, ctx, |tx, caller| {
        caller.require_platform()?;
        Ok((Tagged::from(&*store::settings::get(tx)?), entry()))
    })
    .await
}

/// Updates the settings; platform keys only. Requires `If-Match`.
pub(crate) async fn update(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<Tagged> {
    let patch = SettingsPatch::read(body)?;
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        caller.require_platform()?;
        let before = store::settings::get(tx)?;
        if context.if_match.is_none() {
            let message = "If-Match is required. Send the ETag of the configuration you last read.";
            return Err(Error::new(Code::PreconditionRequired, message));
        }
        let tagged = Tagged::from(&*before);
        context.require_match(&tagged.etag)?;
        let after = patch.apply(&before.settings)?;
        let changed = settings::changes(&before.settings, &after);
        if changed.is_empty() {
            return Ok((tagged, vec![entry()]));
        }
        let mut checked_prefixes = before.checked_prefixes.clone();
        let prefix = &after.keys.prefix;
        if !checked_prefixes.contains(prefix) && !store::api_keys::any_start_matches(tx, prefix)? {
            checked_prefixes.push(prefix.clone());
        }
        Ok((replace(tx, &before, after, checked_prefixes, context.now)?, vec![entry().with(changed)]))
    })
    .await
}

/// Stores the settings `after` in place of `before`.
fn replace(
    tx: &Tx<'_>,
    before: &Current,
    after: Settings,
    checked_prefixes: Vec<String>,
    now: Timestamp,
) -> Result<Tagged> {
    for plan in before.settings.plans.keys().filter(|plan| !after.plans.contains_key(*plan)) {
        ensure_plan_removable(tx, plan)?;
    }
    let revision = before.revision + 1;
    let current = Current { settings: after, checked_prefixes, revision, updated_at: now };
    let tagged = Tagged::from(&current);
    store::settings::update(tx, current)?;
    tx.invalidate(Invalidation::Id(SETTINGS_ID.to_owned()));
    Ok(tagged)
}

/// Imports settings. Refuses with `ALREADY_EXISTS` if the initial settings were changed and differ.
pub(super) fn import(tx: &Tx<'_>, patch: &SettingsPatch, now: Timestamp) -> Result<Vec<Entry>> {
    let before = store::settings::get(tx)?;
    let after = patch.apply(&before.settings)?;
    let changed = settings::changes(&before.settings, &after);
    if changed.is_empty() {
        return Ok(Vec::new());
    }
    if before.revision > 1 {
        let fields: Vec<_> = changed.iter().map(|change| change.field.as_str()).collect();
        let fields = fields.join(", ");
        let message =
            format!("The settings were changed here and differ in: {fields}. They were not changed.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    // The prefix stays unchecked: keys are imported after the settings, and some may begin like it.
    let checked_prefixes = before.checked_prefixes.clone();
    replace(tx, &before, after, checked_prefixes, now)?;
    Ok(vec![entry().with(changed)])
}

/// Refuses with `CONFLICT` if this plan can't be removed.
fn ensure_plan_removable(tx: &Tx<'_>, plan: &str) -> Result<()> {
    if plan == STANDARD {
        let message = "The plan standard can't be removed: it is the default for new organizations.";
        return Err(Error::new(Code::Conflict, message));
    }
    if store::organizations::any_on_plan(tx, plan)? {
        let message =
            format!("At least one organization is on the plan {plan}. Move it to another plan first.");
        return Err(Error::new(Code::Conflict, message));
    }
    Ok(())
}

fn entry() -> Entry {
    Entry::of(None, "config", "config", "configuration")
}

/// Refuses with `INVALID_REQUEST` unless this plan exists as of the transaction that assigns it.
pub(super) fn ensure_plan_exists(tx: &Tx<'_>, plan: &str) -> Result<()> {
    let current = store::settings::get(tx)?;
    if current.settings.plans.contains_key(plan) {
        return Ok(());
    }
    Err(Error::invalid(vec![Detail {
        pointer: Some("/plan".to_owned()),
        parameter: None,
        code: "UNKNOWN_PLAN".into(),
        message: format!("There is no plan {plan:?}."),
    }]))
}

/// Refuses with `CONFLICT` if the key just inserted exceeds its plan's `max_keys`.
pub(super) fn check_key_limit(tx: &Tx<'_>, organization: &Organization) -> Result<()> {
    let max = plan_of(tx, organization)?.max_keys;
    if max == 0 || store::overview::live_keys(tx, &organization.id)? <= max.into() {
        return Ok(());
    }
    Err(limit_reached(organization, "max_keys", max, "Revoke a key"))
}

/// Refuses with `CONFLICT` if the member just inserted exceeds its plan's `max_members`.
pub(super) fn check_member_limit(tx: &Tx<'_>, organization: &Organization) -> Result<()> {
    let max = plan_of(tx, organization)?.max_members;
    if max == 0 || store::overview::users(tx, Some(&organization.id))? <= max.into() {
        return Ok(());
    }
    Err(limit_reached(organization, "max_members", max, "Remove a member"))
}

fn plan_of(tx: &Tx<'_>, organization: &Organization) -> Result<Plan> {
    let current = store::settings::get(tx)?;
    let plan = current.settings.plan(&organization.plan).cloned();
    plan.ok_or_else(|| Error::internal("the plan standard is missing from the settings"))
}

fn limit_reached(organization: &Organization, setting: &str, max: u32, remedy: &str) -> Error {
    let plan = &organization.plan;
    let message = format!(
        "The limit of the plan {plan} is reached: its {setting} is {max}. {remedy}, or move the organization to \
         a larger plan."
    );
    Error::new(Code::Conflict, message)
}

/// Refuses a created or changed key that violates the key policy of the settings.
pub(super) fn check_key_policy(
    tx: &Tx<'_>,
    ctx: &RequestContext,
    before: Option<&ApiKey>,
    after: &ApiKey,
) -> Result<()> {
    key_policy::check(&store::settings::get(tx)?.settings.keys, before, after, ctx.now)
}

/// Refuses a change while the platform is read-only, unless it revokes access or updates the settings.
/// Decided by the changes made; a refusal rolls them back.
pub(super) fn check_read_only(tx: &Tx<'_>, ctx: &RequestContext, entries: &[Entry]) -> Result<()> {
    let current = store::settings::get(tx)?;
    let maintenance = &current.settings.maintenance;
    // The operator at the command line and the server itself are exempt.
    if !maintenance.read_only || ctx.secret.is_none() {
        return Ok(());
    }
    let only_disables = || {
        let mut changes = entries.iter().flat_map(|entry| &entry.changes);
        changes.all(|change| change.field == "status" && change.to == "disabled")
    };
    let is_allowed = match ctx.action {
        "api_key.revoke" | "config.update" => true,
        "api_key.update" => only_disables(),
        _ => false,
    };
    if is_allowed {
        return Ok(());
    }
    let message = maintenance.message.clone();
    let default = "The platform is in read-only mode for maintenance. Try again later.";
    let refusal = Error::unavailable(message.unwrap_or_else(|| default.to_owned()), RETRY_AFTER);
    Err(Error { caused_by_request: true, ..refusal })
}

/// A setting given at the start whose value in the database differs; the database's value is in force.
pub(crate) struct ShadowedSetting {
    /// The name of the setting, such as `keys.prefix`.
    pub(crate) setting: String,
    /// The source that gives it: a file and line, or an environment variable.
    pub(crate) origin: String,
    /// The given value, as JSON.
    pub(crate) named: String,
    /// The value in force, as JSON.
    pub(crate) stored: String,
}

/// The given initial values that differ from the stored settings.
pub(crate) async fn shadowed(app: &App, origins: &BTreeMap<String, String>) -> Result<Vec<ShadowedSetting>> {
    let given = app.config.initial_settings().by_name();
    let stored = app.settings.get().await?.settings.by_name();
    let mut shadowed = Vec::new();
    for (setting, origin) in origins {
        let Some(given) = given.get(setting) else { continue };
        let stored = stored.get(setting).cloned().unwrap_or_default();
        if *given != stored {
            shadowed.push(ShadowedSetting {
                setting: setting.clone(),
                origin: origin.clone(),
                named: given.to_string(),
                stored: stored.to_string(),
            });
        }
    }
    Ok(shadowed)
}
