//! The decision whether a key is valid for a request: now, for these scopes, from this address, at this
//! cost. The checks run in the order documented for the API.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::{Buckets, Limit, RateLimitDecision};
use super::cache::KeyCache;
use super::quota::{self, QuotaDecision, Quotas};
use super::recorder::Recorder;
use super::secret;
use super::settings::SettingsCache;
use crate::domain::api_key::Credential;
use crate::domain::settings::Current;
use crate::domain::time::Timestamp;
use crate::domain::verification::{Outcome, before_limits};
use crate::error::Result;
use crate::telemetry::tally::Counts;

/// Number of outcomes.
const OUTCOMES: usize = Outcome::NAMES.len();

const MINUTE: Duration = Duration::from_secs(60);

/// A verification to be decided.
#[derive(Clone, Copy, Debug)]
pub struct VerifyRequest<'a, S> {
    /// The secret as sent by the client.
    pub secret: &'a str,
    /// The required scopes, all of them.
    pub scopes: &'a [S],
    /// The client's address, if it is known.
    pub ip: Option<IpAddr>,
    /// Rate-limit tokens and quota units to spend if the key is valid.
    pub cost: u32,
    /// True to decide without spending or counting anything.
    pub dry_run: bool,
    /// The caller's organization, for which keys of other organizations don't exist. `None`: all keys are
    /// visible.
    pub caller_organization_id: Option<&'a str>,
}

/// The outcome, and the state of the key's limits after it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The decision and its reason.
    pub outcome: Outcome,
    /// The key; `None` when the secret is malformed or not found.
    pub(crate) credential: Option<Arc<Credential>>,
    /// State of the rate limit; `None` when the key has none.
    pub rate: Option<RateLimitDecision>,
    /// State of the quota; `None` when the key has none.
    pub(crate) quota: Option<quota::QuotaStatus>,
}

impl Verdict {
    fn unknown(outcome: Outcome) -> Self {
        Self { outcome, credential: None, rate: None, quota: None }
    }
}

/// Verifies keys: decides, spends their limits and counts the outcomes.
pub struct Verifier {
    keys: Arc<KeyCache>,
    settings: Arc<SettingsCache>,
    limits: Buckets<i64>,
    quotas: Quotas,
    recorder: Recorder,
    /// Indexed by `Outcome as usize`.
    outcomes: Counts<OUTCOMES>,
}

impl Verifier {
    /// A verifier in which at most `capacity` keys have a rate-limit bucket of their own.
    pub(crate) fn new(
        keys: Arc<KeyCache>,
        settings: Arc<SettingsCache>,
        capacity: usize,
        quotas: Quotas,
        recorder: Recorder,
    ) -> Self {
        Self { keys, settings, limits: Buckets::new(capacity), quotas, recorder, outcomes: Counts::default() }
    }

    /// The recorder of usage and denials.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The quota counts.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Drops full buckets.
    pub(crate) fn sweep(&self, monotonic: Duration) {
        self.limits.sweep(monotonic);
    }

    /// Decides a verification. Every change published before this call is taken into account.
    ///
    /// # Errors
    /// When the key isn't in memory and can't be read, when its quota can't be leased, or when the recorder
    /// is full. Nothing was spent then.
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
        let record_outcome = before_limits(&credential, now, request.ip, request.scopes);
        // A denied request gets the state of its limits too, but spends nothing.
        let denied = !record_outcome.is_valid();
        let spend = !denied && !request.dry_run;
        if spend {
            self.recorder.reserve(&credential, now)?;
        }
        let limit = limit(&settings, &credential);
        let limits = self.check_limits(&credential, limit, request.cost, spend, denied, now, monotonic);
        let (limits_outcome, rate, quota) = limits.await?;
        let outcome = if denied { record_outcome } else { limits_outcome };
        if !request.dry_run {
            let spent = if outcome.is_valid() { request.cost } else { 0 };
            self.recorder.count(&credential, outcome, spent, request.ip, now)?;
        }
        Ok(Verdict { outcome, credential: Some(credential), rate, quota })
    }

    /// Number of decisions by outcome, dry runs included, indexed by `Outcome as usize`.
    pub(crate) fn outcomes(&self) -> [u64; OUTCOMES] {
        self.outcomes.sums()
    }

    /// The credential of a valid secret, for RFC 7662. Limits are neither checked nor spent.
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
        let credential = self.keys.get(&secret::hash(secret)).await?;
        let is_visible = |credential: &Arc<Credential>| {
            caller_organization_id.is_none()
                || credential.key.organization_id.as_deref() == caller_organization_id
        };
        Ok(credential.filter(is_visible).ok_or(Outcome::NotFound))
    }

    /// Checks the quota and then the rate limit, as one decision: both are spent or neither.
    #[allow(clippy::too_many_arguments)] // The second half of `decide`.
    async fn check_limits(
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
        let check_bucket = |spend| match limit {
            Some(limit) if spend => Some(self.limits.take(&key, limit, cost, monotonic)),
            Some(limit) => Some(self.limits.peek(&key, limit, cost, monotonic)),
            None => None,
        };
        let is_allowed = |rate: &Option<RateLimitDecision>| rate.is_none_or(|decision| decision.allowed);
        let rate_outcome = |rate: &Option<RateLimitDecision>| {
            if is_allowed(rate) { Outcome::Valid } else { Outcome::RateLimited }
        };
        let Some(quota) = credential.key.quota else {
            let rate = check_bucket(spend);
            return Ok((rate_outcome(&rate), rate, None));
        };
        if !spend {
            let rate = check_bucket(false);
            let (admitted, standing) = match self.quotas.peek(key, quota, cost, now).await {
                Ok((admitted, standing)) => (admitted, Some(standing)),
                // A request that is denied anyway doesn't fail because the state of its quota is missing.
                Err(_) if denied => (true, None),
                Err(error) => return Err(error),
            };
            let outcome = if admitted { rate_outcome(&rate) } else { Outcome::QuotaExceeded };
            return Ok((outcome, rate, standing));
        }
        let mut rate = None;
        let bucket = || {
            rate = check_bucket(true);
            is_allowed(&rate)
        };
        let (decision, standing) = self.quotas.take(key, quota, cost, now, bucket).await?;
        let outcome = match decision {
            QuotaDecision::Exceeded => {
                rate = check_bucket(false);
                Outcome::QuotaExceeded
            }
            QuotaDecision::RateLimited => Outcome::RateLimited,
            QuotaDecision::Spent => Outcome::Valid,
        };
        Ok((outcome, rate, Some(standing)))
    }
}

/// The key's own rate limit, else that of its plan. A platform key without its own has none.
fn limit(settings: &Current, credential: &Credential) -> Option<Limit> {
    if let Some(rate) = credential.key.rate_limit {
        return Some(Limit { tokens: rate.limit, window: Duration::from_secs(rate.window_seconds.into()) });
    }
    let plan = settings.settings.plan(&credential.organization.as_ref()?.plan)?;
    (plan.requests_per_minute > 0).then_some(Limit { tokens: plan.requests_per_minute, window: MINUTE })
}
