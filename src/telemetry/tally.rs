//! What is counted for `/metrics`. The hot path pays some nanoseconds for it: no lock, no allocation, and no
//! cache line that another core writes as well. Whoever scrapes adds it up.

use std::array;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Threads take their places in the order in which they first count something.
static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed);
}

/// One of a kind for each of the threads that count; threads beyond that many share.
pub(crate) struct Sharded<T>(Box<[CachePadded<T>]>);

/// As far from its neighbours as processors fetch at once.
#[repr(align(128))]
struct CachePadded<T>(T);

impl<T> Sharded<T> {
    /// Makes them.
    pub(crate) fn new(mut make: impl FnMut() -> T) -> Self {
        // There are more threads than cores: those of the control plane may have come before the workers.
        let count = (thread::available_parallelism().map_or(1, NonZero::get) * 4).next_power_of_two();
        Self((0..count).map(|_| CachePadded(make())).collect())
    }

    /// This thread's own.
    pub(crate) fn own(&self) -> &T {
        &self.0[SHARD.with(|index| *index) & (self.0.len() - 1)].0
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }
}

/// Counters by their place.
pub(crate) struct Counts<const N: usize>(Sharded<[AtomicU64; N]>);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(Sharded::new(|| array::from_fn(|_| AtomicU64::new(0))))
    }
}

impl<const N: usize> Counts<N> {
    /// Counts one more at a place; there is none beyond `N`.
    pub(crate) fn add(&self, index: usize) {
        if let Some(counter) = self.0.own().get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted.
    pub(crate) fn sums(&self) -> [u64; N] {
        array::from_fn(|index| self.0.all().map(|own| own[index].load(Ordering::Relaxed)).sum())
    }
}

/// How often something had what size.
pub(crate) struct Histogram {
    /// The largest size in each bucket but the last, which has none.
    bounds: &'static [u64],
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// With buckets up to these sizes.
    pub(crate) fn new(bounds: &'static [u64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// Counts one of this size.
    pub(crate) fn observe(&self, size: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < size);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(size, Ordering::Relaxed);
    }

    /// Counts one that took so long, in nanoseconds.
    pub(crate) fn observe_time(&self, took: Duration) {
        self.observe(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was observed.
    pub(crate) fn observed(&self) -> Observed {
        Self::together([self])
    }

    fn together<'a>(all: impl IntoIterator<Item = &'a Self>) -> Observed {
        let mut observed = Observed { bounds: &[], buckets: Vec::new(), sum: 0 };
        for one in all {
            observed.bounds = one.bounds;
            observed.buckets.resize(one.buckets.len(), 0);
            let buckets = one.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
            observed.buckets.iter_mut().zip(buckets).for_each(|(sum, bucket)| *sum += bucket);
            observed.sum = observed.sum.wrapping_add(one.sum.load(Ordering::Relaxed));
        }
        observed
    }
}

/// What a histogram holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The largest size in each bucket but the last.
    pub(crate) bounds: &'static [u64],
    /// How many were in each; not summed up.
    pub(crate) buckets: Vec<u64>,
    /// All sizes together.
    pub(crate) sum: u64,
}

/// Routes that are told apart at most.
pub(crate) const MAX_ROUTES: usize = 128;

/// The statuses that are told apart; any other is the first.
pub(crate) const STATUSES: [u16; 25] = [
    0, 200, 201, 202, 204, 304, 308, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 424, 428, 429, 431,
    500, 501, 503, 507,
];

/// The forms in which the data plane is asked.
pub(crate) const FORMS: usize = 3;

/// 10 µs to 1 s, in nanoseconds: most answers come from memory, some wait for the disk.
const ANSWER_TIMES: &[u64] = &[
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
];

/// What was asked over HTTP, and answered.
pub(crate) struct Traffic {
    answers: Counts<{ MAX_ROUTES * STATUSES.len() }>,
    times: Sharded<[Histogram; FORMS]>,
}

impl Default for Traffic {
    fn default() -> Self {
        let times = Sharded::new(|| array::from_fn(|_| Histogram::new(ANSWER_TIMES)));
        Self { answers: Counts::default(), times }
    }
}

impl Traffic {
    /// Counts an answer of a route, by its place in the table.
    pub(crate) fn answered(&self, route: usize, status: u16) {
        self.answers.add(route * STATUSES.len() + STATUSES.binary_search(&status).unwrap_or(0));
    }

    /// The answers by route and status, where there were any.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (usize, u16, u64)> {
        let sums = self.answers.sums().into_iter().enumerate().filter(|(_, sum)| *sum > 0);
        sums.map(|(index, sum)| (index / STATUSES.len(), STATUSES[index % STATUSES.len()], sum))
    }

    /// Counts how long an answer of the data plane took, by the form of the question.
    pub(crate) fn took(&self, form: usize, time: Duration) {
        if let Some(times) = self.times.own().get(form) {
            times.observe_time(time);
        }
    }

    /// How long answers of the data plane took, by the form of the question.
    pub(crate) fn times(&self) -> [Observed; FORMS] {
        array::from_fn(|form| Histogram::together(self.times.all().map(|own| &own[form])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_count_is_counted_once() {
        let (counts, traffic) = (Counts::<2>::default(), Traffic::default());
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        counts.add(1);
                        counts.add(2);
                        traffic.answered(MAX_ROUTES - 1, 507);
                        traffic.answered(0, 418);
                        traffic.took(2, Duration::from_micros(25));
                    }
                });
            }
        });
        assert_eq!(counts.sums(), [0, 5000]);
        let answers: Vec<_> = traffic.answers().collect();
        assert_eq!(answers, [(0, 0, 5000), (MAX_ROUTES - 1, 507, 5000)]);
        let times = traffic.times();
        assert_eq!((times[2].buckets[1], times[2].sum), (5000, 5000 * 25_000));
        assert_eq!(times[0].buckets, vec![0; ANSWER_TIMES.len() + 1]);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, u64::from(u32::MAX)].into_iter().for_each(|size| histogram.observe(size));
        assert_eq!(histogram.observed().buckets, [2, 2, 2]);
    }

    #[test]
    fn statuses_are_found_by_halves() {
        assert!(STATUSES.is_sorted());
    }
}
