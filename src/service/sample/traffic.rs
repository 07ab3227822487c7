//! Generates verifications of the sample's API keys. Their number varies between day and night and between
//! weekdays and weekends, and includes one incident. The same keys and times give the same numbers.

use std::f64::consts::TAU;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::api_key::{Credential, Status};
use crate::domain::organization::Status as Account;
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Interval, OUTCOME_COUNT, UsageCounts};
use crate::domain::verification::Outcome;
use crate::domain::verification::Outcome::{
    Disabled, InsufficientScope, IpNotAllowed, Malformed, NotFound, OrganizationSuspended, QuotaExceeded,
    RateLimited, Revoked, Valid,
};
use crate::verify::denials::{AggregationKey, Denial};
use crate::verify::recorder::UsageBatch;
use crate::verify::unwritten_usage::HourlyKeyCounts;

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_MILLIS: i64 = Interval::Hour.millis();
/// The hours before now in which a client of `key_papaya` retries without backoff.
const INCIDENT_HOURS_AGO: std::ops::RangeInclusive<i64> = 140..=145;
/// The number of hours before now at which an organization is suspended.
const SUSPENDED_HOURS_AGO: i64 = 122;

/// The usage pattern of a sample API key.
struct KeyProfile {
    /// The id of the API key.
    key: &'static str,
    /// The number of verifications in the busiest hour of a weekday.
    peak: f64,
    /// The load at night, as a share of the load in the busiest hour.
    at_night: f64,
    /// The load at weekends, as a share of the load on a weekday.
    at_weekends: f64,
    /// The number of denials per thousand verifications, for each outcome.
    failures: &'static [(Outcome, f64)],
}

#[rustfmt::skip]
const KEY_PROFILES: &[KeyProfile] = &[
    KeyProfile { key: "key_123", peak: 2600.0, at_night: 0.22, at_weekends: 0.45, failures: &[(InsufficientScope, 2.0), (RateLimited, 4.0)] },
    KeyProfile { key: "key_acme-mobile", peak: 1500.0, at_night: 0.12, at_weekends: 1.15, failures: &[(RateLimited, 9.0), (InsufficientScope, 1.0)] },
    KeyProfile { key: "key_acme-batch", peak: 700.0, at_night: 1.6, at_weekends: 0.8, failures: &[(QuotaExceeded, 6.0)] },
    KeyProfile { key: "key_kestrel", peak: 1900.0, at_night: 0.7, at_weekends: 0.9, failures: &[(RateLimited, 3.0)] },
    KeyProfile { key: "key_kestrel-ci", peak: 160.0, at_night: 0.05, at_weekends: 0.1, failures: &[(IpNotAllowed, 24.0)] },
    KeyProfile { key: "key_nordlicht", peak: 820.0, at_night: 0.95, at_weekends: 1.0, failures: &[(InsufficientScope, 1.5)] },
    KeyProfile { key: "key_nordlicht-old", peak: 240.0, at_night: 0.95, at_weekends: 1.0, failures: &[] },
    KeyProfile { key: "key_papaya", peak: 1100.0, at_night: 0.3, at_weekends: 1.3, failures: &[(RateLimited, 14.0)] },
    KeyProfile { key: "key_papaya-trial", peak: 60.0, at_night: 0.1, at_weekends: 0.2, failures: &[(InsufficientScope, 60.0)] },
    KeyProfile { key: "key_bluebird", peak: 430.0, at_night: 0.15, at_weekends: 1.2, failures: &[(InsufficientScope, 5.0)] },
    KeyProfile { key: "key_harbour", peak: 310.0, at_night: 0.4, at_weekends: 0.3, failures: &[(RateLimited, 3.0)] },
];

/// Generates the verifications and denials of these API keys, which are given as pairs of id and credential.
pub(crate) fn generate_verifications(
    keys: &[(String, Arc<Credential>)],
    begin: Timestamp,
    now: Timestamp,
) -> UsageBatch {
    let mut batch = UsageBatch::default();
    let mut random = fastrand::Rng::with_seed(123);
    let mut hour = Interval::Hour.ceil(begin);
    while hour < now {
        for profile in KEY_PROFILES {
            let entry = keys.iter().find(|(id, _)| id == profile.key);
            if let Some((_, credential)) = entry.filter(|(_, credential)| credential.key.created_at <= hour) {
                profile.add_hour(credential, hour, now, &mut random, &mut batch);
            }
        }
        if random.f64() < 0.12 {
            batch.denials.push(unknown_key_denial(hour, now, &mut random));
        }
        hour = hour + HOUR;
    }
    batch.denials.sort_by_key(|denial| denial.first_at);
    batch
}

impl KeyProfile {
    /// Generates the verifications and denials of one hour, and adds them to `batch`.
    fn add_hour(
        &self,
        credential: &Arc<Credential>,
        hour: Timestamp,
        now: Timestamp,
        random: &mut fastrand::Rng,
        batch: &mut UsageBatch,
    ) {
        let elapsed = (now.as_millis() - hour.as_millis()).min(HOUR_MILLIS);
        let noise = 0.85 + 0.3 * random.f64();
        #[allow(clippy::cast_precision_loss)]
        // `elapsed` is at most one hour, which `f64` represents exactly.
        let requests = self.peak * load_factor(self, hour) * noise * elapsed as f64 / HOUR_MILLIS as f64;
        let hours_ago = (now.as_millis() - hour.as_millis()) / HOUR_MILLIS;
        let is_retry_storm = self.key == "key_papaya" && INCIDENT_HOURS_AGO.contains(&hours_ago);
        let mut outcomes = [0; OUTCOME_COUNT];
        let mut add = |outcome: Outcome, count: f64| {
            // Rounds the count up with a probability equal to its fractional part, otherwise down.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = (count + random.f64()).floor() as u64;
            outcomes[outcome as usize - Revoked as usize] += count;
            if count > 0 && outcome != Valid {
                let at = random_time(hour, elapsed, random);
                batch.denials.push(key_denial(credential, outcome, count, at, random));
            }
        };
        // The outcome at the end of the hour applies to the whole hour, so that a key isn't used in the hour
        // in which the key is revoked.
        match outcome_at(credential, hour + HOUR, hours_ago) {
            Valid => {
                let mut valid_requests = requests;
                for (outcome, per_mille) in self.failures {
                    let share = if is_retry_storm { 600.0 } else { *per_mille } / 1000.0;
                    add(*outcome, requests * share);
                    valid_requests -= requests * share;
                }
                add(Valid, valid_requests * if is_retry_storm { 2.0 } else { 1.0 });
            }
            // The clients of a revoked or disabled key soon stop sending requests, so that few denials
            // remain.
            denial => add(denial, requests * 0.02),
        }
        let valid = outcomes[Valid as usize - Revoked as usize];
        let last_used = (valid > 0).then(|| random_time(hour, elapsed, random));
        let counts = UsageCounts::new(outcomes, valid);
        let organization = credential.organization.as_ref().map_or(0, |organization| organization.seq);
        batch.hourly_counts.push(HourlyKeyCounts {
            hour,
            key: credential.seq,
            organization: Subject::Organization(organization),
            counts,
            meters: Vec::new(),
            last_used,
        });
    }
}

/// The outcome of verifying an API key at the time `at`, derived from the key's final state.
fn outcome_at(credential: &Credential, at: Timestamp, hours_ago: i64) -> Outcome {
    let key = &credential.key;
    let is_suspended =
        credential.organization.as_ref().is_some_and(|organization| organization.status != Account::Active);
    match key.status {
        Status::Revoked if key.revoked_at.is_some_and(|end| end <= at) => Revoked,
        Status::Disabled if key.updated_at <= at => Disabled,
        _ if is_suspended && hours_ago <= SUSPENDED_HOURS_AGO => OrganizationSuspended,
        _ => Valid,
    }
}

/// The load of an hour as a share of the peak load. The load is highest in the early afternoon.
fn load_factor(profile: &KeyProfile, hour: Timestamp) -> f64 {
    #[allow(clippy::cast_precision_loss)] // The hour of the day is less than 24.
    let hour_of_day = (hour.as_millis() / HOUR_MILLIS % 24) as f64;
    let daytime = 0.5 - 0.5 * ((hour_of_day - 1.5) / 24.0 * TAU).cos();
    // Day 0 of Unix time was a Thursday, so weekends are the days with (day + 4) % 7 equal to 6 or 0.
    let is_weekend = (hour.as_millis() / (24 * HOUR_MILLIS) + 4) % 7 % 6 == 0;
    let week = if is_weekend { profile.at_weekends } else { 1.0 };
    week * (profile.at_night + (1.0 - profile.at_night) * daytime)
}

/// Returns a random time in the elapsed part of an hour. `elapsed` is in milliseconds.
fn random_time(hour: Timestamp, elapsed: i64, random: &mut fastrand::Rng) -> Timestamp {
    hour + Duration::from_millis(random.u64(0..elapsed.max(1).unsigned_abs()))
}

/// Returns a random IP address from a range reserved for documentation (RFC 5737).
fn random_address(random: &mut fastrand::Rng) -> IpAddr {
    IpAddr::from([198, 51, 100, random.u8(1..40)])
}

/// Creates a denial of a known API key.
fn key_denial(
    key: &Credential,
    code: Outcome,
    count: u64,
    at: Timestamp,
    random: &mut fastrand::Rng,
) -> Denial {
    Denial {
        aggregation_key: AggregationKey::Key(key.seq),
        code: Some(code),
        organization_id: key.key.organization_id.clone(),
        ip: Some(random_address(random)),
        count,
        first_at: at,
        last_at: at,
    }
}

/// Creates a denial of an unknown or malformed API key, as if a client guessed keys.
fn unknown_key_denial(hour: Timestamp, now: Timestamp, random: &mut fastrand::Rng) -> Denial {
    let elapsed = (now.as_millis() - hour.as_millis()).min(HOUR_MILLIS);
    let ip = random_address(random);
    let at = random_time(hour, elapsed, random);
    let code = if random.bool() { NotFound } else { Malformed };
    Denial {
        aggregation_key: AggregationKey::Address(None, Some(ip.into())),
        code: Some(code),
        organization_id: None,
        ip: Some(ip),
        count: random.u64(1..9),
        first_at: at,
        last_at: at,
    }
}
