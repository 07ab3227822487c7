//! The audit log: lists, reads and exports audit events, and verifies the audit chain.

mod chain;
mod csv;
mod export;
mod list;

pub(crate) use chain::{AnchorQuery, ChainWalk, verify, verify_chain};
pub(crate) use export::{ExportFormat, ExportQuery, export};
pub(crate) use list::{get, list};

use crate::app::App;
use crate::domain::action::{Access, Action};
use crate::domain::audit::{Actor, Event, EventContext, Outcome};
use crate::domain::id::Kind;
use crate::domain::time::Timestamp;
use crate::error::{Code, Result};

/// The number of events that an export or a verification reads in one transaction. Reading in chunks avoids a
/// read transaction that stays open while a slow client receives the export.
const EVENTS_PER_CHUNK: usize = 500;

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
        action: Action::RequestRefused.into(),
        access: if is_read { Access::Read } else { Access::Write }.into(),
        target: None,
        outcome: Outcome::of(Some(code)).into(),
        code: Some(code.name().into()),
        count: 1,
        changes: Vec::new(),
        context: EventContext { status: Some(code.status()), ..context },
        prev_hash: None,
        hash: None,
    };
    app.unstored.aggregated.add(subject, now, event);
    Ok(())
}
