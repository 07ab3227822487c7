//! Use cases: read the body, then in one transaction authorise, write and audit.
//!
//! [`mutate`] and [`read_audited`] are the only two ways in. Both record what they did: a change in its own
//! transaction, a look before its answer. [`refuse`] records what didn't come about. In a [`batch`], and where
//! an answer is kept for its [repetition](idempotency), both work [`within`] a transaction that is open
//! already.

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

/// Who calls, with what right, for what, and how the call came.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The caller as known when the call came.
    pub(crate) caller: Caller,
    /// The hash of the secret that it showed; `None` for the operator and the server itself.
    pub(crate) secret: Option<SecretHash>,
    /// The scopes of which the operation asks one.
    pub(crate) scopes: &'static [&'static str],
    /// `resource.verb`.
    pub(crate) action: &'static str,
    /// `read` or `write`.
    pub(crate) access: &'static str,
    /// When the call came.
    pub(crate) now: Timestamp,
    /// The client's address, if it is known.
    pub(crate) ip: Option<IpAddr>,
    /// `If-Match`.
    pub(crate) if_match: Option<String>,
    /// What the path names, for the record of a refusal.
    pub(crate) target: Option<Target>,
    /// How the call came, for the record.
    pub(crate) context: EventContext,
    /// Randomness for the ids of its events.
    pub(crate) random: u128,
    /// The open transaction that the operation is [within](within::run), if it is.
    pub(crate) seat: Option<Arc<Seat>>,
}

impl RequestContext {
    /// What the command line or the server itself does.
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

    /// The caller as the database knows it now: good, from a place where it may be, with the scope.
    fn reload(&self, tx: &Tx<'_>, clock: &Clock) -> Result<Caller> {
        let caller = self.read_caller(tx)?;
        self.admit(&caller, clock)?;
        Ok(caller)
    }

    /// The caller as the database knows it now, good or not.
    fn read_caller(&self, tx: &Tx<'_>) -> Result<Caller> {
        let Some(secret) = &self.secret else { return Ok(self.caller.clone()) };
        let credential = store::api_keys::by_hash(tx, secret)?.ok_or_else(access::invalid_api_key)?;
        Ok(Caller::Key(Arc::new(credential)))
    }

    /// Is the caller good, in a place where it may be, with the scope?
    fn admit(&self, caller: &Caller, clock: &Clock) -> Result<()> {
        let (Caller::Key(credential), Some(_)) = (caller, &self.secret) else { return Ok(()) };
        access::ensure_usable(credential, clock.now())?;
        access::ensure_address_allowed(&credential.key, self.ip)?;
        caller.require_scope(self.scopes)
    }

    /// The `nth` event of this call.
    fn event(&self, nth: usize, entry: Entry, status: u16, code: Option<Code>) -> Event {
        Event {
            id: Kind::Event.new_id(self.now, self.random.wrapping_add(nth as u128)),
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

    /// The event of a refusal.
    fn refusal(&self, error: &Error) -> Event {
        let entry = Entry {
            organization_id: self.caller.organization_id().map(str::to_owned),
            target: self.target.clone(),
            changes: Vec::new(),
        };
        self.event(0, entry, error.code.status(), Some(error.code))
    }

    /// Refuses when `If-Match` names another state than this one (RFC 9110 §13.1.1).
    fn require_match(&self, etag: &str) -> Result<()> {
        let Some(wanted) = &self.if_match else { return Ok(()) };
        if wanted.trim() == "*" || wanted.split(',').any(|one| one.trim() == etag) {
            return Ok(());
        }
        let message = "It has changed since you read it; read it again and retry with its ETag.";
        Err(Error::new(Code::PreconditionFailed, message))
    }
}

/// What the log calls the end of a call.
fn outcome(code: Option<Code>) -> &'static str {
    match code.map(Code::status) {
        None => "success",
        Some(401 | 403 | 429) => "denied",
        Some(_) => "failed",
    }
}

/// The strong ETag of a resource's stored state. The time of creation tells a membership from an
/// earlier one of the same two.
pub(crate) fn etag(created_at: Timestamp, revision: i64) -> String {
    format!("\"{:x}-{revision}\"", created_at.as_millis())
}

/// A page of a list as answered.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    /// The rows.
    pub(crate) rows: Vec<T>,
    /// Where to go on, when there are more.
    pub(crate) next_cursor: Option<String>,
}

impl<T> Listed<T> {
    fn new(app: &App, binding: &str, rows: Rows<T>) -> Result<Self> {
        let next_cursor =
            rows.next.map(|seq| app.cursors.seal(app.system_random(), binding, seq)).transpose()?;
        Ok(Self { rows: rows.rows, next_cursor })
    }
}

/// Changes something: in one transaction the caller is read again and authorised, the work is done,
/// and what it did is recorded. Answers after the commit; after an error nothing is done.
pub(crate) async fn mutate<T, F>(app: &App, ctx: &Arc<RequestContext>, status: u16, mut work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&Tx<'_>, &Caller) -> Result<(T, Vec<Entry>)> + Send + 'static,
{
    let context = ctx.clone();
    transact(app, ctx, move |tx, caller| {
        let (value, entries) = work(tx, caller)?;
        settings::accept_change(tx, &context, &entries)?;
        for (nth, entry) in entries.into_iter().enumerate() {
            store::audit::append(tx, context.event(nth, entry, status, None))?;
        }
        Ok(value)
    })
    .await
}

/// Works in a transaction of its own, for the caller as it is there, or in the one that is open already.
async fn transact<T, F>(app: &App, ctx: &Arc<RequestContext>, mut work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&Tx<'_>, &Caller) -> Result<T> + Send + 'static,
{
    let (ctx, clock) = (ctx.clone(), app.clock.clone());
    match &ctx.seat {
        // Read there when the handler began.
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

/// Looks at something, and records that before the answer.
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

/// Records a refusal or a failure. What a client can repeat cheaply is folded, the rest is an event of
/// its own.
pub(crate) async fn refuse(app: &App, ctx: &Arc<RequestContext>, error: &Error) -> Result<()> {
    if is_cheap(error) {
        aggregate_refusal(app, ctx, error);
        return Ok(());
    }
    append(app, ctx.refusal(error)).await
}

/// Can a client repeat it cheaply, so that it is folded?
fn is_cheap(error: &Error) -> bool {
    matches!(error.code.status(), 401 | 403 | 429)
}

/// Counts a refusal, if it is one of those that are folded.
fn aggregate_refusal(app: &App, ctx: &RequestContext, error: &Error) {
    if is_cheap(error) {
        aggregate(app, ctx, Event { action: aggregated::REFUSED.into(), ..ctx.refusal(error) });
    }
}

/// Counts a look that a client may repeat all the time, instead of recording each.
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
