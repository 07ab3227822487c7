//! Exports audit events as a stream of chunks.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use utoipa::IntoParams;

use super::EVENTS_PER_CHUNK;
use super::csv::{CsvRow, csv_header};
use super::list::visible_event;
use crate::app::App;
use crate::app::long_reads::LongReadGuard;
use crate::domain::access::Caller;
use crate::domain::audit::{AuditEntry, AuditFilter};
use crate::domain::page::{Order, Page, Query};
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::service::api_keys::effective_organization;
use crate::service::{RequestContext, read_audited};
use crate::store;
use crate::store::audit::StoredEvent;

/// The format of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = ExportFormat, rename_all = "lowercase")]
#[derive(strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum ExportFormat {
    /// One JSON object per line, one line per event.
    #[default]
    Ndjson,
    /// CSV (RFC 4180) with a header line.
    Csv,
}

/// The query parameters of an export, besides the filters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// The format: one JSON object per line, or CSV with a header line.
    #[param(default = "ndjson")]
    format: Option<ExportFormat>,
    /// Starts CSV with a byte order mark, by which spreadsheets recognize UTF-8.
    #[param(default = false)]
    bom: Option<bool>,
}

impl ExportQuery {
    fn read(query: &mut Query) -> Self {
        Self { format: query.one_of("format"), bom: query.boolean("bom") }
    }
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
    let running = app.audit_reads.start(&ctx.caller)?;
    let ExportQuery { format, bom } = ExportQuery::read(&mut query);
    let format = format.unwrap_or_default();
    let with_bom = bom.unwrap_or(false);
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
