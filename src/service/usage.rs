//! Usage: flushes verification counts from the recorder to the database, and reports these counts.

use std::collections::HashMap;
use std::sync::Arc;

use super::api_keys::effective_organization;
use super::usage_by_user::group_by_user;
use super::{RequestContext, read_audited};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::TargetKind;
use crate::domain::audit::AuditEntry;
use crate::domain::meter::Meter;
use crate::domain::page::Query;
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::usage::{
    Bucket, Group, GroupBy, Period, Span, Usage, UsageCounts, UsageFilter, magnitude_floor,
};
use crate::domain::verification_log;
use crate::error::{Error, Result};
use crate::store::usage::{NamedSubject, SubjectSet};
use crate::store::{self, db::Tx};
use crate::verify::denials::{AggregationKey, Denial};
use crate::verify::recorder::UsageBatch;
use crate::verify::unwritten_usage::HourlyKeyCounts;

/// The largest number of API keys whose counts are written in one transaction, for which other changes wait.
const KEYS_PER_FLUSH_WRITE: usize = 500;
/// The largest number of groups in a usage report.
const MAX_USAGE_GROUPS: usize = 100;

/// Flushes verification counts every `usage.flush_interval`, until the returned future is dropped.
pub(crate) async fn run(app: &Arc<App>) {
    let mut ticks = tokio::time::interval(app.config.usage.flush_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let app = app.clone();
        // The flush runs in a separate task, so that dropping this future doesn't lose the counts that a
        // running flush has taken from the recorder.
        let result = tokio::spawn(async move { flush(&app).await }).await;
        if let Err(error) = result.unwrap_or_else(|panic| Err(Error::internal(panic))) {
            tracing::warn!(%error, "could not write usage; will retry");
        }
    }
}

/// Writes the recorder's verification counts to the database. Counts that can't be written are kept in memory
/// for the next flush.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn flush(app: &App) -> Result<()> {
    let _one_at_a_time = app.unstored.flush_lock.lock().await;
    let recorder = app.verifier.recorder();
    let mut chunks = recorder.take().chunks(KEYS_PER_FLUSH_WRITE).into_iter();
    while let Some(chunk) = chunks.next() {
        let chunk = Arc::new(chunk);
        let writing = chunk.clone();
        if let Err(error) = app.db.write(move |tx| write_chunk(tx, &writing)).await {
            recorder.put_back(Arc::unwrap_or_clone(chunk));
            chunks.for_each(|chunk| recorder.put_back(chunk));
            return Err(error);
        }
        for counted in &chunk.hourly_counts {
            if let Some(at) = counted.last_used {
                app.unstored.record_last_use(counted.key, at);
            }
        }
    }
    Ok(())
}

/// Writes one chunk of verification counts in a transaction: the counts of its API keys, of their
/// organizations, and of the whole platform.
pub(super) fn write_chunk(tx: &Tx<'_>, chunk: &UsageBatch) -> Result<()> {
    let mut sums: HashMap<(Timestamp, Subject), UsageCounts> = HashMap::new();
    let mut units: HashMap<(Timestamp, Subject, Meter), u64> = HashMap::new();
    for counted in &chunk.hourly_counts {
        let HourlyKeyCounts { hour, key, organization, counts, meters, .. } = counted;
        store::usage::add_counts(tx, *hour, Subject::Key(*key), Some(*organization), counts)?;
        for subject in [*organization, Subject::All] {
            sums.entry((*hour, subject)).or_default().merge(counts);
        }
        for (meter, added) in meters {
            store::usage::add_units(tx, *hour, Subject::Key(*key), Some(*organization), *meter, *added)?;
            for subject in [*organization, Subject::All] {
                *units.entry((*hour, subject, *meter)).or_default() += added;
            }
        }
    }
    let parent = |subject| (subject != Subject::All).then_some(Subject::All);
    for ((hour, subject, meter), added) in units {
        store::usage::add_units(tx, hour, subject, parent(subject), meter, added)?;
    }
    for ((hour, subject), counts) in sums {
        store::usage::add_counts(tx, hour, subject, parent(subject), &counts)?;
    }
    chunk.denials.iter().try_for_each(|denial| write_denial(tx, denial))
}

fn write_denial(tx: &Tx<'_>, denial: &Denial) -> Result<()> {
    let key_seq = if let AggregationKey::Key(seq) = denial.aggregation_key { Some(seq) } else { None };
    let entry = verification_log::Entry {
        code: denial.code,
        key_id: None,
        organization_id: denial.organization_id.clone(),
        ip: denial.ip,
        count: denial.count,
        first_at: denial.first_at,
        last_at: denial.last_at,
    };
    store::verification_log::add(tx, &denial.aggregation_key.to_string(), key_seq, &entry)
}

/// Reports the verifications of an API key, of an organization's keys, or of all keys that the caller can
/// access.
///
/// # Errors
/// `INVALID_REQUEST`; `NOT_FOUND` if the caller can't access the organization or key; `RATE_LIMITED` while another report
/// by user of the caller's organization is running, or too many are.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<Usage> {
    let filter = UsageFilter::read(&mut query);
    let hourly_days = app.settings.get().await?.settings.retention.usage_hourly_days;
    let span = Span::read(&filter, &mut query, ctx.now, hourly_days);
    query.finish(())?;
    let UsageFilter { org_id, key_id, group_by, meter, .. } = filter;
    let org_id = effective_organization(&ctx.caller, org_id)?;
    let is_by_user = group_by == Some(GroupBy::User);
    let running = is_by_user.then(|| app.usage_by_user_reads.start(&ctx.caller)).transpose()?;
    read_audited(app, ctx, move |tx, caller| {
        // Dropped when the reader of the database is free again, even if nobody waits for the report any more.
        let _running = running;
        let query = UsageQuery::find(tx, caller, org_id.as_deref(), key_id.as_deref())?;
        let stored: HashMap<_, _> =
            store::usage::usage_by_bucket(tx, query.subject, &span)?.into_iter().collect();
        let units: HashMap<_, _> = match meter {
            Meter::REQUESTS => HashMap::new(),
            _ => store::usage::units_by_bucket(tx, query.subject, meter, &span)?.into_iter().collect(),
        };
        let mut total = UsageCounts::default();
        let bucket = |start| {
            let mut counts = stored.get(&start).copied().unwrap_or_default();
            if meter != Meter::REQUESTS {
                counts = counts.with_cost(units.get(&start).copied().unwrap_or_default());
            }
            total.merge(&counts);
            Bucket { start, totals: counts.totals() }
        };
        let series = span.bucket_starts().map(bucket).collect();
        let groups = match group_by {
            None => Vec::new(),
            Some(GroupBy::Code) => total.by_code(),
            Some(GroupBy::Key) => query.group_by_key(tx, meter, &span)?,
            Some(GroupBy::Organization) => query.group_by_organization(tx, meter, &span)?,
            Some(GroupBy::User) => group_by_user(tx, caller, query.subject, meter, &span)?,
        };
        let usage = Usage {
            org_id,
            key_id,
            period: Period { start: span.start, end: span.end },
            interval: span.interval,
            totals: total.totals(),
            series,
            groups,
        };
        Ok((usage, query.entry))
    })
    .await
}

/// A usage query: the subject whose usage is reported, and the audit entry of the read.
struct UsageQuery {
    subject: Subject,
    /// The organization of the subject: the organization that owns the API key, or the subject itself. `None`
    /// for all usage.
    organization: Option<Subject>,
    entry: AuditEntry,
}

impl UsageQuery {
    /// Resolves the ids of a usage request. `NOT_FOUND` when the organization or key does not exist or the
    /// caller can't access it. Deleted organizations and keys are found, because their usage is kept.
    fn find(tx: &Tx<'_>, caller: &Caller, org_id: Option<&str>, key_id: Option<&str>) -> Result<Self> {
        let missing = || Error::not_found("organization");
        let organization = match org_id {
            None => None,
            Some(id) => Some(store::usage::organization(tx, id)?.ok_or_else(missing)?),
        };
        let Some(key_id) = key_id else {
            let subject = organization.map(|organization| Subject::Organization(organization.seq));
            let entry = AuditEntry::without_target(org_id);
            return Ok(Self { subject: subject.unwrap_or(Subject::All), organization: subject, entry });
        };
        let key = store::usage::find_key(tx, key_id)?.filter(|key| {
            let owner = key.organization.as_ref().map(|(id, _)| id.as_str());
            caller.can_access_organization(owner) && org_id.is_none_or(|org_id| owner == Some(org_id))
        });
        let key = key.ok_or_else(|| Error::not_found("API key"))?;
        let (id, seq) = key.organization.map_or((None, 0), |(id, seq)| (Some(id), seq));
        Ok(Self {
            subject: Subject::Key(key.seq),
            organization: Some(Subject::Organization(seq)),
            entry: AuditEntry::for_resource(id.as_deref(), TargetKind::ApiKey, &key.id, &key.name),
        })
    }

    fn group_by_key(&self, tx: &Tx<'_>, meter: Meter, span: &Span) -> Result<Vec<Group>> {
        let candidates = match self.subject {
            Subject::Key(_) => return load_groups(tx, vec![self.subject], meter, span),
            Subject::All => SubjectSet::Keys,
            Subject::Organization(_) => SubjectSet::PartsOf(self.subject),
        };
        load_groups(tx, find_busiest(tx, candidates, meter, span, MAX_USAGE_GROUPS)?, meter, span)
    }

    fn group_by_organization(&self, tx: &Tx<'_>, meter: Meter, span: &Span) -> Result<Vec<Group>> {
        match (self.subject, self.organization) {
            // All usage of a key belongs to one organization, so the result is one group with that
            // organization's name.
            (Subject::Key(_), Some(organization)) => {
                let total = store::usage::total_on_meter(tx, self.subject, meter, span)?;
                Ok(load_group(tx, organization, &total)?.into_iter().collect())
            }
            (subject @ Subject::Organization(_), _) => load_groups(tx, vec![subject], meter, span),
            _ => {
                let organizations = SubjectSet::PartsOf(Subject::All);
                load_groups(tx, find_busiest(tx, organizations, meter, span, MAX_USAGE_GROUPS)?, meter, span)
            }
        }
    }
}

/// Finds the `max` busiest subjects of a span: takes the `max` busiest subjects of each day and ranks them by the sum of
/// their units of the meter on those days, then by their requests. A subject that is not among the `max` busiest on any
/// day is missing.
pub(super) fn find_busiest(
    tx: &Tx<'_>,
    candidates: SubjectSet,
    meter: Meter,
    span: &Span,
    max: usize,
) -> Result<Vec<Subject>> {
    let rankings: &[Meter] = if meter == Meter::REQUESTS { &[meter] } else { &[meter, Meter::REQUESTS] };
    let mut figures: HashMap<Subject, [u64; 2]> = HashMap::new();
    for day in span.widen_to_days().bucket_starts() {
        for (figure, ranked_by) in rankings.iter().enumerate() {
            for (subject, magnitude) in store::usage::busiest_subjects(tx, candidates, *ranked_by, day, max)?
            {
                figures.entry(subject).or_default()[figure] += magnitude_floor(magnitude);
            }
        }
    }
    let mut ranking: Vec<_> = figures.into_iter().map(|(subject, figures)| (figures, subject)).collect();
    ranking.sort_unstable_by(|a, b| b.cmp(a));
    ranking.truncate(max);
    Ok(ranking.into_iter().map(|(_, subject)| subject).collect())
}

/// Loads the usage of each subject as a group, busiest first. Subjects without usage are omitted.
pub(super) fn load_groups(
    tx: &Tx<'_>,
    subjects: Vec<Subject>,
    meter: Meter,
    span: &Span,
) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for subject in subjects {
        groups.extend(load_group(tx, subject, &store::usage::total_on_meter(tx, subject, meter, span)?)?);
    }
    let figures = |group: &Group| match (meter, group.totals) {
        (Meter::REQUESTS, totals) => [totals.requests, totals.cost],
        (_, totals) => [totals.cost, totals.requests],
    };
    groups.sort_by(|a, b| (figures(b), &a.id).cmp(&(figures(a), &b.id)));
    Ok(groups)
}

/// Loads the usage of a subject as a group with the subject's id and name; `None` if it has none. Usage without
/// requests was reported afterwards.
fn load_group(tx: &Tx<'_>, subject: Subject, counts: &UsageCounts) -> Result<Option<Group>> {
    if counts.requests() == 0 && counts.cost() == 0 {
        return Ok(None);
    }
    let (id, name) = match store::usage::find_subject(tx, subject)? {
        Some(NamedSubject { id, name, .. }) => (Some(id), Some(name)),
        None => (None, None),
    };
    Ok(Some(Group { id, name, totals: counts.totals() }))
}
