//! An import: things of other systems, or of an export, with their state and their keys' hashes.
//!
//! Each record is one change, whole in its own savepoint, with its own audit event; the writer commits
//! many of them together. What is there already and says the same is left alone, so that an import can be
//! run again; what says something else is refused, and nothing that is there is ever changed.

mod source;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

pub(crate) use source::{Item, Source};

use super::check::ProgressFn;
use super::{RequestContext, mutate, scopes, settings};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::api_key::Status;
use crate::domain::audit::{Entry, changes};
use crate::domain::id::Kind;
use crate::domain::import::{Defaults, Line, NewKey, NewMembership, NewScope, Record, RecordKind, Thing};
use crate::domain::invalidation::Invalidation;
use crate::domain::membership::Membership;
use crate::domain::organization::Organization;
use crate::domain::scope::{self, Scope};
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx, import as stored};

/// Records that wait for the writer together. It works on no more of them in one go than on these.
const TOGETHER: usize = 256;

/// Refusals that are told one by one; the rest is counted.
const MAX_REFUSALS: usize = 1000;

/// How an import is to be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Are scopes that nobody knows added to the catalogue?
    pub(crate) create_scopes: bool,
    /// Whose keys are those that name no organization.
    pub(crate) organization_id: Option<String>,
}

/// What became of the records.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Stored, by kind.
    pub(crate) imported: BTreeMap<&'static str, u64>,
    /// There already, with the same values.
    pub(crate) unchanged: BTreeMap<&'static str, u64>,
    /// How many were refused.
    pub(crate) refused: u64,
    /// The first of those.
    pub(crate) refusals: Vec<Refusal>,
    /// Does an export lack its end?
    pub(crate) cut_off: bool,
    /// Is there a key that can manage keys of every organization?
    pub(crate) has_platform_key: bool,
}

/// Why a record is not stored.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    /// Where it stands.
    pub(crate) at: String,
    /// What was wrong, and where in the record.
    pub(crate) reasons: Vec<String>,
}

/// What becomes of a record: a change under way, or nothing.
enum Turn<'a> {
    Change(RecordKind, Work<'a>),
    Refused(Vec<String>),
}

type Work<'a> = Pin<Box<dyn Future<Output = Result<bool>> + 'a>>;

/// Imports all of a source.
///
/// # Errors
/// When the source or the database fails. What was stored until then stays; the import can be run again.
pub(crate) async fn run(
    app: &App,
    source: &mut Source<'_>,
    options: &Options,
    progress: ProgressFn<'_>,
) -> Result<Report> {
    let mut report = Report::default();
    let defaults = Defaults { organization_id: options.organization_id.as_deref().map(adopted) };
    let together = TOGETHER.min(app.config.database.writer_queue);
    let (mut begun, mut ended, mut records) = (false, false, 0);
    let mut waiting: Vec<(String, Turn<'_>)> = Vec::with_capacity(together);
    while let Some(Item { at, json }) = source.take_next()? {
        let now = app.clock.now();
        let line = json.map_err(|why| vec![why]);
        let line = line.and_then(|json| Line::read(&json, &defaults, now).map_err(|fault| reasons(&fault)));
        match line {
            Ok(Line::Begin) => begun = true,
            Ok(Line::End(count)) => ended = count == records,
            Ok(Line::Record(record)) => {
                records += 1;
                let what = record.kind();
                let work = Box::pin(store_record(app, *record, options.create_scopes));
                waiting.push((at, Turn::Change(what, work)));
            }
            Err(reasons) => {
                records += 1;
                waiting.push((at, Turn::Refused(reasons)));
            }
        }
        if waiting.len() >= together {
            finish(app, &mut waiting, &mut report).await?;
            progress("records", source.read(), source.total().unwrap_or(0));
        }
    }
    finish(app, &mut waiting, &mut report).await?;
    report.cut_off = begun && !ended;
    report.has_platform_key = app.db.read(|tx| store::api_keys::platform_is_kept_without(tx, "")).await?;
    Ok(report)
}

fn adopted(id: &str) -> String {
    Kind::Organization.adopt(id)
}

/// Has all that waits done, in its order: an organization comes before its keys.
async fn finish(app: &App, waiting: &mut Vec<(String, Turn<'_>)>, report: &mut Report) -> Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    let began = app.clock.monotonic();
    let mut early = Vec::with_capacity(waiting.len());
    // Asked once, each puts its change into the writer's queue.
    for (_, turn) in waiting.iter_mut() {
        early.push(match turn {
            Turn::Change(_, work) => poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await,
            Turn::Refused(_) => Poll::Pending,
        });
    }
    for ((at, turn), early) in waiting.drain(..).zip(early) {
        let (what, work) = match turn {
            Turn::Change(what, work) => (what, work),
            Turn::Refused(reasons) => {
                report.refuse(at, reasons);
                continue;
            }
        };
        let result = match early {
            Poll::Ready(result) => result,
            Poll::Pending => work.await,
        };
        match result {
            Ok(new) => {
                let counts = if new { &mut report.imported } else { &mut report.unchanged };
                *counts.entry(what.name()).or_default() += 1;
            }
            Err(error) if is_refusal(&error) => report.refuse(at, reasons(&error)),
            Err(error) => return Err(error),
        }
    }
    // Whoever serves beside this writes too, and waits for the same lock.
    let took = app.clock.monotonic() - began;
    tokio::time::sleep((took / 8).min(Duration::from_millis(50))).await;
    Ok(())
}

/// Is it the record's fault?
fn is_refusal(error: &Error) -> bool {
    matches!(error.code, Code::InvalidRequest | Code::AlreadyExists | Code::NotFound | Code::Conflict)
}

/// What is wrong, with the place in the record.
fn reasons(error: &Error) -> Vec<String> {
    if error.details.is_empty() {
        return vec![error.message.to_string()];
    }
    let reason = |detail: &crate::error::Detail| match detail.pointer.as_deref() {
        None | Some("") => detail.message.clone(),
        Some(pointer) => format!("{}: {}", pointer.trim_start_matches('/'), detail.message),
    };
    error.details.iter().map(reason).collect()
}

impl Report {
    fn refuse(&mut self, at: String, reasons: Vec<String>) {
        self.refused += 1;
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push(Refusal { at, reasons });
        }
    }
}

/// Stores one record; `false` when it is there already.
async fn store_record(app: &App, record: Record, create_scopes: bool) -> Result<bool> {
    let action = match record.kind() {
        RecordKind::Settings => "config.import",
        RecordKind::Scope => "scope.import",
        RecordKind::Organization => "organization.import",
        RecordKind::User => "user.import",
        RecordKind::Membership => "membership.import",
        RecordKind::ApiKey => "api_key.import",
    };
    let ctx = RequestContext::internal(app, Caller::Operator, action, "write")?;
    let Record { thing, given } = record;
    // Ids are made before the transaction, which may be run again.
    let (now, new_id) = (ctx.now, ctx.random);
    let thing = match thing {
        Thing::User { mut new, own_id: false, deleted_at } => {
            new.id = Kind::User.new_id(now, new_id);
            Thing::User { new, own_id: false, deleted_at }
        }
        thing => thing,
    };
    mutate(app, &ctx, 201, move |tx, _| {
        let entries = match &thing {
            Thing::Settings(patch) => settings::import(tx, patch, now)?,
            Thing::Scope(new) => put_scope(tx, new, &given)?,
            Thing::Organization { new, deleted_at } => put_organization(tx, new, *deleted_at, &given)?,
            Thing::User { new, own_id, deleted_at } => put_user(tx, new, *own_id, *deleted_at, &given)?,
            Thing::Membership(new) => put_membership(tx, new, &given)?,
            Thing::ApiKey(new) => {
                let generated = Kind::ApiKey.new_id(now, new_id);
                put_key(tx, new, generated, create_scopes.then_some(now), &given)?
            }
        };
        Ok((!entries.is_empty(), entries))
    })
    .await
}

/// What moves on by itself, or is compared by other means.
const NOT_COMPARED: &[&str] =
    &["type", "id", "created_at", "updated_at", "last_used_at", "revision", "created_by"];

/// Nothing is to be done for what is there, if it agrees in all that was given.
fn ensure_same(
    what: RecordKind,
    id: &str,
    there: &impl Serialize,
    new: &impl Serialize,
    given: &[String],
) -> Result<Vec<Entry>> {
    let as_value = |thing| serde_json::to_value(thing).map_err(Error::internal);
    let (there, new): (Value, Value) =
        (as_value(there)?, serde_json::to_value(new).map_err(Error::internal)?);
    let differs = |name: &&String| !NOT_COMPARED.contains(&name.as_str()) && there.get(name) != new.get(name);
    let other: Vec<_> = given.iter().filter(differs).map(String::as_str).collect();
    if other.is_empty() {
        return Ok(Vec::new());
    }
    let (kind, other) = (what.name().replace('_', " "), other.join(", "));
    let message = format!("The {kind} {id} is there already, with another: {other}. It was left as it is.");
    Err(Error::new(Code::AlreadyExists, message))
}

fn put_scope(tx: &Tx<'_>, new: &NewScope, given: &[String]) -> Result<Vec<Entry>> {
    let as_scope = Scope { scope: new.scope.clone(), description: new.description.clone(), built_in: false };
    if let Some(there) = store::scopes::get(tx, &new.scope)? {
        return ensure_same(RecordKind::Scope, &new.scope, &there, &as_scope, given);
    }
    store::scopes::insert(tx, &as_scope, new.created_at)?;
    tx.invalidate(Invalidation::Id(scopes::CATALOGUE.to_owned()));
    Ok(vec![Entry::of(None, "scope", &new.scope, &new.scope).with(changes(&Value::Null, &as_scope))])
}

/// Deleted there and not here, or the other way round.
fn agree_on_the_end(
    what: RecordKind,
    id: &str,
    there: Option<Timestamp>,
    new: Option<Timestamp>,
) -> Result<()> {
    if there.is_some() == new.is_some() {
        return Ok(());
    }
    let how = if there.is_some() { "was deleted here" } else { "is there already, and not deleted" };
    let kind = what.name();
    Err(Error::new(Code::AlreadyExists, format!("The {kind} {id} {how}. It was left as it is.")))
}

fn put_organization(
    tx: &Tx<'_>,
    new: &Organization,
    deleted_at: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<Entry>> {
    if let Some((there, ended)) = stored::organization(tx, &new.id)? {
        agree_on_the_end(RecordKind::Organization, &new.id, ended, deleted_at)?;
        return ensure_same(RecordKind::Organization, &new.id, &there, new, given);
    }
    if deleted_at.is_none() {
        settings::still_there(tx, &new.plan)?;
    }
    store::organizations::insert(tx, new, deleted_at)?;
    tx.invalidate(Invalidation::Id(new.id.clone()));
    let entry = Entry::of(Some(&new.id), "organization", &new.id, &new.name);
    Ok(vec![entry.with(changes(&Value::Null, new))])
}

fn put_user(
    tx: &Tx<'_>,
    new: &User,
    own_id: bool,
    deleted_at: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<Entry>> {
    let holder = if deleted_at.is_some() { None } else { store::users::id_by_email(tx, &new.email)? };
    let id = match &holder {
        // Without an id of its own it is known by its address.
        Some(holder) if !own_id => holder,
        _ => &new.id,
    };
    if let Some((there, ended)) = stored::user(tx, id)? {
        agree_on_the_end(RecordKind::User, id, ended, deleted_at)?;
        return ensure_same(RecordKind::User, id, &there, new, given);
    }
    if let Some(holder) = holder {
        let message = format!("email: The address is taken by {holder}.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    store::users::insert(tx, new, deleted_at)?;
    tx.invalidate(Invalidation::Id(new.id.clone()));
    Ok(vec![Entry::of(None, "user", &new.id, &new.name).with(changes(&Value::Null, new))])
}

fn put_membership(tx: &Tx<'_>, new: &NewMembership, given: &[String]) -> Result<Vec<Entry>> {
    if store::organizations::get(tx, &new.organization_id)?.is_none() {
        return Err(missing("organization", &new.organization_id));
    }
    let Some(user) = store::users::get(tx, &new.user_id)? else {
        return Err(missing("user", &new.user_id));
    };
    let membership = Membership {
        organization_id: new.organization_id.clone(),
        user_id: user.id.clone(),
        role: new.role,
        user,
        created_at: new.created_at,
        updated_at: new.updated_at,
        revision: new.revision,
    };
    if let Some(there) = store::memberships::get(tx, &new.organization_id, &new.user_id)? {
        return ensure_same(RecordKind::Membership, &new.user_id, &there, &membership, given);
    }
    store::memberships::insert(tx, &membership)?;
    tx.invalidate(Invalidation::Id(new.user_id.clone()));
    let entry = Entry::of(Some(&new.organization_id), "membership", &new.user_id, &membership.user.name);
    Ok(vec![entry.with(changes(&Value::Null, &membership))])
}

fn missing(what: &str, id: &str) -> Error {
    Error::new(Code::NotFound, format!("There is no {what} {id}; import it first."))
}

fn put_key(
    tx: &Tx<'_>,
    new: &NewKey,
    generated: String,
    create_scopes: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<Entry>> {
    let own_id = !new.key.id.is_empty();
    let id = if own_id { new.key.id.clone() } else { generated };
    let mut holders = Vec::new();
    for (hash, _) in &new.secrets {
        holders.push(stored::key_of_hash(tx, hash)?);
    }
    let there = match (own_id, &holders[0]) {
        (false, Some(holder)) => store::api_keys::get(tx, holder)?,
        _ => store::api_keys::get(tx, &id)?,
    };
    if let Some(there) = there {
        if !holders.iter().all(|holder| holder.as_deref() == Some(&there.id)) {
            let message = format!("The key {} is there already, with another secret.", there.id);
            return Err(Error::new(Code::AlreadyExists, message));
        }
        return ensure_same(RecordKind::ApiKey, &there.id, &there, &new.key, given);
    }
    if let Some(holder) = holders.into_iter().flatten().next() {
        let message = format!("hash: The secret is taken by {holder}, or was.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    let mut entries = Vec::new();
    let mut new = new.clone();
    new.key.id = id;
    belongs(tx, &new)?;
    if new.key.status != Status::Revoked {
        entries = known_scopes(tx, &new.key.scopes, create_scopes)?;
    }
    if !stored::insert_key(tx, &new)? {
        return Err(Error::new(Code::AlreadyExists, "The id or a secret is taken."));
    }
    tx.invalidate(Invalidation::Id(new.key.id.clone()));
    let entry = Entry::of(new.key.organization_id.as_deref(), "api_key", &new.key.id, &new.key.name);
    entries.push(entry.with(changes(&Value::Null, &new.key)));
    Ok(entries)
}

/// A key's organization and owner are there; those of a revoked one may be gone.
fn belongs(tx: &Tx<'_>, new: &NewKey) -> Result<()> {
    let Some(organization) = &new.key.organization_id else { return Ok(()) };
    let ended = match stored::organization(tx, organization)? {
        None => return Err(missing("organization", organization)),
        Some((_, ended)) => ended.is_some(),
    };
    let revoked = new.key.status == Status::Revoked;
    if ended && !revoked {
        let message = format!("The organization {organization} was deleted; only revoked keys may be its.");
        return Err(Error::new(Code::Conflict, message));
    }
    let Some(user) = &new.key.user_id else { return Ok(()) };
    if revoked {
        return stored::user(tx, user)?.map(drop).ok_or_else(|| missing("user", user));
    }
    if store::memberships::get(tx, organization, user)?.is_none() {
        let message = format!("The user {user} is not a member of {organization}; import that first.");
        return Err(Error::new(Code::NotFound, message));
    }
    Ok(())
}

/// The scopes are known, or become so: with the events that tell it.
fn known_scopes(tx: &Tx<'_>, grants: &[String], create: Option<Timestamp>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    if let Some(created_at) = create {
        for grant in grants.iter().filter(|grant| scope::is_custom(grant)) {
            let new = NewScope { scope: grant.clone(), description: None, created_at };
            if store::scopes::get(tx, grant)?.is_none() {
                entries.extend(put_scope(tx, &new, &[])?);
            }
        }
    }
    let Some(index) = scopes::first_unknown(tx, grants)? else { return Ok(entries) };
    let mut detail = scopes::unknown(index, &grants[index]);
    if scope::is_custom(&grants[index]) {
        detail.message.push_str(" --create-scopes adds it.");
    }
    Err(Error::invalid(vec![detail]))
}
