//! How often the sample's keys were verified: by day and night, on weekdays and at weekends, with a bad
//! afternoon. The same keys and the same times give the same numbers.

use std::f64::consts::TAU;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::api_key::{Credential, Status};
use crate::domain::organization::Status as Account;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Counts, Interval, OUTCOMES};
use crate::domain::verification::Outcome;
use crate::domain::verification::Outcome::{
    Disabled, InsufficientScope, IpNotAllowed, Malformed, NotFound, OrganizationSuspended, QuotaExceeded,
    RateLimited, Revoked, Valid,
};
use crate::verify::denials::{AggregationKey, Denial};
use crate::verify::recorder::{Batch, KeyHour};

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_MILLIS: i64 = Interval::Hour.millis();
/// In hours before now: when somebody's retries ran wild.
const INCIDENT: std::ops::RangeInclusive<i64> = 140..=145;
/// In hours before now: when a suspended organization was.
const SUSPENDED: i64 = 122;

/// What a key is used for.
struct Habit {
    key: &'static str,
    /// Verifications in the busiest hour of a weekday.
    peak: f64,
    /// How much of that is left at night and at weekends.
    at_night: f64,
    at_weekends: f64,
    /// What goes wrong, of a thousand.
    faults: &'static [(Outcome, f64)],
}

#[rustfmt::skip]
const HABITS: &[Habit] = &[
    Habit { key: "key_123", peak: 2600.0, at_night: 0.22, at_weekends: 0.45, faults: &[(InsufficientScope, 2.0), (RateLimited, 4.0)] },
    Habit { key: "key_acme-mobile", peak: 1500.0, at_night: 0.12, at_weekends: 1.15, faults: &[(RateLimited, 9.0), (InsufficientScope, 1.0)] },
    Habit { key: "key_acme-batch", peak: 700.0, at_night: 1.6, at_weekends: 0.8, faults: &[(QuotaExceeded, 6.0)] },
    Habit { key: "key_kestrel", peak: 1900.0, at_night: 0.7, at_weekends: 0.9, faults: &[(RateLimited, 3.0)] },
    Habit { key: "key_kestrel-ci", peak: 160.0, at_night: 0.05, at_weekends: 0.1, faults: &[(IpNotAllowed, 24.0)] },
    Habit { key: "key_nordlicht", peak: 820.0, at_night: 0.95, at_weekends: 1.0, faults: &[(InsufficientScope, 1.5)] },
    Habit { key: "key_nordlicht-old", peak: 240.0, at_night: 0.95, at_weekends: 1.0, faults: &[] },
    Habit { key: "key_papaya", peak: 1100.0, at_night: 0.3, at_weekends: 1.3, faults: &[(RateLimited, 14.0)] },
    Habit { key: "key_papaya-trial", peak: 60.0, at_night: 0.1, at_weekends: 0.2, faults: &[(InsufficientScope, 60.0)] },
    Habit { key: "key_bluebird", peak: 430.0, at_night: 0.15, at_weekends: 1.2, faults: &[(InsufficientScope, 5.0)] },
    Habit { key: "key_harbour", peak: 310.0, at_night: 0.4, at_weekends: 0.3, faults: &[(RateLimited, 3.0)] },
];

/// What there was of these keys, by their ids.
pub(crate) fn between(keys: &[(String, Arc<Credential>)], begin: Timestamp, now: Timestamp) -> Batch {
    let mut batch = Batch::default();
    let mut random = fastrand::Rng::with_seed(123);
    let mut hour = Interval::Hour.ceil(begin);
    while hour < now {
        for habit in HABITS {
            let found = keys.iter().find(|(id, _)| id == habit.key);
            if let Some((_, credential)) = found.filter(|(_, one)| one.key.created_at <= hour) {
                habit.hour(credential, hour, now, &mut random, &mut batch);
            }
        }
        if random.f64() < 0.12 {
            batch.denials.push(stranger(hour, now, &mut random));
        }
        hour = hour + HOUR;
    }
    batch.denials.sort_by_key(|denial| denial.first_at);
    batch
}

impl Habit {
    fn hour(
        &self,
        credential: &Arc<Credential>,
        hour: Timestamp,
        now: Timestamp,
        random: &mut fastrand::Rng,
        batch: &mut Batch,
    ) {
        let since = (now.as_millis() - hour.as_millis()).min(HOUR_MILLIS);
        let noise = 0.85 + 0.3 * random.f64();
        #[allow(clippy::cast_precision_loss)] // At most an hour.
        let requests = self.peak * rhythm(self, hour) * noise * since as f64 / HOUR_MILLIS as f64;
        let hours_ago = (now.as_millis() - hour.as_millis()) / HOUR_MILLIS;
        let is_wild = self.key == "key_papaya" && INCIDENT.contains(&hours_ago);
        let mut outcomes = [0; OUTCOMES];
        let mut add = |outcome: Outcome, count: f64| {
            // A fraction of one is one, that often.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = (count + random.f64()).floor() as u64;
            outcomes[outcome as usize - Revoked as usize] += count;
            if count > 0 && outcome != Valid {
                let at = within(hour, since, random);
                batch.denials.push(denial(credential, outcome, count, at, random));
            }
        };
        // As it stands at the end: in the hour in which a key ends nobody uses it.
        match standing(credential, hour + HOUR, hours_ago) {
            Valid => {
                let mut good = requests;
                for (outcome, of_thousand) in self.faults {
                    let share = if is_wild { 600.0 } else { *of_thousand } / 1000.0;
                    add(*outcome, requests * share);
                    good -= requests * share;
                }
                add(Valid, good * if is_wild { 2.0 } else { 1.0 });
            }
            // Whoever used it notices soon.
            fault => add(fault, requests * 0.02),
        }
        let valid = outcomes[Valid as usize - Revoked as usize];
        let last_used = (valid > 0).then(|| within(hour, since, random));
        let counts = Counts::new(outcomes, valid);
        batch.key_hours.push(KeyHour { hour, credential: credential.clone(), counts, last_used });
    }
}

/// How the key stood then: what became of it is known.
fn standing(credential: &Credential, at: Timestamp, hours_ago: i64) -> Outcome {
    let key = &credential.key;
    let is_suspended = credential.organization.as_ref().is_some_and(|one| one.status != Account::Active);
    match key.status {
        Status::Revoked if key.revoked_at.is_some_and(|end| end <= at) => Revoked,
        Status::Disabled if key.updated_at <= at => Disabled,
        _ if is_suspended && hours_ago <= SUSPENDED => OrganizationSuspended,
        _ => Valid,
    }
}

/// Which share of the busiest hour this one is: highest in the early afternoon.
fn rhythm(habit: &Habit, hour: Timestamp) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Hours since 1970.
    let of_day = (hour.as_millis() / HOUR_MILLIS % 24) as f64;
    let light = 0.5 - 0.5 * ((of_day - 1.5) / 24.0 * TAU).cos();
    // 1970 began on a Thursday.
    let is_weekend = (hour.as_millis() / (24 * HOUR_MILLIS) + 4) % 7 % 6 == 0;
    let week = if is_weekend { habit.at_weekends } else { 1.0 };
    week * (habit.at_night + (1.0 - habit.at_night) * light)
}

/// Some moment of the hour, as far as it has come.
fn within(hour: Timestamp, since: i64, random: &mut fastrand::Rng) -> Timestamp {
    hour + Duration::from_millis(random.u64(0..since.max(1).unsigned_abs()))
}

/// Addresses for documentation (RFC 5737).
fn address(random: &mut fastrand::Rng) -> IpAddr {
    IpAddr::from([198, 51, 100, random.u8(1..40)])
}

fn denial(key: &Credential, code: Outcome, count: u64, at: Timestamp, random: &mut fastrand::Rng) -> Denial {
    Denial {
        aggregation_key: AggregationKey::Key(key.seq),
        code: Some(code),
        organization_id: key.key.organization_id.clone(),
        ip: Some(address(random)),
        count,
        first_at: at,
        last_at: at,
    }
}

/// Somebody who guesses.
fn stranger(hour: Timestamp, now: Timestamp, random: &mut fastrand::Rng) -> Denial {
    let since = (now.as_millis() - hour.as_millis()).min(HOUR_MILLIS);
    let ip = address(random);
    let (at, code) = (within(hour, since, random), if random.bool() { NotFound } else { Malformed });
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
