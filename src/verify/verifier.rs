//! The decision: is this key good, now, for this, from here? In the order of the contract.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::{Buckets, Limit, RateLimitDecision};
use super::cache::KeyCache;
use super::quota::{self, Quotas, Spending};
use super::recorder::Recorder;
use super::secret;
use super::settings::SettingsCache;
use crate::domain::api_key::Credential;
use crate::domain::settings::Current;
use crate::domain::time::Timestamp;
use crate::domain::verification::{Outcome, before_limits};
use crate::error::Result;
use crate::telemetry::tally::Counts;

/// How many outcomes there are.
const OUTCOMES: usize = Outcome::NAMES.len();

const MINUTE: Duration = Duration::from_secs(60);

/// What is asked of a key.
#[derive(Clone, Copy, Debug)]
pub struct VerifyRequest<'a, S> {
    /// The secret as it came.
    pub secret: &'a str,
    /// What it is needed for: all of these.
    pub scopes: &'a [S],
    /// From where it is used, if that is known.
    pub ip: Option<IpAddr>,
    /// Tokens and units that it shall cost, if it is good.
    pub cost: u32,
    /// Spend nothing and count nothing.
    pub dry_run: bool,
    /// The organization that asks: to it, another one's key isn't there. `None` sees all.
    pub caller_organization_id: Option<&'a str>,
}

/// What the answer is, and how the key's limits stand after it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The answer.
    pub outcome: Outcome,
    /// The key; `None` when it is malformed or not found.
    pub(crate) credential: Option<Arc<Credential>>,
    /// Its rate limit; `None` when it has none.
    pub rate: Option<RateLimitDecision>,
    /// Its quota; `None` when it has none.
    pub(crate) quota: Option<quota::QuotaStatus>,
}

impl Verdict {
    fn unknown(outcome: Outcome) -> Self {
        Self { outcome, credential: None, rate: None, quota: None }
    }
}

/// Decides, spends and counts.
pub struct Verifier {
    keys: Arc<KeyCache>,
    settings: Arc<SettingsCache>,
    limits: Buckets<i64>,
    quotas: Quotas,
    recorder: Recorder,
    /// By the number of the outcome.
    outcomes: Counts<OUTCOMES>,
}

impl Verifier {
    /// A verifier over these records. At most `capacity` keys have a bucket of their own.
    pub(crate) fn new(
        keys: Arc<KeyCache>,
        settings: Arc<SettingsCache>,
        capacity: usize,
        quotas: Quotas,
        recorder: Recorder,
    ) -> Self {
        let (limits, outcomes) = (Buckets::new(capacity), Counts::default());
        Self { keys, settings, limits, quotas, recorder, outcomes }
    }

    /// Counts what is verified.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Leases what is spent of quotas.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Drops the buckets that are full.
    pub(crate) fn sweep(&self, monotonic: Duration) {
        self.limits.sweep(monotonic);
    }

    /// Answers a question, as of no earlier than this call.
    ///
    /// # Errors
    /// When the key isn't in memory and can't be read, its quota can't be leased, or what is counted has
    /// no room: then nothing was spent.
    pub async fn verify<S: AsRef<str>>(
        &self,
        request: &VerifyRequest<'_, S>,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<Verdict> {
        let verdict = self.decide(request, now, monotonic).await?;
        self.outcomes.add(verdict.outcome as usize);
        Ok(verdict)
    }

    async fn decide<S: AsRef<str>>(
        &self,
        request: &VerifyRequest<'_, S>,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<Verdict> {
        let settings = self.settings.get().await?;
        let credential = match self.find(&settings, request.secret, request.caller_organization_id).await? {
            Ok(credential) => credential,
            Err(outcome) => {
                if !request.dry_run {
                    self.recorder.deny_unknown(outcome, request.caller_organization_id, request.ip, now);
                }
                return Ok(Verdict::unknown(outcome));
            }
        };
        let record = before_limits(&credential, now, request.ip, request.scopes);
        // What is denied already is told how its limits stand, but takes nothing from them.
        let denied = !record.is_valid();
        let spend = !denied && !request.dry_run;
        if spend {
            self.recorder.reserve(&credential, now)?;
        }
        let limit = limit(&settings, &credential);
        let limits = self.ask_limits(&credential, limit, request.cost, spend, denied, now, monotonic);
        let (limited, rate, quota) = limits.await?;
        let outcome = if denied { record } else { limited };
        if !request.dry_run {
            let spent = if outcome.is_valid() { request.cost } else { 0 };
            self.recorder.count(&credential, outcome, spent, request.ip, now)?;
        }
        Ok(Verdict { outcome, credential: Some(credential), rate, quota })
    }

    /// How often what was decided, dry runs included, by the number of the outcome.
    pub(crate) fn outcomes(&self) -> [u64; OUTCOMES] {
        self.outcomes.sums()
    }

    /// Answers without a word about limits, and without spending: what RFC 7662 asks.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub(crate) async fn introspect(
        &self,
        secret: &str,
        caller_organization_id: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Arc<Credential>>> {
        let settings = self.settings.get().await?;
        let credential = match self.find(&settings, secret, caller_organization_id).await? {
            Ok(credential) => credential,
            Err(outcome) => {
                self.recorder.deny_unknown(outcome, caller_organization_id, None, now);
                self.outcomes.add(outcome as usize);
                return Ok(None);
            }
        };
        let outcome = before_limits::<&str>(&credential, now, None, &[]);
        self.recorder.count(&credential, outcome, 0, None, now)?;
        self.outcomes.add(outcome as usize);
        Ok(outcome.is_valid().then_some(credential))
    }

    async fn find(
        &self,
        settings: &Current,
        secret: &str,
        caller_organization_id: Option<&str>,
    ) -> Result<Result<Arc<Credential>, Outcome>> {
        if !secret::is_plausible(&settings.checked_prefixes, secret) {
            return Ok(Err(Outcome::Malformed));
        }
        let found = self.keys.get(&secret::hash(secret)).await?;
        let own = |one: &Arc<Credential>| {
            caller_organization_id.is_none() || one.key.organization_id.as_deref() == caller_organization_id
        };
        Ok(found.filter(own).ok_or(Outcome::NotFound))
    }

    /// The quota and then the bucket, as one decision: a key gets both or spends neither.
    #[allow(clippy::too_many_arguments)] // It is the second half of `verify`.
    async fn ask_limits(
        &self,
        credential: &Credential,
        limit: Option<Limit>,
        cost: u32,
        spend: bool,
        denied: bool,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<(Outcome, Option<RateLimitDecision>, Option<quota::QuotaStatus>)> {
        let key = credential.seq;
        let ask_bucket = |spend| match limit {
            Some(limit) if spend => Some(self.limits.take(&key, limit, cost, monotonic)),
            Some(limit) => Some(self.limits.peek(&key, limit, cost, monotonic)),
            None => None,
        };
        let agrees = |rate: &Option<RateLimitDecision>| rate.is_none_or(|taken| taken.allowed);
        let by_rate = |rate: &Option<RateLimitDecision>| {
            if agrees(rate) { Outcome::Valid } else { Outcome::RateLimited }
        };
        let Some(quota) = credential.key.quota else {
            let rate = ask_bucket(spend);
            return Ok((by_rate(&rate), rate, None));
        };
        if !spend {
            let rate = ask_bucket(false);
            let (there, standing) = match self.quotas.peek(key, quota, cost, now).await {
                Ok((there, standing)) => (there, Some(standing)),
                // What is denied anyway doesn't fail for want of this.
                Err(_) if denied => (true, None),
                Err(error) => return Err(error),
            };
            let outcome = if there { by_rate(&rate) } else { Outcome::QuotaExceeded };
            return Ok((outcome, rate, standing));
        }
        let mut rate = None;
        let bucket = || {
            rate = ask_bucket(true);
            agrees(&rate)
        };
        let (spending, standing) = self.quotas.take(key, quota, cost, now, bucket).await?;
        let outcome = match spending {
            Spending::Exceeded => {
                rate = ask_bucket(false);
                Outcome::QuotaExceeded
            }
            Spending::Refused => Outcome::RateLimited,
            Spending::Done => Outcome::Valid,
        };
        Ok((outcome, rate, Some(standing)))
    }
}

/// The key's own limit, else its plan's. A platform key without its own has none.
fn limit(settings: &Current, credential: &Credential) -> Option<Limit> {
    if let Some(own) = credential.key.rate_limit {
        return Some(Limit { tokens: own.limit, window: Duration::from_secs(own.window_seconds.into()) });
    }
    let plan = settings.settings.plan(&credential.organization.as_ref()?.plan)?;
    (plan.requests_per_minute > 0).then_some(Limit { tokens: plan.requests_per_minute, window: MINUTE })
}
