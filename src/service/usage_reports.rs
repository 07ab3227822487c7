//! Reports of usage: what requests turned out to cost, known only afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::key_lookup;
use crate::app::App;
use crate::domain::meter::{Cost, Meter};
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Interval, UsageCounts};
use crate::error::{Code, Error, Result};
use crate::store::{self, db::Tx};
use crate::verify::report_queue::{ReportBatch, UsageReport};
use crate::verify::unwritten_usage::add_units;

/// The time for which the id of a report is kept: 24 hours, in milliseconds.
const REPORT_TTL_MILLIS: i64 = 86_400_000;

/// The key that a report is about.
pub(crate) enum ReportedKey {
    /// The key that has or had this secret.
    Secret(String),
    /// The key with this id.
    Id(String),
}

/// Makes a report on a key that a caller of this organization can access; without an organization, it can access every
/// key. The report charges the limits as they stand now.
///
/// # Errors
/// `NOT_FOUND` if there is no such key; `UNAVAILABLE` if too many keys are in use; errors of the database.
pub(crate) async fn report_on(
    app: &App,
    key: &ReportedKey,
    organization_id: Option<&str>,
    costs: Vec<Cost>,
    id: Option<String>,
) -> Result<UsageReport> {
    loop {
        let settings = app.settings.get().await?.to_arc();
        let record = match key {
            ReportedKey::Secret(secret) => key_lookup::find_by_secret(app, secret).await?,
            ReportedKey::Id(id) => key_lookup::find_by_id(app, id.clone()).await?,
        };
        let record =
            key_lookup::visible_to(record, organization_id).ok_or_else(|| Error::not_found("API key"))?;
        // Otherwise the organization could be on a plan that these settings don't have yet, or no more.
        if Arc::ptr_eq(&settings, &app.settings.get().await?.to_arc()) {
            let states = app.verifier.states_of(&record)?;
            return Ok(UsageReport::new(&record, states, &settings.settings, costs, id));
        }
    }
}

/// Counts a report and charges the limits of its key and organization. Returns after the commit. Returns false if a
/// report with this id was counted before.
///
/// # Errors
/// `IDEMPOTENCY_MISMATCH` if the id was used with other costs; `UNAVAILABLE` if too many reports are waiting, or too many
/// ids are kept; errors of the database. Then nothing is counted.
pub(crate) async fn record(app: &App, report: UsageReport) -> Result<bool> {
    // Read first, so that repeated reports need no write. That also answers them while nothing can be written.
    if let Some(id) = report.id.clone() {
        let key_seq = report.key_seq;
        let costs = costs_as_json(&report.costs);
        if app.db.look_up(move |tx| is_counted(tx, key_seq, &id, &costs)).await?? {
            return Ok(false);
        }
    }
    app.reports.store(report).await
}

/// Stores the reports of a batch, their usage in sums, and the leases that their charges need. Returns the result of each
/// report: false if it was counted before.
///
/// # Errors
/// Errors of the database.
pub(super) fn write_batch(tx: &Tx<'_>, batch: &ReportBatch, max_ids: u64) -> Result<Vec<Result<bool>>> {
    let mut ids: Option<StoredIds> = None;
    let mut results = Vec::new();
    for report in batch.reports() {
        results.push(match &report.id {
            None => Ok(true),
            Some(id) => store_id(tx, report, id, batch.settled_time, &mut ids, max_ids)?,
        });
    }
    let counted: Vec<bool> = results.iter().map(|result| matches!(result, Ok(true))).collect();
    if counted.contains(&true) {
        store::quotas::put(tx, &batch.charges.leases(&counted))?;
        let reports = batch.reports().zip(&counted).filter(|(_, is_counted)| **is_counted);
        add_usage(tx, reports.map(|(report, _)| report), batch.now)?;
    }
    Ok(results)
}

/// Stores the id of a report. Returns false if the report was counted before.
fn store_id(
    tx: &Tx<'_>,
    report: &UsageReport,
    id: &str,
    now: Timestamp,
    ids: &mut Option<StoredIds>,
    max_ids: u64,
) -> Result<Result<bool>> {
    let key_seq = report.key_seq;
    let costs = costs_as_json(&report.costs);
    match is_counted(tx, key_seq, id, &costs)? {
        Ok(false) => {}
        counted => return Ok(counted.map(|_| false)),
    }
    let ids = match ids {
        Some(ids) => ids,
        None => ids.insert(StoredIds::count(tx, report.organization_id.as_deref())?),
    };
    if !ids.add(max_ids) {
        let message = "Too many usage reports with an id were made within 24 hours (usage.max_report_ids). Reports \
                       without an id are still accepted.";
        return Ok(Err(Error::unavailable(message, 60)));
    }
    store::usage_reports::insert(tx, key_seq, id, &costs, now)?;
    Ok(Ok(true))
}

/// Number of stored ids: of an organization's reports, and of all.
struct StoredIds {
    organization: u64,
    all: u64,
}

impl StoredIds {
    fn count(tx: &Tx<'_>, organization_id: Option<&str>) -> Result<Self> {
        let organization = store::usage_reports::count(tx, organization_id.unwrap_or_default())?;
        Ok(Self { organization, all: store::usage_reports::count(tx, "*")? })
    }

    /// Adds an id, if there is room for it. Once half of `max_ids` are used, an organization gets a quarter of them at
    /// most, which leaves room for the others.
    fn add(&mut self, max_ids: u64) -> bool {
        let is_within_share = self.all < max_ids / 2 || self.organization < max_ids.div_ceil(4);
        let has_room = self.all < max_ids && is_within_share;
        if has_room {
            self.organization += 1;
            self.all += 1;
        }
        has_room
    }
}

/// True if a report with this id was stored before. Fails if that had other costs.
fn is_counted(tx: &Tx<'_>, key_seq: i64, id: &str, costs: &str) -> Result<Result<bool>> {
    Ok(match store::usage_reports::find_costs(tx, key_seq, id)? {
        None => Ok(false),
        Some(stored) if stored == costs => Ok(true),
        Some(_) => {
            let message = "A report with this id was made with other costs. Use another id for each request.";
            Err(Error::new(Code::IdempotencyMismatch, message))
        }
    })
}

/// The costs as JSON, in the order of the meters, so that equal reports are equal.
fn costs_as_json(costs: &[Cost]) -> String {
    let by_meter: BTreeMap<&str, u32> = costs.iter().map(|cost| (cost.meter.name(), cost.units)).collect();
    serde_json::to_string(&by_meter).unwrap_or_default()
}

/// Units by meter.
type Sums = Vec<(Meter, u64)>;

/// Adds reported costs to the usage of their keys, of the keys' organization, and of all keys.
fn add_usage<'a>(tx: &Tx<'_>, reports: impl Iterator<Item = &'a UsageReport>, now: Timestamp) -> Result<()> {
    let mut sums_of_keys: BTreeMap<i64, Sums> = BTreeMap::new();
    let mut all_sums = Sums::new();
    let mut organization = Subject::Organization(0);
    for report in reports {
        organization = Subject::Organization(report.organization_seq);
        for cost in report.costs.iter().filter(|cost| cost.units > 0) {
            add_units(sums_of_keys.entry(report.key_seq).or_default(), cost.meter, cost.units.into());
            add_units(&mut all_sums, cost.meter, cost.units.into());
        }
    }
    for (key, sums) in &sums_of_keys {
        add_sums(tx, Subject::Key(*key), Some(organization), sums, now)?;
    }
    add_sums(tx, organization, Some(Subject::All), &all_sums, now)?;
    add_sums(tx, Subject::All, None, &all_sums, now)
}

/// Adds sums to the usage of a subject, which also gets a row of counts: subjects are found by these rows.
fn add_sums(
    tx: &Tx<'_>,
    subject: Subject,
    parent: Option<Subject>,
    sums: &Sums,
    now: Timestamp,
) -> Result<()> {
    if sums.is_empty() {
        return Ok(());
    }
    let hour = Interval::Hour.floor(now);
    let mut counts = UsageCounts::default();
    for (meter, units) in sums {
        match *meter {
            Meter::REQUESTS => counts.add_cost(*units),
            meter => store::usage::add_units(tx, hour, subject, parent, meter, *units)?,
        }
    }
    store::usage::add_counts(tx, hour, subject, parent, &counts)
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
