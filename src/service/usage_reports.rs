//! Reports of usage: what requests turned out to cost, known only afterwards.

use std::sync::Arc;

use crate::app::App;
use crate::domain::meter::{Cost, Meter};
use crate::domain::quota::QuotaLease;
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Interval, UsageCounts};
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};
use crate::verify::key_record::KeyRecord;

/// The time for which the id of a report is kept: 24 hours, in milliseconds.
const REPORT_TTL_MILLIS: i64 = 86_400_000;

/// A report of what a request of a key turned out to cost.
pub(crate) struct UsageReport {
    /// The key.
    pub(crate) record: Arc<KeyRecord>,
    /// Each meter at most once.
    pub(crate) costs: Vec<Cost>,
    /// The caller's name of the report; a repeated report isn't counted twice.
    pub(crate) id: Option<String>,
}

/// Counts a report and charges the limits of its key and organization. Returns after the commit. Returns false if a
/// report with this id was counted before.
///
/// # Errors
/// `IDEMPOTENCY_MISMATCH` if the id was used with other costs; `UNAVAILABLE` if too many ids are kept; errors of the
/// database. Then nothing is counted.
pub(crate) async fn record(app: &App, report: UsageReport) -> Result<bool> {
    let UsageReport { record, costs, id } = report;
    let key_seq = record.credential.seq;
    let stored_report = id.as_ref().map(|id| StoredReport { id: id.clone(), costs: costs_as_json(&costs) });
    // Checked first, so that a repeated report charges nothing, not even for the time of a write.
    if let Some(report) = stored_report.clone()
        && app.db.look_up(move |tx| is_counted(tx, key_seq, &report)).await?
    {
        return Ok(false);
    }
    let now = app.clock.settled_time();
    let max_ids = app.config.usage.max_report_ids;
    let organization = record.credential.organization.as_ref().map_or(0, |organization| organization.seq);
    let db = app.db.clone();
    let charged = costs.clone();
    let write = move |leases: Vec<QuotaLease>| -> crate::verify::report::ReportFuture {
        Box::pin(async move {
            db.write(move |tx| {
                if let Some(report) = &stored_report {
                    if is_counted(tx, key_seq, report)? {
                        return Ok(false);
                    }
                    if store::usage_reports::count(tx)? >= max_ids {
                        let message = "Too many reports with an id were made within a day. Try again later.";
                        return Err(Error::unavailable(message, 60));
                    }
                    store::usage_reports::insert(tx, key_seq, &report.id, &report.costs, now)?;
                }
                store::quotas::put(tx, &leases)?;
                add_costs(tx, key_seq, Subject::Organization(organization), &charged, now)?;
                Ok(true)
            })
            .await
        })
    };
    app.verifier.report(&record, &costs, write).await
}

/// A report as it is stored.
#[derive(Clone)]
struct StoredReport {
    id: String,
    costs: String,
}

/// True if this report was stored before. Fails if another one has its id.
fn is_counted(tx: &Tx<'_>, key_seq: i64, report: &StoredReport) -> Result<bool> {
    match store::usage_reports::find_costs(tx, key_seq, &report.id)? {
        None => Ok(false),
        Some(costs) if costs == report.costs => Ok(true),
        Some(_) => {
            let message = "A report with this id was made with other costs. Use another id for each request.";
            Err(Error::new(Code::IdempotencyMismatch, message))
        }
    }
}

/// The costs as JSON, in the order of the meters, so that equal reports are equal.
fn costs_as_json(costs: &[Cost]) -> String {
    let by_meter: std::collections::BTreeMap<&str, u32> =
        costs.iter().map(|cost| (cost.meter.name(), cost.units)).collect();
    serde_json::to_string(&by_meter).unwrap_or_default()
}

/// Adds reported costs to the usage of a key, its organization and all keys.
fn add_costs(tx: &Tx<'_>, key_seq: i64, organization: Subject, costs: &[Cost], now: Timestamp) -> Result<()> {
    let hour = Interval::Hour.floor(now);
    let key = Subject::Key(key_seq);
    for (subject, parent) in
        [(key, Some(organization)), (organization, Some(Subject::All)), (Subject::All, None)]
    {
        for cost in costs.iter().filter(|cost| cost.units > 0) {
            if cost.meter == Meter::REQUESTS {
                let mut counts = UsageCounts::default();
                counts.add_cost(cost.units.into());
                store::usage::add_counts(tx, hour, subject, parent, &counts)?;
            } else {
                store::usage::add_units(tx, hour, subject, parent, cost.meter, cost.units.into())?;
            }
        }
    }
    Ok(())
}

/// Deletes the ids of reports that are a day old. Returns `true` if there may be more.
///
/// # Errors
/// Errors of the database.
pub(super) async fn prune(app: &App, max_rows: usize) -> Result<bool> {
    let Some(now) = app.clock.settled_now() else { return Ok(false) };
    let before = Timestamp::from_millis(now.as_millis() - REPORT_TTL_MILLIS);
    let after = Timestamp::from_millis(now.as_millis() + REPORT_TTL_MILLIS);
    let deleted = app.db.write(move |tx| store::usage_reports::prune(tx, before, after, max_rows)).await?;
    Ok(deleted == max_rows)
}
