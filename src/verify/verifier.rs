//! Decides whether an API key is valid for a request: at this time, with these scopes, from this address, at
//! this cost. The checks run in the order documented for the API.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strum::VariantArray;

use super::cache::KeyCache;
use super::decision::{self, LimitDecision, LimitRequest, LimitStatus, LimitedBy, Mode};
use super::effective_limits::owned_limits;
use super::key_record::{KeyRecord, RecordStates};
use super::leases::Leases;
use super::limit_state::DecisionTime;
use super::recorder::Recorder;
use super::secret::{self, MAX_SECRET_BYTES};
use super::settings::{SettingsCache, SettingsGuard};
use super::subject_state::{Inner, SubjectStates};
use crate::clock::Clock;
use crate::domain::api_key::{Credential, SecretHash};
use crate::domain::meter::Cost;
use crate::domain::time::Timestamp;
use crate::domain::verification::{Outcome, check_before_limits};
use crate::error::{Error, Result};
use crate::telemetry::failure_streak::FailureStreak;
use crate::telemetry::tally::Counts;

/// Number of possible outcomes of a verification.
const OUTCOME_COUNT: usize = Outcome::VARIANTS.len();

/// Which key to verify.
#[derive(Clone, Copy, Debug)]
pub enum KeyToVerify<'a> {
    /// The key with this secret, as sent by the client.
    Secret(&'a str),
    /// A key that was looked up by its id; `None` if there is none.
    Loaded(Option<&'a Arc<KeyRecord>>),
}

/// A request to verify a key.
#[derive(Clone, Copy, Debug)]
pub struct VerifyRequest<'a, S> {
    /// The key.
    pub key: KeyToVerify<'a>,
    /// The required scopes; the key must have all of them.
    pub scopes: &'a [S],
    /// The client's address, if it is known.
    pub ip: Option<IpAddr>,
    /// Units to charge if the key is valid, each meter once. The limits on these meters decide.
    pub costs: &'a [Cost],
    /// True to decide without spending or counting anything.
    pub dry_run: bool,
    /// The caller's organization. Keys of other organizations are reported as not found. `None` makes all
    /// keys visible.
    pub caller_organization_id: Option<&'a str>,
}

/// A record as a thread has found it. The outer `Arc` belongs to the thread, so that its use doesn't write to memory that
/// other threads read.
type FoundRecord = Arc<Arc<KeyRecord>>;

/// The result of a verification: the outcome, and the state of the limits after the decision.
#[derive(Clone)]
pub struct Verdict {
    /// The decision and its reason.
    pub outcome: Outcome,
    /// The verified key; `None` when the secret is malformed or not found.
    pub(crate) record: Option<FoundRecord>,
    /// How the limits of the key and its organization stand.
    pub limits: Vec<LimitStatus>,
    /// The limit that refused the request; `None` if none did.
    pub limited_by: Option<LimitedBy>,
}

impl Verdict {
    fn without_key(outcome: Outcome) -> Self {
        Self { outcome, record: None, limits: Vec::new(), limited_by: None }
    }

    /// The verified key; `None` when the secret is malformed or not found.
    pub(crate) fn credential(&self) -> Option<&Arc<Credential>> {
        self.record.as_ref().map(|record| &record.credential)
    }
}

/// Verifies keys: decides whether they are valid, spends their limits and counts the outcomes.
pub struct Verifier {
    keys: Arc<KeyCache>,
    settings: Arc<SettingsCache>,
    clock: Clock,
    states: SubjectStates,
    leases: Leases,
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
    /// Creates a verifier that holds the states of at most `max_states` keys and organizations.
    pub(crate) fn new(
        keys: Arc<KeyCache>,
        settings: Arc<SettingsCache>,
        clock: Clock,
        max_states: usize,
        leases: Leases,
        recorder: Recorder,
        files_lost: Arc<AtomicBool>,
    ) -> Self {
        Self {
            keys,
            settings,
            clock,
            states: SubjectStates::new(max_states),
            leases,
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

    /// The leases of quotas.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The limits and counts of keys and organizations in memory.
    pub(crate) fn states(&self) -> &SubjectStates {
        &self.states
    }

    /// Drops the states from memory that are not needed.
    pub(crate) fn sweep(&self, monotonic: Duration) {
        self.states.sweep(monotonic);
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
        self.verify_with_room(request, now, monotonic, |_, _| Ok(())).await
    }

    /// Like [`verify`](Self::verify). `ensure_room` reserves the memory of the response: it is called with the key, if it
    /// is known, and the number of its limits before anything is charged or counted.
    ///
    /// # Errors
    /// Those of [`verify`](Self::verify) and of `ensure_room`.
    pub(crate) async fn verify_with_room<S: AsRef<str>>(
        &self,
        request: &VerifyRequest<'_, S>,
        now: Timestamp,
        monotonic: Duration,
        ensure_room: impl Fn(&Credential, usize) -> Result<()>,
    ) -> Result<Verdict> {
        self.ensure_files_in_place()?;
        let now = self.clock.expiry_time_at(now, monotonic);
        let at = DecisionTime { now, monotonic };
        loop {
            let decided = self.decide(request, at, &ensure_room).await;
            if let Some(verdict) = decided.inspect_err(|error| self.observe_failure(request.key, error))? {
                self.outcome_counts.add(verdict.outcome as usize);
                return Ok(verdict);
            }
        }
    }

    fn ensure_files_in_place(&self) -> Result<()> {
        if self.files_lost.load(Ordering::Relaxed) {
            let message = "The database isn't available: its files were moved, removed or replaced.";
            return Err(Error::unavailable(message, 5));
        }
        Ok(())
    }

    /// Looks the key up and decides; `None` after a wait for a lease.
    async fn decide<S: AsRef<str>>(
        &self,
        request: &VerifyRequest<'_, S>,
        at: DecisionTime,
        ensure_room: &impl Fn(&Credential, usize) -> Result<()>,
    ) -> Result<Option<Verdict>> {
        let now = at.now;
        let (found, settings) =
            self.find_key_and_settings(request.key, request.caller_organization_id).await?;
        let record = match found {
            Ok(record) => record,
            Err(outcome) => {
                if !request.dry_run {
                    self.recorder.count_unknown_key_denial(
                        outcome,
                        request.caller_organization_id,
                        request.ip,
                        now,
                    );
                }
                return Ok(Some(Verdict::without_key(outcome)));
            }
        };
        let before_limits = check_before_limits(&record.credential, now, request.ip, request.scopes);
        let states = record.states(&self.states, at.monotonic)?;
        let (key, organization) = owned_limits(&settings, &record, states);
        let limit_count = key.limits.len() + organization.map_or(0, |owned| owned.limits.len());
        ensure_room(&record.credential, limit_count)?;
        let mode = match before_limits.is_valid() {
            // A denied request charges nothing, but its result includes the state of the limits too.
            false => Mode::Tell,
            true if request.dry_run => Mode::Ask,
            true => Mode::Charge,
        };
        let limit_request = LimitRequest { key, organization, costs: request.costs, mode, at };
        let decided = self.decide_limits(&limit_request, request.dry_run, before_limits).await?;
        let Some((outcome, decision)) = decided else { return Ok(None) };
        if !outcome.is_valid() && !request.dry_run {
            self.recorder.count_denial(&record.credential, outcome, request.ip, now);
        }
        let limited_by = match outcome {
            Outcome::QuotaExceeded | Outcome::RateLimited => {
                decision::find_limited_by(&decision.limits, request.costs, now)
            }
            _ => None,
        };
        Ok(Some(Verdict { outcome, record: Some(record), limits: decision.limits, limited_by }))
    }

    /// Asks the limits of the key and its organization, and charges them if they and the checks before them admit the
    /// request. Counts the verification under the same lock.
    async fn decide_limits(
        &self,
        request: &LimitRequest<'_>,
        is_dry_run: bool,
        before_limits: Outcome,
    ) -> Result<Option<(Outcome, LimitDecision)>> {
        let ensure_room = |inner: &Inner| match request.mode {
            Mode::Charge => self.recorder.ensure_room_for(inner, request.at.now),
            _ => Ok(()),
        };
        let count = |inner: &mut Inner, decision: &LimitDecision| {
            let outcome = outcome_of(before_limits, decision);
            if !is_dry_run {
                let costs = if outcome.is_valid() { request.costs } else { &[] };
                self.recorder.count(request.key.state, inner, outcome, costs, request.at.now);
            }
        };
        let decision = decision::decide(&self.leases, request, ensure_room, count).await?;
        Ok(decision.map(|decision| (outcome_of(before_limits, &decision), decision)))
    }

    /// Number of verifications by outcome, dry runs included, indexed by `Outcome as usize`.
    pub(crate) fn outcome_counts(&self) -> [u64; OUTCOME_COUNT] {
        self.outcome_counts.sums()
    }

    /// Records that the verification of a key failed, if the database caused it.
    fn observe_failure(&self, key: KeyToVerify<'_>, error: &Error) {
        if error.database_fault.is_some()
            && let KeyToVerify::Secret(secret) = key
        {
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

    /// The states of a key and its organization, to charge them with a report.
    ///
    /// # Errors
    /// `UNAVAILABLE` when too many keys are in use, or the database's files aren't at their paths.
    pub(crate) fn states_of(&self, record: &KeyRecord) -> Result<RecordStates> {
        self.ensure_files_in_place()?;
        record.states(&self.states, self.clock.monotonic()).cloned()
    }

    /// How the limits of a key and of its organization stand. Nothing is spent or counted.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the database's files aren't at their paths or too many keys are in use.
    pub(crate) async fn limits_of(&self, record: &KeyRecord) -> Result<Vec<LimitStatus>> {
        self.ensure_files_in_place()?;
        let at = DecisionTime { now: self.clock.expiry_time(), monotonic: self.clock.monotonic() };
        let states = record.states(&self.states, at.monotonic)?;
        loop {
            let settings = self.settings.get().await?;
            let (mut key, mut organization) = owned_limits(&settings, record, states);
            if !self.keys.is_fresh(record) {
                // Only together with a current record do current settings make the latest list.
                key.version = 0;
                organization.iter_mut().for_each(|owned| owned.version = 0);
            }
            let request = LimitRequest { key, organization, costs: &[], mode: Mode::Tell, at };
            if let Some(decision) = decision::decide(&self.leases, &request, |_| Ok(()), |_, _| ()).await? {
                return Ok(decision.limits);
            }
        }
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
        let key = KeyToVerify::Secret(secret);
        let record = match self.find_key(key, caller_organization_id).await? {
            Ok(record) => record,
            Err(outcome) => {
                self.recorder.count_unknown_key_denial(outcome, caller_organization_id, None, now);
                self.outcome_counts.add(outcome as usize);
                return Ok(None);
            }
        };
        let outcome = check_before_limits::<&str>(&record.credential, now, None, &[]);
        self.count(&record, outcome, &[], None, now)?;
        self.outcome_counts.add(outcome as usize);
        Ok(outcome.is_valid().then(|| record.credential.clone()))
    }

    /// Counts a verification that was decided without limits.
    ///
    /// # Errors
    /// `UNAVAILABLE` when too many keys are in use.
    pub fn count(
        &self,
        record: &KeyRecord,
        outcome: Outcome,
        costs: &[Cost],
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<()> {
        let states = record.states(&self.states, self.clock.monotonic())?;
        {
            let mut inner = states.key.lock();
            self.recorder.ensure_room_for(&inner, now)?;
            self.recorder.count(&states.key, &mut inner, outcome, costs, now);
        }
        if !outcome.is_valid() {
            self.recorder.count_denial(&record.credential, outcome, ip, now);
        }
        Ok(())
    }

    /// Finds a key, and the settings while the key is unchanged. Otherwise the organization could be on a plan that these
    /// settings don't have yet, or no more.
    async fn find_key_and_settings(
        &self,
        key: KeyToVerify<'_>,
        caller_organization_id: Option<&str>,
    ) -> Result<(Result<FoundRecord, Outcome>, SettingsGuard)> {
        loop {
            let found = self.find_key(key, caller_organization_id).await?;
            let settings = self.settings.get().await?;
            let is_outdated = |record: &FoundRecord| !self.keys.is_fresh(record);
            if matches!(key, KeyToVerify::Loaded(_)) || !found.as_ref().is_ok_and(is_outdated) {
                return Ok((found, settings));
            }
        }
    }

    async fn find_key(
        &self,
        key: KeyToVerify<'_>,
        caller_organization_id: Option<&str>,
    ) -> Result<Result<FoundRecord, Outcome>> {
        let record = match key {
            KeyToVerify::Loaded(record) => record.cloned().map(Arc::new),
            KeyToVerify::Secret(secret) => {
                if secret.is_empty() || secret.len() > MAX_SECRET_BYTES {
                    return Ok(Err(Outcome::Malformed));
                }
                let hash = secret::hash_secret(secret);
                match self.keys.get_recent(&hash) {
                    Some(record) => Some(record),
                    None => {
                        // A key in memory has a right checksum, so it is checked only here.
                        let settings = self.settings.get().await?;
                        if !secret::is_plausible(&settings.known_prefixes, secret) {
                            return Ok(Err(Outcome::Malformed));
                        }
                        drop(settings);
                        let record = self.keys.get_record(&hash).await?;
                        record.inspect(|record| self.keys.remember(&hash, record)).map(Arc::new)
                    }
                }
            }
        };
        let is_visible = |record: &FoundRecord| {
            caller_organization_id.is_none()
                || record.credential.key.organization_id.as_deref() == caller_organization_id
        };
        Ok(record.filter(is_visible).ok_or(Outcome::NotFound))
    }
}

/// The outcome of the checks before the limits, and then of the limits.
fn outcome_of(before_limits: Outcome, decision: &LimitDecision) -> Outcome {
    match before_limits {
        Outcome::Valid if decision.quota_refuses => Outcome::QuotaExceeded,
        Outcome::Valid if decision.window_refuses => Outcome::RateLimited,
        outcome => outcome,
    }
}

#[cfg(test)]
#[path = "plan_change_tests.rs"]
mod plan_change_tests;
