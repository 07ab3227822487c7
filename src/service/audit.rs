//! The audit log: lists, reads and exports audit events, and verifies the audit chain.

mod csv_rows;

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::csv_rows::{CsvRow, csv_header};
use super::aggregated::REQUEST_REFUSED;
use super::api_keys::effective_organization;
use super::long_reads::LongReadGuard;
use super::operation::{Answer, Operation};
use super::{ListPage, RequestContext, audit_outcome, read_audited};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{Actor, AuditEntry, AuditFilter, Event, EventContext, Verification};
use crate::domain::chain::{ChainAnchor, ChainLink, ChainVerifier, EventColumns};
use crate::domain::id::Kind;
use crate::domain::page::{Order, Page, Query};
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::store::audit::{ChainRow, StoredEvent};
use crate::store::{self, db::Tx};

/// The number of events that an export or a verification reads in one transaction. Reading in chunks avoids a
/// read transaction that stays open while a slow client receives the export.
const EVENTS_PER_CHUNK: usize = 500;

/// Events hashed before the thread yields its core; they take about 100 µs.
const EVENTS_BETWEEN_YIELDS: usize = 16;

/// Returns the audit event as the caller may see it: complete for a platform key, redacted for an
/// organization's key.
fn visible_event(stored: StoredEvent, caller: &Caller) -> Result<Event> {
    let line = stored.link.to_line();
    let event: Event = serde_json::from_str(&line).map_err(Error::internal)?;
    Ok(if caller.organization_id().is_none() { event } else { event.redacted(stored.by_own_key) })
}

/// Lists the audit events that the caller can access.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<ListPage<Event>> {
    let (mut page, cursor) = query.page();
    let mut filter = AuditFilter::read(&mut query);
    query.finish(())?;
    filter.org_id = effective_organization(&ctx.caller, filter.org_id)?;
    let binding = format!("audit_events {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, _| {
        Ok((store::audit::list(tx, &filter, &page)?, AuditEntry::without_target(filter.org_id.as_deref())))
    });
    let listed = ListPage::new(app, &binding, rows.await?)?;
    let rows =
        listed.rows.into_iter().map(|stored| visible_event(stored, &ctx.caller)).collect::<Result<_>>()?;
    Ok(ListPage { rows, next_cursor: listed.next_cursor })
}

/// Prepares reading an audit event.
pub(crate) fn get(id: String) -> Operation {
    Operation::new(move |tx, caller| {
        let own = caller.organization_id();
        let stored = store::audit::get(tx, &id, own)?.ok_or_else(|| Error::not_found("audit event"))?;
        let entry = AuditEntry::for_resource(own, "audit_event", &id, "");
        Ok((Answer::ok(&visible_event(stored, caller)?)?, vec![entry]))
    })
}

/// The format of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = ExportFormat, rename_all = "lowercase")]
pub(crate) enum ExportFormat {
    /// One JSON object per line, one line per event.
    #[default]
    Ndjson,
    /// CSV (RFC 4180) with a header line.
    Csv,
}

impl ExportFormat {
    /// The names of the formats in the query parameter `format`.
    pub(crate) const NAMES: &'static [(&'static str, ExportFormat)] =
        &[("ndjson", ExportFormat::Ndjson), ("csv", ExportFormat::Csv)];
}

/// The chunks of an export.
pub(crate) struct ExportChunks {
    receiver: mpsc::Receiver<Result<Bytes>>,
    /// Dropped before the end of the stream is visible, so that a client that has read everything can export
    /// again.
    running: Option<LongReadGuard>,
    /// The task that reads the chunks. Aborted when the client disconnects, so that the task doesn't outlast the
    /// guard.
    _task: AbortOnDropHandle<()>,
}

impl Stream for ExportChunks {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = ready!(self.receiver.poll_recv(context));
        if chunk.is_none() {
            self.running = None;
        }
        Poll::Ready(chunk)
    }
}

/// Starts an export of the audit events that exist now, oldest first. Each chunk is read when the receiver
/// has room for it, so that memory use is constant. The export ends with an error when the database fails or
/// when retention removes events before the export is complete.
///
/// # Errors
/// `RATE_LIMITED` while another export or chain verification of the key is running, or too many are.
pub(crate) async fn export(
    app: &Arc<App>,
    ctx: &Arc<RequestContext>,
    mut query: Query,
) -> Result<(ExportFormat, ExportChunks)> {
    let running = app.long_reads.start(&ctx.caller)?;
    let format = query.one_of("format", ExportFormat::NAMES).unwrap_or_default();
    let with_bom = query.one_of("bom", &[("true", true), ("false", false)]).unwrap_or(false);
    let mut filter = AuditFilter::read(&mut query);
    query.finish(())?;
    if with_bom && format != ExportFormat::Csv {
        return Err(Error::invalid_request(vec![ErrorDetail {
            pointer: None,
            parameter: Some("bom".to_owned()),
            code: "INVALID_VALUE".into(),
            message: "Only CSV can start with a byte order mark; add format=csv.".to_owned(),
        }]));
    }
    filter.org_id = effective_organization(&ctx.caller, filter.org_id)?;
    let organization = filter.org_id.clone();
    let ((last, _), checkpoint) = read_audited(app, ctx, move |tx, _| {
        let bounds = (store::audit::chain_head(tx)?, store::audit::last_pruning_checkpoint(tx)?);
        Ok((bounds, AuditEntry::without_target(organization.as_deref())))
    })
    .await?;
    let (sender, receiver) = mpsc::channel(2);
    let (app, ctx) = (app.clone(), ctx.clone());
    let task = tokio::spawn(async move {
        let mut after = checkpoint.map(|checkpoint| checkpoint.seq);
        if format == ExportFormat::Csv && sender.send(csv_header(with_bom)).await.is_err() {
            return;
        }
        loop {
            let (filter, page) = (filter.clone(), Page { limit: EVENTS_PER_CHUNK, order: Order::Asc, after });
            let read = app.db.read(move |tx| {
                // An export without the events that retention removed would look as if it had been tampered
                // with.
                if store::audit::last_pruning_checkpoint(tx)? != checkpoint {
                    let message = "Retention removed events during the export. Start the export again.";
                    return Err(Error::new(Code::Conflict, message));
                }
                store::audit::list(tx, &filter, &page)
            });
            let read = read.await;
            let (chunk, next) = match read {
                Ok(rows) => (encode_chunk(rows.rows, last, format, &ctx.caller), rows.next),
                Err(error) => (Err(error), None),
            };
            let failed = chunk.is_err();
            // The export ends when the client has disconnected, reading has failed, or all events are sent.
            if sender.send(chunk).await.is_err() || failed || next.is_none_or(|seq| seq >= last) {
                return;
            }
            after = next;
        }
    });
    Ok((format, ExportChunks { receiver, running: Some(running), _task: AbortOnDropHandle::new(task) }))
}

/// Encodes the events of a chunk in the format of the export; omits events after the event `last`.
fn encode_chunk(rows: Vec<StoredEvent>, last: i64, format: ExportFormat, caller: &Caller) -> Result<Bytes> {
    let rows = rows.into_iter().filter(|stored| stored.link.seq <= last);
    match format {
        ExportFormat::Ndjson => {
            let mut text = String::new();
            for stored in rows {
                // Platform keys get the stored bytes, so that the audit chain of the exported file can be
                // verified.
                let line = match caller.organization_id() {
                    None => stored.link.to_line(),
                    Some(_) => {
                        serde_json::to_string(&visible_event(stored, caller)?).map_err(Error::internal)?
                    }
                };
                let _ = writeln!(text, "{line}");
            }
            Ok(text.into())
        }
        ExportFormat::Csv => {
            let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
            for stored in rows {
                csv.serialize(CsvRow::from(visible_event(stored, caller)?)).map_err(Error::internal)?;
            }
            Ok(csv.into_inner().map_err(Error::internal)?.into())
        }
    }
}

/// Verifies the audit chain, completely or from an anchor. Only platform keys can verify the chain. Stops when
/// the client disconnects.
///
/// # Errors
/// `RATE_LIMITED` while another export or chain verification of the key is running, or too many are.
pub(crate) async fn verify(
    app: &App,
    ctx: &Arc<RequestContext>,
    mut query: Query,
    disconnected: impl Future<Output = ()>,
) -> Result<Verification> {
    let _running = app.long_reads.start(&ctx.caller)?;
    let anchor = query.nonempty_text("anchor");
    query.finish(())?;
    let anchor = anchor.as_deref().map(parse_chain_anchor).transpose()?;
    let verification = tokio::select! {
        verification = verify_chain(app, anchor) => verification?,
        () = disconnected => {
            return Err(Error::unavailable("The client disconnected during the verification.", 1));
        }
    };
    read_audited(app, ctx, move |_, caller| {
        caller.require_platform()?;
        Ok((verification, AuditEntry::without_target(None)))
    })
    .await
}

/// Verifies the audit chain of the open database, in chunks.
///
/// # Errors
/// `INVALID_REQUEST` when retention has removed the anchor's event.
pub(crate) async fn verify_chain(app: &App, anchor: Option<ChainAnchor>) -> Result<Verification> {
    loop {
        let checkpoint = app.db.read(store::audit::last_pruning_checkpoint).await?;
        if let (Some(anchor), Some(checkpoint)) = (anchor, checkpoint)
            && anchor.seq < checkpoint.seq
        {
            return Err(anchor_pruned_error(anchor, checkpoint));
        }
        // If retention moves the checkpoint during the verification, the verification starts again from the
        // new checkpoint.
        if let Some(verification) = verify_chain_after(app, anchor, checkpoint).await? {
            return Ok(verification);
        }
    }
}

/// Verifies the audit chain after `checkpoint`; returns `None` if the checkpoint moved during the
/// verification.
async fn verify_chain_after(
    app: &App,
    anchor: Option<ChainAnchor>,
    checkpoint: Option<ChainAnchor>,
) -> Result<Option<Verification>> {
    let mut walk = ChainVerifier::new(anchor, true);
    // Events up to the checkpoint are skipped, because retention is removing them.
    let mut next = checkpoint.map_or(walk.first_seq(), |checkpoint| walk.first_seq().max(checkpoint.seq + 1));
    loop {
        let walked = app.db.read(move |tx| {
            if store::audit::last_pruning_checkpoint(tx)? != checkpoint {
                return Ok(None);
            }
            verify_chunk(tx, walk, next).map(Some)
        });
        let Some((walked, more)) = walked.await? else { return Ok(None) };
        walk = walked;
        match more {
            Some(seq) => next = seq,
            None => return Ok(Some(walk.finish())),
        }
    }
}

/// The error for an anchor that can't be checked because retention removed the anchor's event.
fn anchor_pruned_error(anchor: ChainAnchor, checkpoint: ChainAnchor) -> Error {
    let seq = anchor.seq;
    let first = checkpoint.seq + 1;
    Error::invalid_request(vec![ErrorDetail {
        pointer: None,
        parameter: Some("anchor".to_owned()),
        code: "ANCHOR_PRUNED".into(),
        message: format!(
            "Retention removed event {seq}; the log now begins at event {first}. Use a later anchor, or none."
        ),
    }])
}

/// Verifies the chunk of the audit chain that starts at the event `next`. Returns the `seq` of the next
/// chunk, or `None` at the end of the chain or at a broken event.
pub(super) fn verify_chunk(
    tx: &Tx<'_>,
    mut walk: ChainVerifier,
    next: i64,
) -> Result<(ChainVerifier, Option<i64>)> {
    let links = store::audit::chain_rows(tx, next, EVENTS_PER_CHUNK)?;
    for (index, ChainRow { seq, link }) in links.iter().enumerate() {
        // Without the yield, a verification of a key waits milliseconds until the kernel preempts this thread.
        if index % EVENTS_BETWEEN_YIELDS == 0 {
            thread::yield_now();
        }
        let is_valid = |(link, columns): &(ChainLink, EventColumns)| {
            walk.verify_next(link) && columns.matches_event(&link.json)
        };
        if !link.as_ref().is_some_and(is_valid) {
            walk.record_break(*seq);
            return Ok((walk, None));
        }
    }
    let more = links.last().filter(|_| links.len() == EVENTS_PER_CHUNK).map(|last| last.seq + 1);
    Ok((walk, more))
}

/// Parses an anchor of the form `seq:hash`; returns `INVALID_REQUEST` if the text has another form.
pub(crate) fn parse_chain_anchor(text: &str) -> Result<ChainAnchor> {
    ChainAnchor::parse(text).ok_or_else(|| {
        Error::invalid_request(vec![ErrorDetail {
            pointer: None,
            parameter: Some("anchor".to_owned()),
            code: "INVALID_ANCHOR".into(),
            message: "Must be seq:hash: an event's sequence number and the 64 hex digits of its hash."
                .to_owned(),
        }])
    })
}

/// Adds the refusal of a request without a valid API key to the aggregated events. `subject` is the client's
/// address.
pub(crate) fn aggregate_anonymous(
    app: &App,
    subject: &str,
    now: Timestamp,
    code: Code,
    context: EventContext,
) -> Result<()> {
    let is_read = matches!(context.method.as_deref(), Some("GET" | "HEAD"));
    let event = Event {
        id: app.new_id(Kind::Event)?,
        seq: None,
        occurred_at: now.to_string(),
        organization_id: None,
        actor: Actor::anonymous(),
        action: REQUEST_REFUSED.into(),
        access: if is_read { "read" } else { "write" }.into(),
        target: None,
        outcome: audit_outcome(Some(code)).into(),
        code: Some(code.name().into()),
        count: 1,
        changes: Vec::new(),
        context: EventContext { status: Some(code.status()), ..context },
        prev_hash: None,
        hash: None,
    };
    app.aggregated.add(subject, now, event);
    Ok(())
}
