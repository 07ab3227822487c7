//! The operations of the control plane: each one parses its input, then authorizes the caller, writes and
//! audits in one transaction.
//!
//! What can be a part of a [`batch`] or kept for its [replay](idempotency) is an [`operation`]; lists, reports and jobs
//! run through [`read_audited`] and [`mutate`]. All record audit events: a change in the same transaction, a read before
//! the response is sent. [`record_refusal`] records refused and failed requests.

pub(crate) mod access_blocks;
pub(crate) mod access_change_attempts;
pub mod api_keys;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod check;
pub mod clock;
mod expand;
pub(crate) mod export;
pub mod housekeeping;
pub mod idempotency;
pub(crate) mod import;
pub(crate) mod key_lookup;
pub mod lifecycle;
pub mod memberships;
pub(crate) mod metrics;
pub mod operation;
pub mod operator_keys;
pub mod organizations;
pub(crate) mod overview;
pub(crate) mod own_key;
pub(crate) mod readiness;
pub(crate) mod restore;
pub mod retention;
pub(crate) mod sample;
pub mod scopes;
pub(crate) mod search;
pub(crate) mod secret_prefixes;
pub(crate) mod settings;
pub mod usage;
mod usage_by_user;
pub(crate) mod usage_reports;
pub mod users;
pub(crate) mod verification_log;
pub mod windows;

use std::net::IpAddr;
use std::sync::Arc;

use crate::app::App;
use crate::clock::Clock;
use crate::domain::access::{self, Caller};
use crate::domain::action::{Access, Action};
use crate::domain::api_key::SecretHash;
use crate::domain::audit::{Actor, AuditEntry, Event, EventContext, Outcome, Target};
use crate::domain::etag::matches_etag;
use crate::domain::id::Kind;
use crate::domain::page::Rows;
use crate::domain::redaction::Redactor;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};
use access_change_attempts::AccessChangeAttempts;

/// The context of an operation: its caller and credential, the requested operation, and the client's address.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The caller as of the request's arrival.
    pub(crate) caller: Caller,
    /// The hash of the presented secret; `None` for the operator and the server itself.
    pub(crate) secret: Option<SecretHash>,
    /// Cuts secrets out of what is recorded, including the credential that the request presented.
    pub(crate) redactor: Redactor,
    /// Any one of these scopes suffices; empty means no scope is required.
    pub(crate) scopes: &'static [&'static str],
    /// True if the operation refuses the previous secret of a rotated key.
    pub(crate) requires_current_secret: bool,
    /// True if only platform keys are admitted.
    pub(crate) requires_platform_key: bool,
    pub(crate) action: Action,
    /// The access in the audit log: that of the action, or of a request that is refused before its action is known.
    pub(crate) access: Access,
    /// The time of the request's arrival.
    pub(crate) now: Timestamp,
    /// The time by which keys have expired: later than `now` after the clock was set back.
    pub(crate) expiry_time: Timestamp,
    /// The client's address; `None` if it could not be determined.
    pub(crate) ip: Option<IpAddr>,
    /// The value of the `If-Match` header.
    pub(crate) if_match: Option<String>,
    /// The resource named by the URL path; the audit event of a refusal contains it.
    pub(crate) target: Option<Target>,
    /// The field `context` of the operation's audit events.
    pub(crate) context: EventContext,
    /// The changes of access that the request attempts.
    pub(crate) attempts: AccessChangeAttempts,
    /// Random bits from which the ids of the operation's audit events are derived.
    pub(crate) random: u128,
}

impl RequestContext {
    /// Creates the context of an operation by the command line or by the server itself, without a secret and
    /// without a required scope.
    ///
    /// # Errors
    /// `INTERNAL` when the operating system provides no random bytes.
    pub fn internal(app: &App, caller: Caller, action: Action) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            caller,
            secret: None,
            redactor: Redactor::default(),
            scopes: &[],
            requires_current_secret: false,
            requires_platform_key: false,
            action,
            access: action.access(),
            now: app.clock.now(),
            expiry_time: app.clock.expiry_time(),
            ip: None,
            if_match: None,
            target: None,
            context: EventContext::default(),
            attempts: AccessChangeAttempts::new(app.access_blocks.clone()),
            random: app.random_bits()?,
        }))
    }

    /// Reads the caller from the database again. Returns an error unless the caller's key is usable, the
    /// client's address is allowed, the key has a scope that the operation requires, and the operation accepts the
    /// secret that the caller presented (the previous secret of a rotated key may not change access).
    fn reload_caller(&self, tx: &Tx<'_>, clock: &Clock) -> Result<Caller> {
        let caller = self.read_caller(tx)?;
        self.ensure_admitted(&caller, clock)?;
        Ok(caller)
    }

    /// Reads the caller from the database again, without checking whether the caller's key is usable.
    fn read_caller(&self, tx: &Tx<'_>) -> Result<Caller> {
        let Some(secret) = &self.secret else { return Ok(self.caller.clone()) };
        let mut credential =
            store::api_keys::find_credential_by_hash(tx, secret)?.ok_or_else(access::invalid_api_key)?;
        self.attempts.apply_blocks(&mut credential);
        Ok(Caller::Key(Arc::new(credential)))
    }

    /// Returns an error unless the caller's key is usable, the client's address is allowed, and the key's
    /// scopes and the presented secret suffice.
    fn ensure_admitted(&self, caller: &Caller, clock: &Clock) -> Result<()> {
        let (Caller::Key(credential), Some(_)) = (caller, &self.secret) else { return Ok(()) };
        access::ensure_usable(credential, clock.expiry_time())?;
        access::ensure_address_allowed(&credential.key, self.ip)?;
        self.authorize(caller)
    }

    /// Returns an error unless the scopes of the caller's key and the presented secret suffice, and the key belongs to the
    /// platform if only such keys are admitted.
    pub(crate) fn authorize(&self, caller: &Caller) -> Result<()> {
        caller.require_scope(self.scopes)?;
        if self.requires_current_secret {
            caller.require_current_secret()?;
        }
        if self.requires_platform_key { caller.require_platform() } else { Ok(()) }
    }

    /// Creates the audit event number `index` of this operation.
    fn audit_event(&self, index: usize, entry: AuditEntry, status: u16, code: Option<Code>) -> Event {
        let event = Event {
            id: Kind::Event.new_id(self.now, self.random.wrapping_add(index as u128)),
            seq: None,
            occurred_at: self.now.to_string(),
            organization_id: entry.organization_id,
            actor: Actor::from(&self.caller),
            action: entry.action.unwrap_or(self.action).into(),
            access: self.access.into(),
            target: entry.target,
            outcome: Outcome::of(code).into(),
            code: code.map(|code| code.name().into()),
            count: 1,
            changes: entry.changes,
            context: EventContext {
                status: self.context.method.as_ref().map(|_| status),
                ..self.context.clone()
            },
            prev_hash: None,
            hash: None,
        };
        event.recorded(&self.redactor)
    }

    /// Creates the audit event of this operation's refusal or failure.
    fn refusal_event(&self, error: &Error) -> Event {
        let entry = AuditEntry {
            organization_id: self.caller.organization_id().map(str::to_owned),
            target: self.target.clone(),
            ..AuditEntry::without_target(None)
        };
        // Not number 0: a read that succeeded is recorded as that, and its response may then be refused because it
        // takes too much memory.
        self.audit_event(1, entry, error.code.status(), Some(error.code))
    }

    /// Returns `PRECONDITION_FAILED` if the request has an `If-Match` header that doesn't match this ETag
    /// (RFC 9110 §13.1.1).
    fn require_if_match(&self, etag: &str) -> Result<()> {
        let Some(if_match) = &self.if_match else { return Ok(()) };
        if matches_etag(if_match, etag) {
            return Ok(());
        }
        let message =
            "The resource has changed since you read it. Read it again and retry with its current ETag.";
        Err(Error::new(Code::PreconditionFailed, message))
    }
}

/// The strong ETag of a resource's stored state. The ETag contains the creation time, because a membership
/// that is removed and added again starts again at revision 1.
pub(crate) fn etag(created_at: Timestamp, revision: i64) -> String {
    format!("\"{:x}-{revision}\"", created_at.as_millis())
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct ListPage<T> {
    pub(crate) rows: Vec<T>,
    /// The cursor of the next page; `None` on the last page.
    pub(crate) next_cursor: Option<String>,
}

impl<T> ListPage<T> {
    fn new(app: &App, binding: &str, rows: Rows<T>) -> Result<Self> {
        let next_cursor = rows.next.map(|seq| app.cursors.seal(&app.random, binding, seq)).transpose()?;
        Ok(Self { rows: rows.rows, next_cursor })
    }
}

/// Runs a change: one transaction reads the caller again and authorizes the caller, runs `work`, and appends
/// the audit events of the entries that `work` returns. Returns after the commit; if an error is returned,
/// nothing was changed.
pub(crate) async fn mutate<T, F>(app: &App, ctx: &Arc<RequestContext>, status: u16, mut work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&Tx<'_>, &Caller) -> Result<(T, Vec<AuditEntry>)> + Send + 'static,
{
    let context = ctx.clone();
    let change = move |tx: &Tx<'_>, caller: &Caller| {
        let (value, entries) = work(tx, caller)?;
        record_change(tx, &context, status, entries)?;
        Ok(value)
    };
    run_in_transaction(app, ctx, change).await
}

/// Runs `work` in a transaction that reads the caller again and authorizes it. Returns after the commit.
async fn run_in_transaction<T, F>(app: &App, ctx: &Arc<RequestContext>, mut work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&Tx<'_>, &Caller) -> Result<T> + Send + 'static,
{
    let ctx = ctx.clone();
    let clock = app.clock.clone();
    app.db.write_with_reserve(move |tx| work(tx, &ctx.reload_caller(tx, &clock)?)).await
}

/// Records a change in its transaction, unless it is refused in read-only mode or because storage is full.
fn record_change(tx: &Tx<'_>, ctx: &RequestContext, status: u16, entries: Vec<AuditEntry>) -> Result<()> {
    settings::check_read_only(tx, ctx, &entries)?;
    settings::check_storage_full(tx, ctx, &entries)?;
    // A revocation that only ended the previous secret is not what was attempted, and must not lift blocks of the key.
    let is_as_attempted = entries.iter().all(|entry| entry.action.is_none());
    for (index, entry) in entries.into_iter().enumerate() {
        store::audit::append(tx, ctx.audit_event(index, entry, status, None))?;
    }
    if is_as_attempted {
        ctx.attempts.declare_stored(tx);
    }
    Ok(())
}

/// Records a read in the transaction of other operations. While storage is full, it is aggregated in memory once the
/// transaction has ended.
fn record_read(tx: &Tx<'_>, ctx: &RequestContext, entries: Vec<AuditEntry>) -> Result<()> {
    if tx.is_storage_full() {
        return Ok(());
    }
    let mut events = entries.into_iter().enumerate();
    events.try_for_each(|(index, entry)| store::audit::append(tx, ctx.audit_event(index, entry, 200, None)))
}

/// Runs a read, and records the read's audit event before returning the result. While storage is full, the event
/// is aggregated in memory instead.
pub(crate) async fn read_audited<T, F>(app: &App, ctx: &Arc<RequestContext>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>, &Caller) -> Result<(T, AuditEntry)> + Send + 'static,
{
    let reader = ctx.clone();
    let (value, entry) = app.db.read(move |tx| work(tx, &reader.caller)).await?;
    let event = ctx.audit_event(0, entry, 200, None);
    record_or_aggregate(app, ctx, event, Action::RequestRead).await?;
    Ok(value)
}

/// Records the refusal or failure of an operation in the audit log. Refusals that a client can repeat cheaply
/// are aggregated; every other one gets a separate audit event, unless storage is full.
pub(crate) async fn record_refusal(app: &App, ctx: &Arc<RequestContext>, error: &Error) -> Result<()> {
    if let Some(event) = unstored_refusal(ctx, error, false) {
        aggregate_event(app, ctx, event);
        return Ok(());
    }
    record_or_aggregate(app, ctx, ctx.refusal_event(error), Action::RequestRefused).await
}

/// True if refusals with this error are aggregated: a client can repeat them cheaply, there is no room to store them,
/// or the database can't be used. In the last case the client would wait once more, for its refusal to be stored.
fn is_aggregated(error: &Error) -> bool {
    let is_database_unusable = error.code == Code::Unavailable && error.cause.is_some();
    let is_denied = Outcome::of(Some(error.code)) == Outcome::Denied;
    is_database_unusable || is_denied || error.code == Code::StorageFull
}

/// The event of an operation that was refused or failed within a transaction, to be aggregated after it: `None` if it is
/// stored there. While storage is full, none is stored.
fn unstored_refusal(ctx: &RequestContext, error: &Error, is_storage_full: bool) -> Option<Event> {
    let event = || Event { action: Action::RequestRefused.into(), ..ctx.refusal_event(error) };
    (is_storage_full || is_aggregated(error)).then(event)
}

/// The event of a read within a transaction, to be aggregated after it if storage is full.
fn unstored_read(ctx: &RequestContext) -> Event {
    let entry = AuditEntry::without_target(ctx.caller.organization_id());
    Event { action: Action::RequestRead.into(), ..ctx.audit_event(0, entry, 200, None) }
}

/// Appends an event to the audit log or, if storage is full, adds it to the aggregated events with this action.
async fn record_or_aggregate(
    app: &App,
    ctx: &RequestContext,
    event: Event,
    aggregated_action: Action,
) -> Result<()> {
    // While the reserve is in use, the event would only take room from it.
    if !app.db.has_no_room() {
        match append_event(app, event.clone()).await {
            Err(error) if error.code == Code::StorageFull => {}
            result => return result,
        }
    }
    aggregate_event(app, ctx, Event { action: aggregated_action.into(), ..event });
    Ok(())
}

/// Adds a read to the aggregated events, instead of recording an audit event for each read, because clients
/// may poll it.
pub(crate) fn aggregate_read(app: &App, ctx: &Arc<RequestContext>) {
    aggregate_event(
        app,
        ctx,
        ctx.audit_event(0, AuditEntry::without_target(ctx.caller.organization_id()), 200, None),
    );
}

/// Adds events that were not stored in the transaction of their request to the aggregated events.
fn aggregate_events(app: &App, ctx: &RequestContext, events: Vec<Event>) {
    events.into_iter().for_each(|event| aggregate_event(app, ctx, event));
}

fn aggregate_event(app: &App, ctx: &RequestContext, event: Event) {
    app.unstored.aggregated.add(ctx.caller.key().map_or("", |key| &key.id), ctx.now, event);
}

async fn append_event(app: &App, event: Event) -> Result<()> {
    app.db.write(move |tx| store::audit::append(tx, event.clone())).await
}
