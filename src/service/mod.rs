//! Use cases: each reads the body, then authorizes, writes and audits in one transaction.
//!
//! [`mutate`] and [`read_audited`] are the only two entry points. Both record an audit event: a change in
//! the same transaction, a read before its response. [`refuse`] records what was refused or failed. In a
//! [`batch`], and where a response is stored for its [replay](idempotency), both run [`within`] a
//! transaction that is already open.

pub(crate) mod aggregated;
pub mod api_keys;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod check;
pub(crate) mod cursors;
pub(crate) mod export;
pub mod housekeeping;
pub mod idempotency;
pub(crate) mod import;
pub mod memberships;
pub(crate) mod metrics;
pub mod organizations;
pub(crate) mod overview;
pub(crate) mod restore;
pub mod retention;
pub(crate) mod sample;
pub mod scopes;
pub(crate) mod settings;
pub mod usage;
pub mod users;
pub(crate) mod verification_log;
pub(crate) mod within;

use std::net::IpAddr;
use std::sync::Arc;

use crate::app::App;
use crate::clock::Clock;
use crate::domain::access::{self, Caller};
use crate::domain::api_key::SecretHash;
use crate::domain::audit::{Actor, Entry, Event, EventContext, Target};
use crate::domain::id::Kind;
use crate::domain::page::Rows;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};
use within::Seat;

/// Who calls, with which credential, for which operation, and from where.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The caller as of the request's arrival.
    pub(crate) caller: Caller,
    /// The hash of the presented secret; `None` for the operator and the server itself.
    pub(crate) secret: Option<SecretHash>,
    /// Any one of these scopes suffices; empty means no scope is required.
    pub(crate) scopes: &'static [&'static str],
    /// True if a rotated secret in its grace period doesn't suffice.
    pub(crate) requires_current_secret: bool,
    /// `resource.verb`.
    pub(crate) action: &'static str,
    /// `read` or `write`.
    pub(crate) access: &'static str,
    /// The time of the request's arrival.
    pub(crate) now: Timestamp,
    /// The client's address; `None` if it could not be determined.
    pub(crate) ip: Option<IpAddr>,
    /// The value of the `If-Match` header.
    pub(crate) if_match: Option<String>,
    /// The resource named by the path, for the audit event of a refusal.
    pub(crate) target: Option<Target>,
    /// The `context` of the audit events.
    pub(crate) context: EventContext,
    /// Random bits for the ids of the audit events.
    pub(crate) random: u128,
    /// Set when the operation runs [within](within::run) an open transaction.
    pub(crate) seat: Option<Arc<Seat>>,
}

impl RequestContext {
    /// The context of an operation of the command line or of the server itself: no secret, no required scope.
    ///
    /// # Errors
    /// `INTERNAL` when the system has no randomness.
    pub fn internal(
        app: &App,
        caller: Caller,
        action: &'static str,
        access: &'static str,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            caller,
            secret: None,
            scopes: &[],
            requires_current_secret: false,
            action,
            access,
            now: app.clock.now(),
            ip: None,
            if_match: None,
            target: None,
            context: EventContext::default(),
            random: app.random()?,
            seat: None,
        }))
    }

    /// Reads the caller from the database again; refuses it unless it is usable, its address allowed, and its
    /// scope and secret sufficient.
    fn reload(&self, tx: &Tx<'_>, clock: &Clock) -> Result<Caller> {
        let caller = self.read_caller(tx)?;
        self.admit(&caller, clock)?;
        Ok(caller)
    }

    /// Reads the caller from the database again, usable or not.
    fn read_caller(&self, tx: &Tx<'_>) -> Result<Caller> {
        let Some(secret) = &self.secret else { return Ok(self.caller.clone()) };
        let credential = store::api_keys::by_hash(tx, secret)?.ok_or_else(access::invalid_api_key)?;
        Ok(Caller::Key(Arc::new(credential)))
    }

    /// Refuses the caller unless it is usable, its address allowed, and its scope and secret sufficient.
    fn admit(&self, caller: &Caller, clock: &Clock) -> Result<()> {
        let (Caller::Key(credential), Some(_)) = (caller, &self.secret) else { return Ok(()) };
        access::ensure_usable(credential, clock.now())?;
        access::ensure_address_allowed(&credential.key, self.ip)?;
        self.authorize(caller)
    }

    /// Refuses the caller unless its scope and secret suffice.
    pub(crate) fn authorize(&self, caller: &Caller) -> Result<()> {
        caller.require_scope(self.scopes)?;
        if self.requires_current_secret { caller.require_current_secret() } else { Ok(()) }
    }

    /// The audit event number `index` of this call.
    fn event(&self, index: usize, entry: Entry, status: u16, code: Option<Code>) -> Event {
        Event {
            id: Kind::Event.new_id(self.now, self.random.wrapping_add(index as u128)),
            seq: None,
            occurred_at: self.now.to_string(),
            organization_id: entry.organization_id,
            actor: Actor::from(&self.caller),
            action: self.action.into(),
            access: self.access.into(),
            target: entry.target,
            outcome: outcome(code).into(),
            code: code.map(|code| code.name().into()),
            count: 1,
            changes: entry.changes,
            context: EventContext {
                status: self.context.method.as_ref().map(|_| status),
                ..self.context.clone()
            },
            prev_hash: None,
            hash: None,
        }
    }

    /// The audit event of a refusal.
    fn refusal(&self, error: &Error) -> Event {
        let entry = Entry {
            organization_id: self.caller.organization_id().map(str::to_owned),
            target: self.target.clone(),
            changes: Vec::new(),
        };
        self.event(0, entry, error.code.status(), Some(error.code))
    }

    /// Refuses with `PRECONDITION_FAILED` unless `If-Match` is absent or names this ETag (RFC 9110 §13.1.1).
    fn require_match(&self, etag: &str) -> Result<()> {
        let Some(if_match) = &self.if_match else { return Ok(()) };
        if if_match.trim() == "*" || if_match.split(',').any(|tag| tag.trim() == etag) {
            return Ok(());
        }
        let message =
            "The resource has changed since you read it. Read it again and retry with its current ETag.";
        Err(Error::new(Code::PreconditionFailed, message))
    }
}

/// The audit log's name for a call's outcome; `None` stands for success.
fn outcome(code: Option<Code>) -> &'static str {
    match code.map(Code::status) {
        None => "success",
        Some(401 | 403 | 429) => "denied",
        Some(_) => "failed",
    }
}

/// The strong ETag of a resource's stored state. The time of creation distinguishes a membership from an
/// earlier one of the same user and organization.
pub(crate) fn etag(created_at: Timestamp, revision: i64) -> String {
    format!("\"{:x}-{revision}\"", created_at.as_millis())
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    pub(crate) rows: Vec<T>,
    /// The cursor of the next page; `None` on the last.
    pub(crate) next_cursor: Option<String>,
}

impl<T> Listed<T> {
    fn new(app: &App, binding: &str, rows: Rows<T>) -> Result<Self> {
        let next_cursor =
            rows.next.map(|seq| app.cursors.seal(app.system_random(), binding, seq)).transpose()?;
        Ok(Self { rows: rows.rows, next_cursor })
    }
}

/// Runs a change: one transaction reads the caller again and authorizes it, runs `work`, and appends the
/// audit events of the entries that `work` returns. Returns after the commit; an error means nothing was
/// changed.
pub(crate) async fn mutate<T, F>(app: &App, ctx: &Arc<RequestContext>, status: u16, mut work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&Tx<'_>, &Caller) -> Result<(T, Vec<Entry>)> + Send + 'static,
{
    let context = ctx.clone();
    transact(app, ctx, move |tx, caller| {
        let (value, entries) = work(tx, caller)?;
        settings::check_read_only(tx, &context, &entries)?;
        for (index, entry) in entries.into_iter().enumerate() {
            store::audit::append(tx, context.event(index, entry, status, None))?;
        }
        Ok(value)
    })
    .await
}

/// Runs `work` in the transaction that is already open, or else in a new one, with the caller as read
/// inside it.
async fn transact<T, F>(app: &App, ctx: &Arc<RequestContext>, mut work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&Tx<'_>, &Caller) -> Result<T> + Send + 'static,
{
    let ctx = ctx.clone();
    let clock = app.clock.clone();
    match &ctx.seat {
        // The caller was read inside this transaction before the handler ran.
        Some(seat) => {
            let caller = ctx.caller.clone();
            seat.run(move |tx| work(tx, &caller)).await
        }
        None => {
            app.db
                .write(move |tx| {
                    let caller = ctx.reload(tx, &clock)?;
                    work(tx, &caller)
                })
                .await
        }
    }
}

/// Runs a read, and records its audit event before it returns.
pub(crate) async fn read_audited<T, F>(app: &App, ctx: &Arc<RequestContext>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>, &Caller) -> Result<(T, Entry)> + Send + 'static,
{
    let reader = ctx.clone();
    if let Some(seat) = &ctx.seat {
        return seat
            .run(move |tx| {
                let (value, entry) = work(tx, &reader.caller)?;
                store::audit::append(tx, reader.event(0, entry, 200, None))?;
                Ok(value)
            })
            .await;
    }
    let (value, entry) = app.db.read(move |tx| work(tx, &reader.caller)).await?;
    record(app, ctx, entry, 200, None).await?;
    Ok(value)
}

/// Records a refusal or a failure. What a client can repeat cheaply is aggregated; everything else gets an
/// audit event of its own.
pub(crate) async fn refuse(app: &App, ctx: &Arc<RequestContext>, error: &Error) -> Result<()> {
    if is_aggregated(error) {
        aggregate_refusal(app, ctx, error);
        return Ok(());
    }
    append(app, ctx.refusal(error)).await
}

/// True for refusals that a client can repeat cheaply; they are aggregated.
fn is_aggregated(error: &Error) -> bool {
    matches!(error.code.status(), 401 | 403 | 429)
}

/// Counts a refusal if it is one of those that are aggregated.
fn aggregate_refusal(app: &App, ctx: &RequestContext, error: &Error) {
    if is_aggregated(error) {
        aggregate(app, ctx, Event { action: aggregated::REFUSED.into(), ..ctx.refusal(error) });
    }
}

/// Counts a read that a client may repeat all the time, instead of recording each one.
pub(crate) fn aggregate_read(app: &App, ctx: &Arc<RequestContext>) {
    aggregate(app, ctx, ctx.event(0, Entry::about(ctx.caller.organization_id()), 200, None));
}

fn aggregate(app: &App, ctx: &RequestContext, event: Event) {
    app.aggregated.add(ctx.caller.key().map_or("", |key| &key.id), ctx.now, event);
}

async fn record(
    app: &App,
    ctx: &Arc<RequestContext>,
    entry: Entry,
    status: u16,
    code: Option<Code>,
) -> Result<()> {
    append(app, ctx.event(0, entry, status, code)).await
}

async fn append(app: &App, event: Event) -> Result<()> {
    app.db.write(move |tx| store::audit::append(tx, event.clone())).await
}
