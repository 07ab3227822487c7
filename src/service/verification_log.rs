//! The verification log: lists denied verifications. The [flush of usage](super::usage::flush) writes the
//! log.

use std::sync::Arc;

use super::api_keys::effective_organization;
use super::{ListPage, RequestContext, read_audited};
use crate::app::App;
use crate::domain::audit;
use crate::domain::page::Query;
use crate::domain::verification_log::{Entry, VerificationLogFilter};
use crate::error::Result;
use crate::store;

/// Lists the denied verifications that the caller can access.
pub(crate) async fn list(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<ListPage<Entry>> {
    let (mut page, cursor) = query.page();
    let mut filter = VerificationLogFilter::read(&mut query);
    query.finish(())?;
    filter.org_id = effective_organization(&ctx.caller, filter.org_id)?;
    let binding = format!("verification_log {filter:?} {:?}", page.order);
    page.after = app.cursors.open(&binding, cursor.as_deref())?;
    let rows = read_audited(app, ctx, move |tx, _| {
        let entry = audit::AuditEntry::without_target(filter.org_id.as_deref());
        Ok((store::verification_log::list(tx, &filter, &page)?, entry))
    });
    ListPage::new(app, &binding, rows.await?)
}
