//! Imports records from other systems or from an export, with their state and the hashes of API key secrets.
//!
//! Each record is one atomic change with a savepoint and an audit event; the writer commits many changes
//! together. A record that exists already with the same values is skipped, so that an import can be repeated.
//! A record that exists with different values is refused. Existing records are never changed.

mod source;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

pub(crate) use source::{Source, SourceRecord};

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

/// The largest number of records that wait for the writer at a time, and thus of records in one commit.
const MAX_QUEUED_RECORDS: usize = 256;

/// The largest number of refused records that the report lists; further refused records are only counted.
const MAX_LISTED_REFUSALS: usize = 1000;

/// The options of an import.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// True if unknown scopes are added to the catalogue.
    pub(crate) create_scopes: bool,
    /// The id of the organization to which API keys without an organization are assigned.
    pub(crate) organization_id: Option<String>,
}

/// The result of an import, printed by `import --json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The number of stored records, by kind.
    pub(crate) imported: BTreeMap<&'static str, u64>,
    /// The number of records that existed already with the same values, by kind.
    pub(crate) unchanged: BTreeMap<&'static str, u64>,
    /// The number of refused records.
    pub(crate) refused: u64,
    /// The first refused records, at most 1,000.
    pub(crate) refusals: Vec<RefusedRecord>,
    /// True if the source is an export whose end is missing.
    pub(crate) cut_off: bool,
    /// True if the database has a platform key that can manage API keys after the import.
    pub(crate) has_platform_key: bool,
}

/// A record that was refused and therefore not stored.
#[derive(Debug, Serialize)]
pub(crate) struct RefusedRecord {
    /// The record's position in the source.
    pub(crate) at: String,
    /// The reasons for the refusal: what is wrong in which field of the record.
    pub(crate) reasons: Vec<String>,
}

/// A record in the queue of the import: the change that stores the record, or the reasons for its refusal.
enum QueueItem<'a> {
    Change(RecordKind, StoreRecordFuture<'a>),
    Refused(Vec<String>),
}

type StoreRecordFuture<'a> = Pin<Box<dyn Future<Output = Result<bool>> + 'a>>;

/// Imports all records of a source.
///
/// # Errors
/// Errors of reading the source or of the database. Records that were stored before the error stay stored.
pub(crate) async fn run(
    app: &App,
    source: &mut Source<'_>,
    options: &Options,
    progress: ProgressFn<'_>,
) -> Result<Report> {
    let mut report = Report::default();
    let defaults = Defaults {
        organization_id: options.organization_id.as_deref().map(|id| Kind::Organization.adopt(id)),
    };
    let max_queued = MAX_QUEUED_RECORDS.min(app.config.database.writer_queue);
    let mut has_begin = false;
    let mut has_end = false;
    let mut records = 0;
    let mut queue: Vec<(String, QueueItem<'_>)> = Vec::with_capacity(max_queued);
    while let Some(SourceRecord { at, json }) = source.take_next()? {
        let now = app.clock.now();
        let line = json.map_err(|reason| vec![reason]);
        let line = line.and_then(|json| Line::read(&json, &defaults, now).map_err(|e| refusal_reasons(&e)));
        match line {
            Ok(Line::Begin) => has_begin = true,
            Ok(Line::End(count)) => has_end = count == records,
            Ok(Line::Record(record)) => {
                records += 1;
                let kind = record.kind();
                let change = Box::pin(store_record(app, *record, options.create_scopes));
                queue.push((at, QueueItem::Change(kind, change)));
            }
            Err(reasons) => {
                records += 1;
                queue.push((at, QueueItem::Refused(reasons)));
            }
        }
        if queue.len() >= max_queued {
            run_queue(app, &mut queue, &mut report).await?;
            progress("records", source.amount_read(), source.total().unwrap_or(0));
        }
    }
    run_queue(app, &mut queue, &mut report).await?;
    report.cut_off = has_begin && !has_end;
    report.has_platform_key = app.db.read(|tx| store::api_keys::has_other_recovery_key(tx, "")).await?;
    Ok(report)
}

/// Stores all queued records in their order, because an organization must be stored before its API keys.
async fn run_queue(app: &App, queue: &mut Vec<(String, QueueItem<'_>)>, report: &mut Report) -> Result<()> {
    if queue.is_empty() {
        return Ok(());
    }
    let started_at = app.clock.monotonic();
    let mut first_polls = Vec::with_capacity(queue.len());
    // The first poll of each change puts the change into the writer's queue.
    for (_, queued) in queue.iter_mut() {
        first_polls.push(match queued {
            QueueItem::Change(_, change) => poll_fn(|cx| Poll::Ready(change.as_mut().poll(cx))).await,
            QueueItem::Refused(_) => Poll::Pending,
        });
    }
    for ((at, queued), first_poll) in queue.drain(..).zip(first_polls) {
        let (kind, change) = match queued {
            QueueItem::Change(kind, change) => (kind, change),
            QueueItem::Refused(reasons) => {
                report.add_refusal(at, reasons);
                continue;
            }
        };
        let result = match first_poll {
            Poll::Ready(result) => result,
            Poll::Pending => change.await,
        };
        match result {
            Ok(is_new) => {
                let counts = if is_new { &mut report.imported } else { &mut report.unchanged };
                *counts.entry(kind.name()).or_default() += 1;
            }
            Err(error) if is_record_error(&error) => report.add_refusal(at, refusal_reasons(&error)),
            Err(error) => return Err(error),
        }
    }
    // The import pauses, because a server that runs on the same database waits for the same write lock.
    let elapsed = app.clock.monotonic() - started_at;
    tokio::time::sleep((elapsed / 8).min(Duration::from_millis(50))).await;
    Ok(())
}

/// True if an error is caused by the record itself, so that only this record is refused.
fn is_record_error(error: &Error) -> bool {
    matches!(error.code, Code::InvalidRequest | Code::AlreadyExists | Code::NotFound | Code::Conflict)
}

/// The messages of an error, each with the field of the record that it concerns.
fn refusal_reasons(error: &Error) -> Vec<String> {
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
    fn add_refusal(&mut self, at: String, reasons: Vec<String>) {
        self.refused += 1;
        if self.refusals.len() < MAX_LISTED_REFUSALS {
            self.refusals.push(RefusedRecord { at, reasons });
        }
    }
}

/// Stores one record; returns `false` if the record exists already.
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
    // Ids are generated before the transaction, because the writer may repeat the transaction.
    let now = ctx.now;
    let random = ctx.random;
    let thing = match thing {
        Thing::User { mut new, own_id: false, deleted_at } => {
            new.id = Kind::User.new_id(now, random);
            Thing::User { new, own_id: false, deleted_at }
        }
        thing => thing,
    };
    mutate(app, &ctx, 201, move |tx, _| {
        let entries = match &thing {
            Thing::Settings(patch) => settings::import_settings(tx, patch, now)?,
            Thing::Scope(new) => put_scope(tx, new, &given)?,
            Thing::Organization { new, deleted_at } => put_organization(tx, new, *deleted_at, &given)?,
            Thing::User { new, own_id, deleted_at } => put_user(tx, new, *own_id, *deleted_at, &given)?,
            Thing::Membership(new) => put_membership(tx, new, &given)?,
            Thing::ApiKey(new) => {
                let generated_id = Kind::ApiKey.new_id(now, random);
                put_key(tx, new, generated_id, create_scopes.then_some(now), &given)?
            }
        };
        Ok((!entries.is_empty(), entries))
    })
    .await
}

/// Fields that an import doesn't compare: they change without an edit, or are compared in another way.
const FIELDS_NOT_COMPARED: &[&str] =
    &["type", "id", "created_at", "updated_at", "last_used_at", "revision", "created_by"];

/// Returns `ALREADY_EXISTS` unless the existing resource equals the imported one in all `given` fields.
fn ensure_same(
    kind: RecordKind,
    id: &str,
    existing: &impl Serialize,
    new: &impl Serialize,
    given: &[String],
) -> Result<Vec<Entry>> {
    let existing: Value = serde_json::to_value(existing).map_err(Error::internal)?;
    let new: Value = serde_json::to_value(new).map_err(Error::internal)?;
    let differs =
        |name: &&String| !FIELDS_NOT_COMPARED.contains(&name.as_str()) && existing.get(name) != new.get(name);
    let fields: Vec<_> = given.iter().filter(differs).map(String::as_str).collect();
    if fields.is_empty() {
        return Ok(Vec::new());
    }
    let kind = kind.name().replace('_', " ");
    let fields = fields.join(", ");
    let message = format!("The {kind} {id} already exists and differs in: {fields}. It was not changed.");
    Err(Error::new(Code::AlreadyExists, message))
}

fn put_scope(tx: &Tx<'_>, new: &NewScope, given: &[String]) -> Result<Vec<Entry>> {
    let as_scope = Scope { scope: new.scope.clone(), description: new.description.clone(), built_in: false };
    if let Some(existing) = store::scopes::get(tx, &new.scope)? {
        return ensure_same(RecordKind::Scope, &new.scope, &existing, &as_scope, given);
    }
    store::scopes::insert(tx, &as_scope, new.created_at)?;
    tx.invalidate(Invalidation::Id(scopes::CATALOGUE_ID.to_owned()));
    Ok(vec![Entry::of(None, "scope", &new.scope, &new.scope).with(changes(&Value::Null, &as_scope))])
}

/// Returns `ALREADY_EXISTS` if only one of the existing and the imported resource is deleted.
fn ensure_same_deletion(
    kind: RecordKind,
    id: &str,
    existing_deleted_at: Option<Timestamp>,
    new_deleted_at: Option<Timestamp>,
) -> Result<()> {
    let is_deleted = existing_deleted_at.is_some();
    if is_deleted == new_deleted_at.is_some() {
        return Ok(());
    }
    let state = if is_deleted { "was deleted here" } else { "already exists here and is not deleted" };
    let kind = kind.name();
    Err(Error::new(Code::AlreadyExists, format!("The {kind} {id} {state}. It was not changed.")))
}

fn put_organization(
    tx: &Tx<'_>,
    new: &Organization,
    deleted_at: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<Entry>> {
    if let Some((existing, existing_deleted_at)) = stored::organization(tx, &new.id)? {
        ensure_same_deletion(RecordKind::Organization, &new.id, existing_deleted_at, deleted_at)?;
        return ensure_same(RecordKind::Organization, &new.id, &existing, new, given);
    }
    if deleted_at.is_none() {
        settings::ensure_plan_exists(tx, &new.plan)?;
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
        // A user imported without an id is identified by the email address.
        Some(holder) if !own_id => holder,
        _ => &new.id,
    };
    if let Some((existing, existing_deleted_at)) = stored::user(tx, id)? {
        ensure_same_deletion(RecordKind::User, id, existing_deleted_at, deleted_at)?;
        return ensure_same(RecordKind::User, id, &existing, new, given);
    }
    if let Some(holder) = holder {
        let message = format!("email: The address is already used by {holder}.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    store::users::insert(tx, new, deleted_at)?;
    tx.invalidate(Invalidation::Id(new.id.clone()));
    Ok(vec![Entry::of(None, "user", &new.id, &new.name).with(changes(&Value::Null, new))])
}

fn put_membership(tx: &Tx<'_>, new: &NewMembership, given: &[String]) -> Result<Vec<Entry>> {
    if store::organizations::get(tx, &new.organization_id)?.is_none() {
        return Err(missing_reference_error("organization", &new.organization_id));
    }
    let Some(user) = store::users::get(tx, &new.user_id)? else {
        return Err(missing_reference_error("user", &new.user_id));
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
    if let Some(existing) = store::memberships::get(tx, &new.organization_id, &new.user_id)? {
        return ensure_same(RecordKind::Membership, &new.user_id, &existing, &membership, given);
    }
    store::memberships::insert(tx, &membership)?;
    tx.invalidate(Invalidation::Id(new.user_id.clone()));
    let entry = Entry::of(Some(&new.organization_id), "membership", &new.user_id, &membership.user.name);
    Ok(vec![entry.with(changes(&Value::Null, &membership))])
}

fn missing_reference_error(kind: &str, id: &str) -> Error {
    Error::new(Code::NotFound, format!("There is no {kind} {id}. Import it first."))
}

fn put_key(
    tx: &Tx<'_>,
    new: &NewKey,
    generated_id: String,
    create_scopes: Option<Timestamp>,
    given: &[String],
) -> Result<Vec<Entry>> {
    let own_id = !new.key.id.is_empty();
    let id = if own_id { new.key.id.clone() } else { generated_id };
    let mut holders = Vec::new();
    for (hash, _) in &new.secrets {
        holders.push(stored::key_of_hash(tx, hash)?);
    }
    let existing = match (own_id, &holders[0]) {
        (false, Some(holder)) => store::api_keys::get(tx, holder)?,
        _ => store::api_keys::get(tx, &id)?,
    };
    if let Some(existing) = existing {
        if !holders.iter().all(|holder| holder.as_deref() == Some(&existing.id)) {
            let message = format!("The key {} already exists with a different secret.", existing.id);
            return Err(Error::new(Code::AlreadyExists, message));
        }
        return ensure_same(RecordKind::ApiKey, &existing.id, &existing, &new.key, given);
    }
    if let Some(holder) = holders.into_iter().flatten().next() {
        let message = format!("hash: The secret is, or was, used by {holder}.");
        return Err(Error::new(Code::AlreadyExists, message));
    }
    let mut entries = Vec::new();
    let mut new = new.clone();
    new.key.id = id;
    ensure_owner_exists(tx, &new)?;
    if new.key.status != Status::Revoked {
        entries = ensure_or_create_scopes(tx, &new.key.scopes, create_scopes)?;
    }
    if !stored::insert_key(tx, &new)? {
        return Err(Error::new(Code::AlreadyExists, "The id or a secret is already in use."));
    }
    tx.invalidate(Invalidation::Id(new.key.id.clone()));
    let entry = Entry::of(new.key.organization_id.as_deref(), "api_key", &new.key.id, &new.key.name);
    entries.push(entry.with(changes(&Value::Null, &new.key)));
    Ok(entries)
}

/// Returns an error unless an API key's organization and owner exist; those of a revoked key may be deleted.
fn ensure_owner_exists(tx: &Tx<'_>, new: &NewKey) -> Result<()> {
    let Some(organization) = &new.key.organization_id else { return Ok(()) };
    let is_deleted = match stored::organization(tx, organization)? {
        None => return Err(missing_reference_error("organization", organization)),
        Some((_, deleted_at)) => deleted_at.is_some(),
    };
    let is_revoked = new.key.status == Status::Revoked;
    if is_deleted && !is_revoked {
        let message = format!("{organization} was deleted. Only its revoked keys can be imported.");
        return Err(Error::new(Code::Conflict, message));
    }
    let Some(user) = &new.key.user_id else { return Ok(()) };
    if is_revoked {
        return stored::user(tx, user)?.map(drop).ok_or_else(|| missing_reference_error("user", user));
    }
    if store::memberships::get(tx, organization, user)?.is_none() {
        let message = format!("{user} is not a member of {organization}. Import the membership first.");
        return Err(Error::new(Code::NotFound, message));
    }
    Ok(())
}

/// Adds unknown scopes if `create` has their creation time, otherwise refuses them. Returns audit entries.
fn ensure_or_create_scopes(tx: &Tx<'_>, grants: &[String], create: Option<Timestamp>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    if let Some(created_at) = create {
        for grant in grants.iter().filter(|grant| scope::is_custom(grant)) {
            let new = NewScope { scope: grant.clone(), description: None, created_at };
            if store::scopes::get(tx, grant)?.is_none() {
                entries.extend(put_scope(tx, &new, &[])?);
            }
        }
    }
    let Some(index) = scopes::first_unknown_scope(tx, grants)? else { return Ok(entries) };
    let mut detail = scopes::unknown_scope_detail(index, &grants[index]);
    if scope::is_custom(&grants[index]) {
        detail.message.push_str(" Use --create-scopes to add it.");
    }
    Err(Error::invalid(vec![detail]))
}
