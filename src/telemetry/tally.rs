//! Counters and histograms for `/metrics`. The hot path pays a few nanoseconds for them: no lock, no
//! allocation, and no cache line that another core writes as well. A scrape adds up the shards.

use std::array;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Threads are assigned shards in the order in which they first count something.
static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed);
}

/// One value for each thread that counts; with more threads than shards, threads share.
pub(crate) struct Sharded<T>(Box<[CachePadded<T>]>);

/// A value on cache lines of its own: 128 bytes, because processors fetch lines in pairs.
#[repr(align(128))]
struct CachePadded<T>(T);

impl<T> Sharded<T> {
    /// Creates the shards with `init`.
    pub(crate) fn new(mut init: impl FnMut() -> T) -> Self {
        // Four shards per core, because there are more threads than cores: those of the control plane may
        // have been assigned shards before the workers.
        let count = (thread::available_parallelism().map_or(1, NonZero::get) * 4).next_power_of_two();
        Self((0..count).map(|_| CachePadded(init())).collect())
    }

    /// This thread's shard.
    pub(crate) fn local(&self) -> &T {
        &self.0[SHARD.with(|index| *index) & (self.0.len() - 1)].0
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }
}

/// `N` counters, addressed by index.
pub(crate) struct Counts<const N: usize>(Sharded<[AtomicU64; N]>);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(Sharded::new(|| array::from_fn(|_| AtomicU64::new(0))))
    }
}

impl<const N: usize> Counts<N> {
    /// Increments a counter; an index of `N` or more is ignored.
    pub(crate) fn add(&self, index: usize) {
        if let Some(counter) = self.0.local().get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counters, summed over all shards.
    pub(crate) fn sums(&self) -> [u64; N] {
        array::from_fn(|index| self.0.all().map(|shard| shard[index].load(Ordering::Relaxed)).sum())
    }
}

/// The distribution of observed values, counted in buckets.
pub(crate) struct Histogram {
    /// The largest value of each bucket; the last bucket is unbounded and has none.
    bounds: &'static [u64],
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Creates a histogram with these bucket bounds, in ascending order.
    pub(crate) fn new(bounds: &'static [u64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// Counts one value.
    pub(crate) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration, in nanoseconds.
    pub(crate) fn observe_time(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A snapshot of the histogram.
    pub(crate) fn observed(&self) -> Observed {
        Self::merge([self])
    }

    /// A snapshot of several histograms with the same bounds, added up.
    fn merge<'a>(histograms: impl IntoIterator<Item = &'a Self>) -> Observed {
        let mut observed = Observed { bounds: &[], buckets: Vec::new(), sum: 0 };
        for histogram in histograms {
            observed.bounds = histogram.bounds;
            observed.buckets.resize(histogram.buckets.len(), 0);
            let buckets = histogram.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
            observed.buckets.iter_mut().zip(buckets).for_each(|(sum, bucket)| *sum += bucket);
            observed.sum = observed.sum.wrapping_add(histogram.sum.load(Ordering::Relaxed));
        }
        observed
    }
}

/// A snapshot of a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The largest value of each bucket but the last.
    pub(crate) bounds: &'static [u64],
    /// The number of values in each bucket, not cumulative.
    pub(crate) buckets: Vec<u64>,
    /// The sum of all values.
    pub(crate) sum: u64,
}

/// The largest number of routes that are counted separately.
pub(crate) const MAX_ROUTES: usize = 128;

/// The statuses that are counted separately; any other status counts as the first.
pub(crate) const STATUSES: [u16; 25] = [
    0, 200, 201, 202, 204, 304, 308, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 424, 428, 429, 431,
    500, 501, 503, 507,
];

/// The number of request forms of the data plane.
pub(crate) const FORMS: usize = 3;

/// The bounds of response times, 10 µs to 1 s, in nanoseconds: most responses come from memory, some wait for
/// the disk.
const RESPONSE_TIME_BOUNDS: &[u64] = &[
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

/// The counters of HTTP requests and responses.
pub(crate) struct Traffic {
    answers: Counts<{ MAX_ROUTES * STATUSES.len() }>,
    times: Sharded<[Histogram; FORMS]>,
}

impl Default for Traffic {
    fn default() -> Self {
        let times = Sharded::new(|| array::from_fn(|_| Histogram::new(RESPONSE_TIME_BOUNDS)));
        Self { answers: Counts::default(), times }
    }
}

impl Traffic {
    /// Counts a response of a route, given by its index in the route table.
    pub(crate) fn answered(&self, route: usize, status: u16) {
        self.answers.add(route * STATUSES.len() + STATUSES.binary_search(&status).unwrap_or(0));
    }

    /// The nonzero response counts, as route index, status and count.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (usize, u16, u64)> {
        let sums = self.answers.sums().into_iter().enumerate().filter(|(_, sum)| *sum > 0);
        sums.map(|(index, sum)| (index / STATUSES.len(), STATUSES[index % STATUSES.len()], sum))
    }

    /// Counts the response time of a data-plane request, by the form of the request.
    pub(crate) fn took(&self, form: usize, time: Duration) {
        if let Some(histogram) = self.times.local().get(form) {
            histogram.observe_time(time);
        }
    }

    /// The response times of the data plane, by the form of the request.
    pub(crate) fn times(&self) -> [Observed; FORMS] {
        array::from_fn(|form| Histogram::merge(self.times.all().map(|shard| &shard[form])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_many_threads_add_up_exactly() {
        let counts = Counts::<2>::default();
        let traffic = Traffic::default();
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
        assert_eq!(times[0].buckets, vec![0; RESPONSE_TIME_BOUNDS.len() + 1]);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, u64::from(u32::MAX)].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.observed().buckets, [2, 2, 2]);
    }

    #[test]
    fn statuses_are_sorted_for_binary_search() {
        assert!(STATUSES.is_sorted());
    }
}
