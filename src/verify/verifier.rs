//! Decides whether an API key is valid for a request: at this time, with these scopes, from this address, at
//! this cost. The checks run in the order documented for the API.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strum::VariantArray;

use super::bucket::{BucketLimit, Buckets, RateLimitDecision};
use super::cache::KeyCache;
use super::quota::{self, QuotaDecision, Quotas};
use super::recorder::Recorder;
use super::secret;
use super::settings::SettingsCache;
use crate::clock::Clock;
use crate::domain::api_key::{Credential, SecretHash};
use crate::domain::settings::StoredSettings;
use crate::domain::time::Timestamp;
use crate::domain::verification::{Outcome, check_before_limits};
use crate::error::{Error, Result};
use crate::telemetry::failure_streak::FailureStreak;
use crate::telemetry::tally::Counts;

/// Number of possible outcomes of a verification.
const OUTCOME_COUNT: usize = Outcome::VARIANTS.len();

const MINUTE: Duration = Duration::from_secs(60);

/// A request to verify a secret.
#[derive(Clone, Copy, Debug)]
pub struct VerifyRequest<'a, S> {
    /// The secret as sent by the client.
    pub secret: &'a str,
    /// The required scopes; the key must have all of them.
    pub scopes: &'a [S],
    /// The client's address, if it is known.
    pub ip: Option<IpAddr>,
    /// Rate-limit tokens and quota units to spend if the key is valid.
    pub cost: u32,
    /// True to decide without spending or counting anything.
    pub dry_run: bool,
    /// The caller's organization. Keys of other organizations are reported as not found. `None` makes all
    /// keys visible.
    pub caller_organization_id: Option<&'a str>,
}

/// The result of a verification: the outcome, and the state of the key's limits after the decision.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The decision and its reason.
    pub outcome: Outcome,
    /// The verified key; `None` when the secret is malformed or not found.
    pub(crate) credential: Option<Arc<Credential>>,
    /// State of the rate limit; `None` when the key has no rate limit.
    pub rate: Option<RateLimitDecision>,
    /// State of the quota; `None` when the key has no quota.
    pub(crate) quota: Option<quota::QuotaStatus>,
}

impl Verdict {
    fn without_credential(outcome: Outcome) -> Self {
        Self { outcome, credential: None, rate: None, quota: None }
    }
}

/// Verifies keys: decides whether they are valid, spends their limits and counts the outcomes.
pub struct Verifier {
    keys: Arc<KeyCache>,
    settings: Arc<SettingsCache>,
    clock: Clock,
    rate_limits: Buckets<i64>,
    quotas: Quotas,
    recorder: Recorder,
    /// True while the database's files aren't at their paths. The keys in memory may then belong to a database
    /// that was replaced.
    files_lost: Arc<AtomicBool>,
    /// Indexed by `Outcome as usize`.
    outcome_counts: Counts<OUTCOME_COUNT>,
    /// Verifications that failed because of the database.
    database_failures: FailureStreak<SecretHash>,
}

impl Verifier {
    /// Creates a verifier that holds rate-limit buckets for at most `max_buckets` keys. Further keys share
    /// one bucket.
    pub(crate) fn new(
        keys: Arc<KeyCache>,
        settings: Arc<SettingsCache>,
        clock: Clock,
        max_buckets: usize,
        quotas: Quotas,
        recorder: Recorder,
        files_lost: Arc<AtomicBool>,
    ) -> Self {
        Self {
            keys,
            settings,
            clock,
            rate_limits: Buckets::new(max_buckets),
            quotas,
            recorder,
            files_lost,
            outcome_counts: Counts::default(),
            database_failures: FailureStreak::default(),
        }
    }

    /// The recorder of usage and denials.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The quota counts.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Drops full rate-limit buckets from memory.
    pub(crate) fn drop_full_buckets(&self, monotonic: Duration) {
        self.rate_limits.sweep(monotonic);
    }

    /// Verifies a secret. Every change published before this call is taken into account. After the clock
    /// was set back, the settled time counts instead of `now`, also for usage and denials: otherwise retention
    /// could delete them once the clock is right again.
    ///
    /// # Errors
    /// When the database's files aren't at their paths, when the key isn't in memory and can't be read, when its
    /// quota can't be leased, or when the recorder is full. After an error nothing is spent.
    pub async fn verify<S: AsRef<str>>(
        &self,
        request: &VerifyRequest<'_, S>,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<Verdict> {
        self.ensure_files_in_place()?;
        let verdict = self.decide(request, self.clock.expiry_time_at(now, monotonic), monotonic).await;
        let verdict = verdict.inspect_err(|error| self.observe_failure(request.secret, error))?;
        self.outcome_counts.add(verdict.outcome as usize);
        Ok(verdict)
    }

    fn ensure_files_in_place(&self) -> Result<()> {
        if self.files_lost.load(Ordering::Relaxed) {
            let message = "The database isn't available: its files were moved, removed or replaced.";
            return Err(Error::unavailable(message, 5));
        }
        Ok(())
    }

    async fn decide<S: AsRef<str>>(
        &self,
        request: &VerifyRequest<'_, S>,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<Verdict> {
        let settings = self.settings.get().await?;
        let credential =
            match self.find_credential(&settings, request.secret, request.caller_organization_id).await? {
                Ok(credential) => credential,
                Err(outcome) => {
                    if !request.dry_run {
                        self.recorder.count_unknown_key_denial(
                            outcome,
                            request.caller_organization_id,
                            request.ip,
                            now,
                        );
                    }
                    return Ok(Verdict::without_credential(outcome));
                }
            };
        let outcome_before_limits = check_before_limits(&credential, now, request.ip, request.scopes);
        // A denied request spends nothing, but its result includes the state of the limits too.
        let denied = !outcome_before_limits.is_valid();
        let spend = !denied && !request.dry_run;
        if spend {
            self.recorder.ensure_room_for(&credential, now)?;
        }
        let limit = effective_rate_limit(&settings, &credential);
        let limits =
            self.check_and_spend_limits(&credential, limit, request.cost, spend, denied, now, monotonic);
        let (limits_outcome, rate, quota) = limits.await?;
        let outcome = if denied { outcome_before_limits } else { limits_outcome };
        if !request.dry_run {
            let spent = if outcome.is_valid() { request.cost } else { 0 };
            self.recorder.count_verification(&credential, outcome, spent, request.ip, now)?;
        }
        Ok(Verdict { outcome, credential: Some(credential), rate, quota })
    }

    /// Number of verifications by outcome, dry runs included, indexed by `Outcome as usize`.
    pub(crate) fn outcome_counts(&self) -> [u64; OUTCOME_COUNT] {
        self.outcome_counts.sums()
    }

    /// Records that the verification of a secret failed, if the database caused it.
    fn observe_failure(&self, secret: &str, error: &Error) {
        if error.database_fault.is_some() {
            let hash = secret::hash_secret(secret);
            self.database_failures.record(hash, self.known_key_count(), self.clock.monotonic());
        }
    }

    /// True if the last verifications, of several keys, all failed because of the database.
    pub(crate) fn is_failing(&self) -> bool {
        self.database_failures.is_failing(self.known_key_count(), self.clock.monotonic())
    }

    /// Number of verifications of keys that exist. Others may be decided without the database.
    fn known_key_count(&self) -> u64 {
        self.outcome_counts.sums()[Outcome::Revoked as usize..].iter().sum()
    }

    /// Returns the credential of a secret if it is valid, for token introspection (RFC 7662). Limits are
    /// neither checked nor spent.
    ///
    /// # Errors
    /// The same errors as [`verify`](Self::verify).
    pub(crate) async fn introspect(
        &self,
        secret: &str,
        caller_organization_id: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Arc<Credential>>> {
        self.ensure_files_in_place()?;
        let now = self.clock.expiry_time_at(now, self.clock.monotonic());
        let settings = self.settings.get().await?;
        let credential = match self.find_credential(&settings, secret, caller_organization_id).await? {
            Ok(credential) => credential,
            Err(outcome) => {
                self.recorder.count_unknown_key_denial(outcome, caller_organization_id, None, now);
                self.outcome_counts.add(outcome as usize);
                return Ok(None);
            }
        };
        let outcome = check_before_limits::<&str>(&credential, now, None, &[]);
        self.recorder.count_verification(&credential, outcome, 0, None, now)?;
        self.outcome_counts.add(outcome as usize);
        Ok(outcome.is_valid().then_some(credential))
    }

    async fn find_credential(
        &self,
        settings: &StoredSettings,
        secret: &str,
        caller_organization_id: Option<&str>,
    ) -> Result<Result<Arc<Credential>, Outcome>> {
        if !secret::is_plausible(&settings.checked_prefixes, secret) {
            return Ok(Err(Outcome::Malformed));
        }
        let credential = self.keys.get(&secret::hash_secret(secret)).await?;
        let is_visible = |credential: &Arc<Credential>| {
            caller_organization_id.is_none()
                || credential.key.organization_id.as_deref() == caller_organization_id
        };
        Ok(credential.filter(is_visible).ok_or(Outcome::NotFound))
    }

    /// Checks the quota and then the rate limit. With `spend`, spends both if both admit the cost, otherwise
    /// neither.
    #[allow(clippy::too_many_arguments)] // Only `decide` calls this function, with all of its state.
    async fn check_and_spend_limits(
        &self,
        credential: &Credential,
        limit: Option<BucketLimit>,
        cost: u32,
        spend: bool,
        denied: bool,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<(Outcome, Option<RateLimitDecision>, Option<quota::QuotaStatus>)> {
        let key = credential.seq;
        let take_or_peek_bucket = |spend| match limit {
            Some(limit) if spend => Some(self.rate_limits.take(&key, limit, cost, monotonic)),
            Some(limit) => Some(self.rate_limits.peek(&key, limit, cost, monotonic)),
            None => None,
        };
        let is_allowed = |rate: &Option<RateLimitDecision>| rate.is_none_or(|decision| decision.allowed);
        let rate_outcome = |rate: &Option<RateLimitDecision>| {
            if is_allowed(rate) { Outcome::Valid } else { Outcome::RateLimited }
        };
        let Some(quota) = credential.key.quota else {
            let rate = take_or_peek_bucket(spend);
            return Ok((rate_outcome(&rate), rate, None));
        };
        if !spend {
            let rate = take_or_peek_bucket(false);
            let (admitted, quota_status) = match self.quotas.peek(key, quota, cost, now).await {
                Ok((admitted, quota_status)) => (admitted, Some(quota_status)),
                // A request that is denied anyway doesn't fail because the state of its quota is missing.
                Err(_) if denied => (true, None),
                Err(error) => return Err(error),
            };
            let outcome = if admitted { rate_outcome(&rate) } else { Outcome::QuotaExceeded };
            return Ok((outcome, rate, quota_status));
        }
        let mut rate = None;
        let bucket = || {
            rate = take_or_peek_bucket(true);
            is_allowed(&rate)
        };
        let (decision, quota_status) = self.quotas.take(key, quota, cost, now, bucket).await?;
        let outcome = match decision {
            QuotaDecision::Exceeded => {
                rate = take_or_peek_bucket(false);
                Outcome::QuotaExceeded
            }
            QuotaDecision::RateLimited => Outcome::RateLimited,
            QuotaDecision::Spent => Outcome::Valid,
        };
        Ok((outcome, rate, Some(quota_status)))
    }
}

/// The key's own rate limit, or else the rate limit of the plan of its organization. `None` when neither
/// exists, as for a platform key without its own rate limit.
fn effective_rate_limit(settings: &StoredSettings, credential: &Credential) -> Option<BucketLimit> {
    if let Some(rate) = credential.key.rate_limit {
        return Some(BucketLimit {
            tokens: rate.limit,
            window: Duration::from_secs(rate.window_seconds.into()),
        });
    }
    let plan = settings.settings.plan(&credential.organization.as_ref()?.plan)?;
    (plan.requests_per_minute > 0).then_some(BucketLimit { tokens: plan.requests_per_minute, window: MINUTE })
}
