//! The decision of all limits of a request: either every limit has room and is charged, or nothing is.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::leases::Leases;
use super::limit_state::{DecisionTime, Job, Level};
use super::subject_state::{Inner, SubjectState};
use crate::domain::limits::Limit;
use crate::domain::meter::{Cost, units_of};
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum LimitOwner {
    /// The limit is one of the key.
    Key,
    /// The limit is shared by all keys of the organization.
    Organization,
}

impl LimitOwner {
    /// The owner's name in responses.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The limits of a key or of its organization, and their state.
#[derive(Clone, Copy)]
pub(super) struct OwnedLimits<'a> {
    pub(super) owner: LimitOwner,
    pub(super) limits: &'a [Limit],
    /// The version of the list: of two lists of one owner, the later one has a higher version. 0 if it isn't known.
    pub(super) version: u64,
    pub(super) state: &'a Arc<SubjectState>,
}

/// How a limit stands after a decision.
#[derive(Clone)]
pub struct LimitStatus {
    /// Whose limit it is.
    pub owner: LimitOwner,
    /// The limit.
    pub limit: Limit,
    level: Level,
}

impl LimitStatus {
    /// Number of units left; 0 also if there is debt.
    pub fn remaining(&self) -> u64 {
        match self.level {
            Level::Bucket(bucket) => bucket.remaining().into(),
            Level::Quota(count) => count.remaining(self.limit.limit),
        }
    }

    /// When the bucket is full or the next period begins; `None` for a quota that is never reset.
    pub(crate) fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.level {
            Level::Bucket(bucket) => Some(now + bucket.full_after()),
            Level::Quota(count) => count.resets_at(),
        }
    }

    /// Time until one unit more than `remaining` is there; zero when all are, `None` if that never happens.
    pub(crate) fn next_unit_after(&self, now: Timestamp) -> Option<Duration> {
        match self.level {
            Level::Bucket(bucket) => Some(bucket.time_until(bucket.remaining().saturating_add(1))),
            Level::Quota(count) => Some(count.resets_at()? - now),
        }
    }

    /// Time until the limit admits this cost; `None` if it never does.
    fn admits_after(&self, cost: u32, now: Timestamp) -> Option<Duration> {
        if u64::from(cost) > self.limit.limit {
            return None;
        }
        match self.level {
            Level::Bucket(bucket) => Some(bucket.time_until(cost)),
            Level::Quota(count) if count.admits(self.limit.limit, cost) => Some(Duration::ZERO),
            Level::Quota(count) => Some(count.resets_at()? - now),
        }
    }
}

/// The refusing limit with the longest wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitedBy {
    /// Its index among the limits.
    pub index: usize,
    /// Time until it admits the cost; `None` if it never does.
    pub retry_after: Option<Duration>,
}

impl LimitedBy {
    /// Whole seconds until the limit admits the cost, rounded up; at least 1.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let retry_after = self.retry_after?;
        Some((retry_after.as_secs() + u64::from(retry_after.subsec_nanos() != 0)).max(1))
    }
}

/// What the limits decided.
#[derive(Default)]
pub(super) struct LimitDecision {
    pub(super) quota_refuses: bool,
    pub(super) window_refuses: bool,
    pub(super) limits: Vec<LimitStatus>,
}

impl LimitDecision {
    pub(super) fn is_refusal(&self) -> bool {
        self.quota_refuses || self.window_refuses
    }
}

/// What to do with the costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Charge them if all limits admit them.
    Charge,
    /// Only ask the limits.
    Ask,
    /// Only tell how the limits stand, because the request is denied anyway.
    Tell,
    /// Like `Tell`, without quotas that would have to be read.
    TellKnown,
}

/// A request to the limits of a key and of its organization.
#[derive(Clone, Copy)]
pub(super) struct LimitRequest<'a> {
    pub(super) key: OwnedLimits<'a>,
    pub(super) organization: Option<OwnedLimits<'a>>,
    /// Each meter at most once.
    pub(super) costs: &'a [Cost],
    pub(super) mode: Mode,
    pub(super) at: DecisionTime,
}

/// Asks the limits, and charges the costs if the mode says so and all of them admit them. `before` is called with the
/// locked state of the key before each attempt, and `after` with the decision, under the same lock. Returns `None` after
/// a wait for the read or write of a lease: the key may have been revoked meanwhile, or its limits changed, so the caller
/// has to look it up again.
///
/// # Errors
/// Those of `before`; `UNAVAILABLE` while the server shuts down; the errors of the read or write. After an error
/// nothing is charged.
pub(super) async fn decide(
    leases: &Leases,
    request: &LimitRequest<'_>,
    before: impl Fn(&Inner) -> Result<()>,
    after: impl FnOnce(&mut Inner, &LimitDecision),
) -> Result<Option<LimitDecision>> {
    let mut mode = request.mode;
    loop {
        let job = {
            let mut key = request.key.state.lock();
            before(&key)?;
            let attempt = {
                let mut organization = request.organization.map(|owned| (owned, owned.state.lock()));
                let key = LockedLimits { owned: request.key, inner: &mut key };
                match &mut organization {
                    None => attempt(leases, &mut [key], request, mode),
                    Some((owned, guard)) => {
                        let organization = LockedLimits { owned: *owned, inner: guard };
                        attempt(leases, &mut [key, organization], request, mode)
                    }
                }
            };
            match attempt {
                Ok(Attempt::Wait(job)) => Ok(job),
                Ok(Attempt::Decided(decision)) => {
                    after(&mut key, &decision);
                    return Ok(Some(decision));
                }
                Err(error) => Err(error),
            }
        };
        let result = match job {
            Ok(job) => job.await,
            Err(error) => Err(error),
        };
        match (result, mode) {
            // A request that is denied anyway doesn't fail because the state of a quota can't be read.
            (Err(_), Mode::Tell) => mode = Mode::TellKnown,
            (Err(error), _) => return Err(error),
            (Ok(()), _) => return Ok(None),
        }
    }
}

/// The result of an attempt to decide.
enum Attempt {
    /// The job has to end before the limits can decide.
    Wait(Job),
    Decided(LimitDecision),
}

/// A locked state and the limits that it has.
struct LockedLimits<'a, 'g> {
    owned: OwnedLimits<'a>,
    inner: &'g mut Inner,
}

fn attempt(
    leases: &Leases,
    locked: &mut [LockedLimits<'_, '_>],
    request: &LimitRequest<'_>,
    mode: Mode,
) -> Result<Attempt> {
    let LimitRequest { costs, at, .. } = *request;
    let limit_count = locked.iter().map(|locked| locked.owned.limits.len()).sum();
    let mut decision = LimitDecision { limits: Vec::with_capacity(limit_count), ..LimitDecision::default() };
    let mut unleased = None;
    for (index, LockedLimits { owned, inner }) in locked.iter_mut().enumerate() {
        owned.state.update(inner, owned.limits, owned.version, at);
        let check = inner.limits.check(owned.limits, costs, at);
        if let Some(id) = check.unread.filter(|_| mode != Mode::TellKnown) {
            return Ok(Attempt::Wait(leases.read(owned.state, inner, id)?));
        }
        decision.quota_refuses |= check.quota_refuses;
        decision.window_refuses |= check.window_refuses;
        unleased = unleased.or(check.unleased.map(|quota| (index, quota)));
    }
    if mode == Mode::Charge && !decision.is_refusal() {
        if let Some((index, quota)) = unleased {
            let LockedLimits { owned, inner } = &mut locked[index];
            return Ok(Attempt::Wait(leases.lease(owned.state, inner, quota)?));
        }
        for LockedLimits { owned, inner } in locked.iter_mut() {
            for due in inner.limits.charge(owned.limits, costs, at) {
                leases.renew(owned.state, inner, due);
            }
        }
    }
    for LockedLimits { owned, inner } in locked.iter_mut() {
        let status = |limit: &Limit| {
            let level = inner.limits.level(limit, at)?;
            Some(LimitStatus { owner: owned.owner, limit: *limit, level })
        };
        decision.limits.extend(owned.limits.iter().filter_map(status));
    }
    Ok(Attempt::Decided(decision))
}

/// Finds the refusing limit with the longest wait. Not called under the locks, because it divides.
pub(super) fn find_limited_by(limits: &[LimitStatus], costs: &[Cost], now: Timestamp) -> Option<LimitedBy> {
    let refusing = limits.iter().enumerate().filter_map(|(index, status)| {
        let retry_after = status.admits_after(units_of(costs, status.limit.meter)?, now);
        (retry_after != Some(Duration::ZERO)).then_some(LimitedBy { index, retry_after })
    });
    // The first one of equal ones.
    refusing.min_by_key(|limited| Reverse((limited.retry_after.is_none(), limited.retry_after)))
}
