//! The platform's settings: read and changed, and what they demand of others, asked inside the transaction
//! that it concerns.

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

/// Seconds after which it may be worth a try again while the platform is being worked on.
const RETRY_AFTER: u64 = 60;

/// The settings with their ETag.
pub(crate) struct Tagged {
    /// The settings.
    pub(crate) settings: Settings,
    /// The strong ETag.
    pub(crate) etag: String,
}

impl From<&Current> for Tagged {
    fn from(current: &Current) -> Self {
        // The time too: a file that is restored may come to the same number of changes by another way.
        Self { settings: current.settings.clone(), etag: etag(current.updated_at, current.revision) }
    }
}

/// The settings for an operation: within a transaction as they are there, else from memory.
pub(super) async fn current(app: &App, ctx: &RequestContext) -> Result<Arc<Current>> {
    match &ctx.seat {
        Some(seat) => seat.run(store::settings::get).await,
        None => Ok(app.settings.get().await?.shared()),
    }
}

/// The settings.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>) -> Result<Tagged> {
    read_audited(app, ctx, |tx, caller| {
        caller.require_platform()?;
        Ok((Tagged::from(&*store::settings::get(tx)?), entry()))
    })
    .await
}

/// Changes settings; platform keys only, and only who knows what they are.
pub(crate) async fn update(app: &App, ctx: &Arc<RequestContext>, body: &Json) -> Result<Tagged> {
    let patch = SettingsPatch::read(body)?;
    let context = ctx.clone();
    mutate(app, ctx, 200, move |tx, caller| {
        caller.require_platform()?;
        let before = store::settings::get(tx)?;
        if context.if_match.is_none() {
            let message = "Send the ETag of the configuration that you read as If-Match.";
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
        if !checked_prefixes.contains(prefix) && !store::api_keys::any_begins_like(tx, prefix)? {
            checked_prefixes.push(prefix.clone());
        }
        Ok((set(tx, &before, after, checked_prefixes, context.now)?, vec![entry().with(changed)]))
    })
    .await
}

/// Stores other settings.
fn set(
    tx: &Tx<'_>,
    before: &Current,
    after: Settings,
    checked_prefixes: Vec<String>,
    now: Timestamp,
) -> Result<Tagged> {
    for plan in before.settings.plans.keys().filter(|plan| !after.plans.contains_key(*plan)) {
        may_go(tx, plan)?;
    }
    let revision = before.revision + 1;
    let current = Current { settings: after, checked_prefixes, revision, updated_at: now };
    let tagged = Tagged::from(&current);
    store::settings::update(tx, current)?;
    tx.invalidate(Invalidation::Id(SETTINGS_ID.to_owned()));
    Ok(tagged)
}

/// Takes settings over from elsewhere, where nobody changed the first ones.
pub(super) fn import(tx: &Tx<'_>, patch: &SettingsPatch, now: Timestamp) -> Result<Vec<Entry>> {
    let before = store::settings::get(tx)?;
    let after = patch.apply(&before.settings)?;
    let changed = settings::changes(&before.settings, &after);
    if changed.is_empty() {
        return Ok(Vec::new());
    }
    if before.revision > 1 {
        let other: Vec<_> = changed.iter().map(|change| change.field.as_str()).collect();
        let other = other.join(", ");
        let message =
            format!("The settings were changed here, with another: {other}. They were left as they are.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    // The keys come after the settings: whether foreign ones begin like the prefix isn't known yet.
    let checked_prefixes = before.checked_prefixes.clone();
    set(tx, &before, after, checked_prefixes, now)?;
    Ok(vec![entry().with(changed)])
}

/// May this plan be taken away?
fn may_go(tx: &Tx<'_>, plan: &str) -> Result<()> {
    if plan == STANDARD {
        let message = "The plan standard stays: it is the one of organizations that name none.";
        return Err(Error::new(Code::Conflict, message));
    }
    if store::organizations::any_on(tx, plan)? {
        let message = format!("An organization is on the plan {plan}; give it another plan first.");
        return Err(Error::new(Code::Conflict, message));
    }
    Ok(())
}

fn entry() -> Entry {
    Entry::of(None, "config", "config", "configuration")
}

/// Is this plan still there, inside the transaction that gives it?
pub(super) fn still_there(tx: &Tx<'_>, plan: &str) -> Result<()> {
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

/// Is there room for the key that was just stored?
pub(super) fn check_key_limit(tx: &Tx<'_>, organization: &Organization) -> Result<()> {
    let max = plan_of(tx, organization)?.max_keys;
    if max == 0 || store::overview::live_keys(tx, &organization.id)? <= max.into() {
        return Ok(());
    }
    Err(full(organization, "max_keys", max, "Revoke a key"))
}

/// Is there room for the member that was just stored?
pub(super) fn check_member_limit(tx: &Tx<'_>, organization: &Organization) -> Result<()> {
    let max = plan_of(tx, organization)?.max_members;
    if max == 0 || store::overview::users(tx, Some(&organization.id))? <= max.into() {
        return Ok(());
    }
    Err(full(organization, "max_members", max, "Remove a member"))
}

fn plan_of(tx: &Tx<'_>, organization: &Organization) -> Result<Plan> {
    let current = store::settings::get(tx)?;
    let plan = current.settings.plan(&organization.plan).cloned();
    plan.ok_or_else(|| Error::internal("the plan standard is missing from the settings"))
}

fn full(organization: &Organization, setting: &str, max: u32, instead: &str) -> Error {
    let plan = &organization.plan;
    let message = format!(
        "The limit of the plan {plan} is reached: its {setting} is {max}. {instead}, or give the organization a \
         larger plan."
    );
    Error::new(Code::Conflict, message)
}

/// Is the key, made or changed, as the settings want keys to be?
pub(super) fn accept_key(
    tx: &Tx<'_>,
    ctx: &RequestContext,
    before: Option<&ApiKey>,
    after: &ApiKey,
) -> Result<()> {
    key_policy::check(&store::settings::get(tx)?.settings.keys, before, after, ctx.now)
}

/// May this happen while the platform is read-only? Decided by what was done, which is rolled back otherwise:
/// what takes access away may, and what ends the maintenance.
pub(super) fn accept_change(tx: &Tx<'_>, ctx: &RequestContext, entries: &[Entry]) -> Result<()> {
    let current = store::settings::get(tx)?;
    let maintenance = &current.settings.maintenance;
    // The operator at the command line and the server itself are those who work on it.
    if !maintenance.read_only || ctx.secret.is_none() {
        return Ok(());
    }
    let only_disables = || {
        let mut changes = entries.iter().flat_map(|entry| &entry.changes);
        changes.all(|change| change.field == "status" && change.to == "disabled")
    };
    let may = match ctx.action {
        "api_key.revoke" | "config.update" => true,
        "api_key.update" => only_disables(),
        _ => false,
    };
    if may {
        return Ok(());
    }
    let message = maintenance.message.clone();
    let standard = "The platform is being worked on: it can be read, but not changed. Try again later.";
    let refusal = Error::unavailable(message.unwrap_or_else(|| standard.to_owned()), RETRY_AFTER);
    Err(Error { is_decided: true, ..refusal })
}

/// A setting that was named at the start, though the database has another value, which is the one in force.
pub(crate) struct ShadowedSetting {
    /// `keys.prefix`.
    pub(crate) setting: String,
    /// What named it: a file and its line, a variable.
    pub(crate) origin: String,
    /// What it was to be, as JSON.
    pub(crate) named: String,
    /// What it is, as JSON.
    pub(crate) stored: String,
}

/// Those of the first values that something named and that are no longer so.
pub(crate) async fn shadowed(app: &App, origins: &BTreeMap<String, String>) -> Result<Vec<ShadowedSetting>> {
    let (named, stored) =
        (app.config.first_settings().by_name(), app.settings.get().await?.settings.by_name());
    let mut found = Vec::new();
    for (setting, origin) in origins {
        let Some(first) = named.get(setting) else { continue };
        let now = stored.get(setting).cloned().unwrap_or_default();
        if *first != now {
            let (setting, origin) = (setting.clone(), origin.clone());
            found.push(ShadowedSetting {
                setting,
                origin,
                named: first.to_string(),
                stored: now.to_string(),
            });
        }
    }
    Ok(found)
}
