//! Usage: write down what the recorder counted, and tell it.

use std::collections::HashMap;
use std::sync::Arc;

use super::api_keys::own_or;
use super::{RequestContext, read_audited};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::Entry;
use crate::domain::page::Query;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Bucket, Counts, Group, GroupBy, Period, Span, Subject, Usage, magnitude_floor};
use crate::domain::verification_log;
use crate::error::{Error, Result};
use crate::store::usage::{Named, Of};
use crate::store::{self, db::Tx};
use crate::verify::denials::{AggregationKey, Denial};
use crate::verify::recorder::Batch;

/// Keys in one write: other changes wait for it.
const PIECE: usize = 500;
/// Groups in an answer.
const MAX_GROUPS: usize = 100;

/// Writes down what was counted, each interval of the configuration, until it is dropped.
pub(crate) async fn run(app: &Arc<App>) {
    let mut ticks = tokio::time::interval(app.config.usage.flush_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let flushing = app.clone();
        // In a task of its own: who drops this loop must not drop what a flush under way has taken.
        let flushed = tokio::spawn(async move { flush(&flushing).await }).await;
        if let Err(error) = flushed.unwrap_or_else(|panic| Err(Error::internal(panic))) {
            tracing::warn!(%error, "usage could not be written; it is tried again");
        }
    }
}

/// Writes down what was counted. What can't be written is kept for the next time.
pub async fn flush(app: &App) -> Result<()> {
    let _one_at_a_time = app.flushing.lock().await;
    let recorder = app.verifier.recorder();
    let mut pieces = recorder.take().pieces(PIECE).into_iter();
    while let Some(piece) = pieces.next() {
        let piece = Arc::new(piece);
        let writing = piece.clone();
        if let Err(error) = app.db.write(move |tx| write(tx, &writing)).await {
            recorder.put_back(Arc::unwrap_or_clone(piece));
            pieces.for_each(|piece| recorder.put_back(piece));
            return Err(error);
        }
        for counted in &piece.counted {
            if let Some(at) = counted.last_used {
                app.note_use(counted.credential.seq, at);
            }
        }
    }
    Ok(())
}

/// One piece, whole or not at all: the keys, and what they add to their organizations and to everything.
pub(super) fn write(tx: &Tx<'_>, piece: &Batch) -> Result<()> {
    let mut sums: HashMap<(Timestamp, Subject), Counts> = HashMap::new();
    for counted in &piece.counted {
        let (hour, credential) = (counted.hour, &counted.credential);
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
    piece.denials.iter().try_for_each(|denial| write_denial(tx, denial))
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

/// Verifications of a key, of an organization's keys or of all that the caller reaches.
pub(crate) async fn get(app: &App, ctx: &Arc<RequestContext>, mut query: Query) -> Result<Usage> {
    let (org_id, key_id) = (query.text("org_id"), query.text("key_id"));
    let hourly_days = app.settings.get().await?.settings.retention.usage_hourly_days;
    let span = Span::read(&mut query, ctx.now, hourly_days);
    let group_by = query.one_of("group_by", GroupBy::NAMES);
    query.finish(())?;
    let org_id = own_or(&ctx.caller, org_id)?;
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

/// Whose usage is asked for.
struct UsageQuery {
    subject: Subject,
    /// The organization that the subject lies in, or is.
    organization: Option<Subject>,
    entry: Entry,
}

impl UsageQuery {
    /// `NOT_FOUND` when there is no such organization or key, or not for this caller. Deleted ones are
    /// there: their usage stays.
    fn find(tx: &Tx<'_>, caller: &Caller, org_id: Option<&str>, key_id: Option<&str>) -> Result<Self> {
        let missing = || Error::not_found("organization");
        let organization = match org_id {
            None => None,
            Some(id) => Some(store::usage::organization(tx, id)?.ok_or_else(missing)?),
        };
        let Some(key_id) = key_id else {
            let subject = organization.map(|found| Subject::Organization(found.seq));
            let entry = Entry::about(org_id);
            return Ok(Self { subject: subject.unwrap_or(Subject::All), organization: subject, entry });
        };
        let key = store::usage::key(tx, key_id)?.filter(|key| {
            let of = key.organization.as_ref().map(|(id, _)| id.as_str());
            caller.reaches(of) && org_id.is_none_or(|wanted| of == Some(wanted))
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
            Subject::All => groups(tx, busiest(tx, Of::Keys, span, MAX_GROUPS)?, span),
            Subject::Organization(_) => {
                groups(tx, busiest(tx, Of::Parts(self.subject), span, MAX_GROUPS)?, span)
            }
        }
    }

    fn by_organization(&self, tx: &Tx<'_>, span: &Span) -> Result<Vec<Group>> {
        match (self.subject, self.organization) {
            // All of the key's usage is its organization's: under that name.
            (Subject::Key(_), Some(organization)) => {
                let total = store::usage::total(tx, self.subject, span)?;
                Ok(group(tx, organization, &total)?.into_iter().collect())
            }
            (subject @ Subject::Organization(_), _) => groups(tx, vec![subject], span),
            _ => groups(tx, busiest(tx, Of::Parts(Subject::All), span, MAX_GROUPS)?, span),
        }
    }
}

/// The subjects that were busiest on the days of a span, at most so many. Each day has its own busiest; of
/// these the ones with the largest sum are taken. When there are more than asked for, one that was never
/// among a day's busiest is missed.
pub(super) fn busiest(tx: &Tx<'_>, of: Of, span: &Span, max: usize) -> Result<Vec<Subject>> {
    let mut found: HashMap<Subject, u64> = HashMap::new();
    for day in span.days().starts() {
        for (subject, magnitude) in store::usage::busiest(tx, of, day, max)? {
            *found.entry(subject).or_default() += magnitude_floor(magnitude);
        }
    }
    let mut found: Vec<_> = found.into_iter().map(|(subject, requests)| (requests, subject)).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(max);
    Ok(found.into_iter().map(|(_, subject)| subject).collect())
}

/// The subjects with what was counted of each, the busiest first. One without anything is left out.
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
        Some(Named { id, name, .. }) => (Some(id), Some(name)),
        None => (None, None),
    };
    Ok(Some(Group { id, name, totals: total.totals() }))
}
