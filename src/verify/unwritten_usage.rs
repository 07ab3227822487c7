//! Counts of verifications that are not written to the database yet.

use crate::domain::meter::Meter;
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::usage::UsageCounts;

/// The counts of one key in one hour, since the last batch was taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HourlyKeyCounts {
    /// Start of the hour.
    pub(crate) hour: Timestamp,
    /// The key's `seq`.
    pub(crate) key: i64,
    /// The key's organization.
    pub(crate) organization: Subject,
    /// Number of verifications by outcome, and the sum of their costs in requests.
    pub(crate) counts: UsageCounts,
    /// Sums of the costs on other meters.
    pub(crate) meters: Vec<(Meter, u64)>,
    /// Time of the last verification with a valid outcome.
    pub(crate) last_used: Option<Timestamp>,
}

impl HourlyKeyCounts {
    pub(super) fn merge(&mut self, other: Self) {
        self.counts.merge(&other.counts);
        for (meter, units) in other.meters {
            add_units(&mut self.meters, meter, units);
        }
        self.last_used = self.last_used.max(other.last_used);
    }
}

/// Adds units of a meter to sums by meter.
pub(crate) fn add_units(sums: &mut Vec<(Meter, u64)>, meter: Meter, units: u64) {
    match sums.iter_mut().find(|(summed, _)| *summed == meter) {
        Some((_, sum)) => *sum += units,
        None => sums.push((meter, units)),
    }
}

/// The verifications of a key that are not in a batch yet, all of one hour.
#[derive(Debug)]
pub(super) struct UnwrittenUsage {
    pub(super) hour: Timestamp,
    pub(super) counts: UsageCounts,
    pub(super) meters: Vec<(Meter, u64)>,
    pub(super) last_used: Option<Timestamp>,
    /// True if the state is on a list of the recorder.
    pub(super) is_listed: bool,
}

impl Default for UnwrittenUsage {
    fn default() -> Self {
        Self {
            hour: Timestamp::from_millis(0),
            counts: UsageCounts::default(),
            meters: Vec::new(),
            last_used: None,
            is_listed: false,
        }
    }
}

impl UnwrittenUsage {
    /// True if there is nothing to write.
    pub(super) fn is_written(&self) -> bool {
        !self.is_listed
    }

    /// Takes the counts of the key `subject`; `None` if there are none.
    pub(super) fn take(&mut self, subject: Subject, organization: Subject) -> Option<HourlyKeyCounts> {
        let Subject::Key(key) = subject else { return None };
        let taken = HourlyKeyCounts {
            hour: self.hour,
            key,
            organization,
            counts: std::mem::take(&mut self.counts),
            meters: std::mem::take(&mut self.meters),
            last_used: self.last_used.take(),
        };
        (taken.counts != UsageCounts::default()).then_some(taken)
    }
}
