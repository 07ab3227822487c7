//! The rows of the audit log's CSV export.

use bytes::Bytes;
use serde::Serialize;

use crate::domain::audit::Event;
use crate::error::{Error, Result};

/// One audit event as a row of the CSV export.
#[derive(Default, Serialize)]
pub(super) struct CsvRow {
    seq: Option<i64>,
    id: String,
    occurred_at: String,
    organization_id: String,
    actor_type: String,
    actor_id: String,
    actor_name: String,
    actor_user_id: String,
    action: String,
    access: String,
    target_type: String,
    target_id: String,
    target_name: String,
    outcome: String,
    code: String,
    count: u64,
    changes: String,
    request_id: String,
    method: String,
    path: String,
    status: Option<u16>,
    ip: String,
    user_agent: String,
    batch_id: String,
    prev_hash: String,
    hash: String,
}

impl From<Event> for CsvRow {
    fn from(event: Event) -> Self {
        let text = |text: Option<String>| escape_formula(text.unwrap_or_default());
        let (target_type, target_id, target_name) = match event.target {
            Some(target) => (target.kind.as_str().to_owned(), target.id, target.name),
            None => Default::default(),
        };
        Self {
            seq: event.seq,
            id: event.id,
            occurred_at: event.occurred_at,
            organization_id: text(event.organization_id),
            actor_type: event.actor.kind.as_str().to_owned(),
            actor_id: text(event.actor.id),
            actor_name: text(event.actor.name),
            actor_user_id: text(event.actor.user_id),
            action: event.action.as_str().to_owned(),
            access: event.access.as_str().to_owned(),
            target_type,
            target_id: text(target_id),
            target_name: text(target_name),
            outcome: event.outcome.as_str().to_owned(),
            code: text(event.code.map(|code| code.into_owned())),
            count: event.count,
            changes: serde_json::to_string(&event.changes).unwrap_or_default(),
            request_id: text(event.context.request_id),
            method: text(event.context.method),
            path: text(event.context.path),
            status: event.context.status,
            ip: text(event.context.ip),
            user_agent: text(event.context.user_agent),
            batch_id: text(event.context.batch_id),
            prev_hash: text(event.prev_hash),
            hash: text(event.hash),
        }
    }
}

/// Prefixes the text of a CSV cell with an apostrophe if a spreadsheet would evaluate the text as a formula.
/// Spreadsheets skip leading blanks, and some take full-width characters for their ASCII forms.
fn escape_formula(text: String) -> String {
    let first = text.trim_start().chars().next();
    let is_formula = matches!(first, Some('=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠'));
    if is_formula || text.starts_with(['\t', '\r', '\n']) { format!("'{text}") } else { text }
}

/// The UTF-8 byte order mark, by which spreadsheets recognize the encoding.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Returns the header line of the CSV export: the field names of [`CsvRow`], after a byte order mark if
/// `with_bom` is true.
pub(super) fn csv_header(with_bom: bool) -> Result<Bytes> {
    let start = if with_bom { BYTE_ORDER_MARK } else { &[] };
    let mut csv = csv::Writer::from_writer(start.to_vec());
    csv.serialize(CsvRow::default()).map_err(Error::internal)?;
    let written = csv.into_inner().map_err(Error::internal)?;
    let end = written.iter().position(|byte| *byte == b'\n').map_or(written.len(), |end| end + 1);
    Ok(Bytes::from(written).slice(..end))
}
