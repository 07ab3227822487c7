//! Usage: flush the recorder's counts to the database, and report them.

use std::collections::HashMap;
use std::sync::Arc;

use super::api_keys::effective_organization;
use super::{RequestContext, read_audited};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::Entry;
use crate::domain::page::Query;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Bucket, Counts, Group, GroupBy, Period, Span, Subject, Usage, magnitude_floor};
use crate::domain::verification_log;
use crate::error::{Error, Result};
use crate::store::usage::{Candidates, NamedSubject};
use crate::store::{self, db::Tx};
use crate::verify::denials::{AggregationKey, Denial};
use crate::verify::recorder::Batch;

/// Keys written in one transaction; other changes wait for it.
const FLUSH_CHUNK: usize = 500;
/// The largest number of groups in a response.
const MAX_GROUPS: usize = 100;

/// Flushes the counts every `usage.flush_interval`, until the future is dropped.
pub(crate) async fn run(app: &Arc<App>) {
    let mut ticks = tokio::time::interval(app.config.usage.flush_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let app = app.clone();
        // In a task of its own: dropping this loop must not lose the counts that a running flush has taken.
        let result = tokio::spawn(async move { flush(&app).await }).await;
        if let Err(error) = result.unwrap_or_else(|panic| Err(Error::internal(panic))) {
            tracing::warn!(%error, "could not write usage; will retry");
        }
    }
}

/// Writes the counts to the database. Counts that can't be written are kept for the next flush.
///
/// # Errors
/// Those of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn flush(app: &App) -> Result<()> {
    let _one_at_a_time = app.flushing.lock().await;
    let recorder = app.verifier.recorder();
    let mut chunks = recorder.take().chunks(FLUSH_CHUNK).into_iter();
    while let Some(chunk) = chunks.next() {
        let chunk = Arc::new(chunk);
        let writing = chunk.clone();
        if let Err(error) = app.db.write(move |tx| write(tx, &writing)).await {
            recorder.put_back(Arc::unwrap_or_clone(chunk));
            chunks.for_each(|chunk| recorder.put_back(chunk));
            return Err(error);
        }
        for counted in &chunk.key_hours {
            if let Some(at) = counted.last_used {
                app.note_use(counted.credential.seq, at);
            }
        }
    }
    Ok(())
}

/// Writes one chunk atomically: the counts of its keys, of their organizations, and of the whole platform.
pub(super) fn write(tx: &Tx<'_>, chunk: &Batch) -> Result<()> {
    let mut sums: HashMap<(Timestamp, Subject), Counts> = HashMap::new();
    for counted in &chunk.key_hours {
        let hour = counted.hour;
        let credential = &counted.credential;
        let organization = credential.organization.as_ref().map_or(0, |organization| organization.seq);
        let organization = Subject::Organization(organization);
        store::usage::add(tx, hour, Subject::Key(credential.seq), Some(organization), &counted.counts)?;
        for subject in [organization, Subject::All] {
            sums.entry((hour, subject)).or_default().merge(&counted.counts);
        }
    }
    for ((hour, subject), counts) in sums {
        let parent = (subject != Subject::All).then_some(Subject::All);
        store::usage::add(tx, hour, subject, parent, &counts)?;
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

/// Reports the verifications of a key, of an organization's keys, or of all keys that the caller can access.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<Usage> {
    let org_id = query.text("org_id");
    let key_id = query.text("key_id");
    let hourly_days = app.settings.get().await?.settings.retention.usage_hourly_days;
    let span = Span::read(&mut query, ctx.now, hourly_days);
    let group_by = query.one_of("group_by", GroupBy::NAMES);
    query.finish(())?;
    let org_id = effective_organization(&ctx.caller, org_id)?;
    read_audited(app, ctx, move |tx, caller| {
        let query = UsageQuery::find(tx, caller, org_id.as_deref(), key_id.as_deref())?;
        let stored: HashMap<_, _> = store::usage::series(tx, query.subject, &span)?.into_iter().collect();
        let mut total = Counts::default();
        let bucket = |start| {
            let counts = stored.get(&start).copied().unwrap_or_default();
            total.merge(&counts);
            Bucket { start, totals: counts.totals() }
        };
        let series = span.starts().map(bucket).collect();
        let groups = match group_by {
            None => Vec::new(),
            Some(GroupBy::Code) => total.by_code(),
            Some(GroupBy::Key) => query.by_key(tx, &span)?,
            Some(GroupBy::Organization) => query.by_organization(tx, &span)?,
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

/// The subject of a usage query.
struct UsageQuery {
    subject: Subject,
    /// The organization that the subject belongs to, or is.
    organization: Option<Subject>,
    entry: Entry,
}

impl UsageQuery {
    /// `NOT_FOUND` when the organization or key does not exist or the caller can't access it. Deleted ones
    /// are found: their usage is kept.
    fn find(tx: &Tx<'_>, caller: &Caller, org_id: Option<&str>, key_id: Option<&str>) -> Result<Self> {
        let missing = || Error::not_found("organization");
        let organization = match org_id {
            None => None,
            Some(id) => Some(store::usage::organization(tx, id)?.ok_or_else(missing)?),
        };
        let Some(key_id) = key_id else {
            let subject = organization.map(|organization| Subject::Organization(organization.seq));
            let entry = Entry::about(org_id);
            return Ok(Self { subject: subject.unwrap_or(Subject::All), organization: subject, entry });
        };
        let key = store::usage::key(tx, key_id)?.filter(|key| {
            let owner = key.organization.as_ref().map(|(id, _)| id.as_str());
            caller.reaches(owner) && org_id.is_none_or(|org_id| owner == Some(org_id))
        });
        let key = key.ok_or_else(|| Error::not_found("API key"))?;
        let (id, seq) = key.organization.map_or((None, 0), |(id, seq)| (Some(id), seq));
        Ok(Self {
            subject: Subject::Key(key.seq),
            organization: Some(Subject::Organization(seq)),
            entry: Entry::of(id.as_deref(), "api_key", &key.id, &key.name),
        })
    }

    fn by_key(&self, tx: &Tx<'_>, span: &Span) -> Result<Vec<Group>> {
        match self.subject {
            Subject::Key(_) => groups(tx, vec![self.subject], span),
            Subject::All => groups(tx, busiest(tx, Candidates::Keys, span, MAX_GROUPS)?, span),
            Subject::Organization(_) => {
                groups(tx, busiest(tx, Candidates::PartsOf(self.subject), span, MAX_GROUPS)?, span)
            }
        }
    }

    fn by_organization(&self, tx: &Tx<'_>, span: &Span) -> Result<Vec<Group>> {
        match (self.subject, self.organization) {
            // All usage of the key belongs to its organization: one group with the organization's name.
            (Subject::Key(_), Some(organization)) => {
                let total = store::usage::total(tx, self.subject, span)?;
                Ok(group(tx, organization, &total)?.into_iter().collect())
            }
            (subject @ Subject::Organization(_), _) => groups(tx, vec![subject], span),
            _ => groups(tx, busiest(tx, Candidates::PartsOf(Subject::All), span, MAX_GROUPS)?, span),
        }
    }
}

/// The `max` busiest subjects of a span: the `max` busiest of each day, ranked by their sum over those days.
/// With more than `max` subjects, one that never was among a day's `max` busiest is missing.
pub(super) fn busiest(tx: &Tx<'_>, candidates: Candidates, span: &Span, max: usize) -> Result<Vec<Subject>> {
    let mut requests: HashMap<Subject, u64> = HashMap::new();
    for day in span.days().starts() {
        for (subject, magnitude) in store::usage::busiest(tx, candidates, day, max)? {
            *requests.entry(subject).or_default() += magnitude_floor(magnitude);
        }
    }
    let mut ranking: Vec<_> = requests.into_iter().map(|(subject, requests)| (requests, subject)).collect();
    ranking.sort_unstable_by(|a, b| b.cmp(a));
    ranking.truncate(max);
    Ok(ranking.into_iter().map(|(_, subject)| subject).collect())
}

/// The groups of the subjects, busiest first. A subject without requests is left out.
pub(super) fn groups(tx: &Tx<'_>, subjects: Vec<Subject>, span: &Span) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for subject in subjects {
        groups.extend(group(tx, subject, &store::usage::total(tx, subject, span)?)?);
    }
    groups.sort_by(|a, b| (b.totals.requests, &a.id).cmp(&(a.totals.requests, &b.id)));
    Ok(groups)
}

fn group(tx: &Tx<'_>, subject: Subject, total: &Counts) -> Result<Option<Group>> {
    if total.requests() == 0 {
        return Ok(None);
    }
    let (id, name) = match store::usage::name(tx, subject)? {
        Some(NamedSubject { id, name, .. }) => (Some(id), Some(name)),
        None => (None, None),
    };
    Ok(Some(Group { id, name, totals: total.totals() }))
}
