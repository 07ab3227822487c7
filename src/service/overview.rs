//! The overview: totals for the console's start page.

use std::sync::Arc;

use super::{RequestContext, read_audited, usage};
use crate::app::App;
use crate::domain::audit::AuditEntry;
use crate::domain::meter::Meter;
use crate::domain::overview::Overview;
use crate::domain::page::Query;
use crate::domain::subject::Subject;
use crate::domain::usage::{Interval, Span};
use crate::error::{Error, Result};
use crate::store;
use crate::store::usage::SubjectSet;

/// The largest number of busiest organizations, and of busiest API keys, in the overview.
const MAX_BUSIEST_ENTRIES: usize = 10;

/// Returns the number of organizations, users and API keys that the caller can access, and their usage in the
/// last 24 hours.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, query: Query) -> Result<Overview> {
    query.finish(())?;
    let now = ctx.now;
    let expiry_time = ctx.expiry_time;
    read_audited(app, ctx, move |tx, caller| {
        let own = caller.organization_id();
        let subject = match own {
            None => Subject::All,
            Some(id) => {
                let organization = store::usage::organization(tx, id)?;
                Subject::Organization(organization.ok_or_else(|| Error::not_found("organization"))?.seq)
            }
        };
        let day = Span::until(now, Interval::Day.millis(), Interval::Hour);
        let (organizations, keys) = match own {
            None => (
                usage::find_busiest(
                    tx,
                    SubjectSet::PartsOf(Subject::All),
                    Meter::REQUESTS,
                    &day,
                    MAX_BUSIEST_ENTRIES,
                )?,
                SubjectSet::Keys,
            ),
            Some(_) => (vec![subject], SubjectSet::PartsOf(subject)),
        };
        let keys = usage::find_busiest(tx, keys, Meter::REQUESTS, &day, MAX_BUSIEST_ENTRIES)?;
        let overview = Overview {
            organizations: if own.is_some() { 1 } else { store::overview::count_organizations(tx)? },
            users: store::overview::count_users(tx, own)?,
            api_keys: store::overview::keys(tx, own, expiry_time)?,
            last_24h: store::usage::total(tx, subject, &day)?.totals(),
            busiest_organizations: usage::load_groups(tx, organizations, Meter::REQUESTS, &day)?,
            busiest_keys: usage::load_groups(tx, keys, Meter::REQUESTS, &day)?,
        };
        Ok((overview, AuditEntry::without_target(own)))
    })
    .await
}
