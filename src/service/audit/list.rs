//! Lists and reads audit events.

use std::sync::Arc;

use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::TargetKind;
use crate::domain::audit::{AuditEntry, AuditFilter, Event};
use crate::domain::page::Query;
use crate::error::{Error, Result};
use crate::service::api_keys::effective_organization;
use crate::service::operation::{Answer, Operation};
use crate::service::{ListPage, RequestContext, read_audited};
use crate::store;
use crate::store::audit::StoredEvent;

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
        let entry = AuditEntry::for_resource(own, TargetKind::AuditEvent, &id, "");
        Ok((Answer::ok(&visible_event(stored, caller)?)?, vec![entry]))
    })
}

/// Returns the audit event as the caller may see it: complete for a platform key, redacted for an
/// organization's key.
pub(super) fn visible_event(stored: StoredEvent, caller: &Caller) -> Result<Event> {
    let line = stored.link.to_line();
    let event: Event = serde_json::from_str(&line).map_err(Error::internal)?;
    Ok(if caller.organization_id().is_none() { event } else { event.redacted(stored.by_own_key) })
}
