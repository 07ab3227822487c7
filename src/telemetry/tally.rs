//! Counters and histograms for `/metrics`. An update takes a few nanoseconds: it uses no lock and no
//! allocation, and each thread updates its own shard, so that cores don't contend for cache lines. A scrape
//! sums the shards.

use std::array;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The number of the next shard to assign. A thread gets its shard when it first updates a counter.
static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of this thread's shard.
    static THREAD_SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed);
}

/// A value split into shards, one for each thread; threads share shards if there are more threads than
/// shards.
pub(crate) struct Sharded<T>(Box<[CachePadded<T>]>);

/// A value aligned to 128 bytes, so that it shares no cache line with another value: cache lines have 64
/// bytes, and processors fetch them in pairs.
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

impl<T> Sharded<T> {
    /// Creates the shards; `init` creates the value of each shard.
    pub(crate) fn new(mut init: impl FnMut() -> T) -> Self {
        // Four shards per core, because there are more threads than cores: the threads of the control plane
        // may be assigned shards before the worker threads are.
        let count = (thread::available_parallelism().map_or(1, NonZero::get) * 4).next_power_of_two();
        Self((0..count).map(|_| CachePadded(init())).collect())
    }

    /// The shard of the calling thread.
    pub(crate) fn local(&self) -> &T {
        &self.0[THREAD_SHARD.with(|index| *index) & (self.0.len() - 1)].0
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }
}

/// `N` sharded counters, addressed by index.
pub(crate) struct Counts<const N: usize>(Sharded<[AtomicU64; N]>);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(Sharded::new(|| array::from_fn(|_| AtomicU64::new(0))))
    }
}

impl<const N: usize> Counts<N> {
    /// Increments the counter at this index; an index of `N` or more is ignored.
    pub(crate) fn add(&self, index: usize) {
        if let Some(counter) = self.0.local().get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The values of the counters, summed over all shards.
    pub(crate) fn sums(&self) -> [u64; N] {
        array::from_fn(|index| self.0.shards().map(|shard| shard[index].load(Ordering::Relaxed)).sum())
    }
}

/// A histogram: counts observed values in buckets.
pub(crate) struct Histogram {
    /// The largest value of each bucket except the last, which is unbounded.
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

    /// Adds one value to the histogram.
    pub(crate) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds a duration to the histogram, in nanoseconds.
    pub(crate) fn observe_time(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Takes a snapshot of the histogram.
    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        Self::merge([self])
    }

    /// Takes a snapshot of the sum of several histograms, which must have the same bounds.
    fn merge<'a>(histograms: impl IntoIterator<Item = &'a Self>) -> HistogramSnapshot {
        let mut observed = HistogramSnapshot { bounds: &[], buckets: Vec::new(), sum: 0 };
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
pub(crate) struct HistogramSnapshot {
    /// The largest value of each bucket except the last, which is unbounded.
    pub(crate) bounds: &'static [u64],
    /// The number of values in each bucket, excluding the values of lower buckets.
    pub(crate) buckets: Vec<u64>,
    /// The sum of all observed values.
    pub(crate) sum: u64,
}

/// The largest number of HTTP routes whose responses are counted separately.
pub(crate) const MAX_ROUTES: usize = 128;

/// The HTTP statuses that are counted separately, in ascending order; any other status is counted as 0.
pub(crate) const COUNTED_STATUSES: [u16; 25] = [
    0, 200, 201, 202, 204, 304, 308, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 424, 428, 429, 431,
    500, 501, 503, 507,
];

/// The number of data-plane endpoints whose response times are measured.
pub(crate) const ENDPOINT_COUNT: usize = 5;

/// The bucket bounds for response times in nanoseconds, from 10 µs to 1 s: most responses are computed from
/// memory, but some wait for the disk.
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
pub(crate) struct HttpMetrics {
    responses: Counts<{ MAX_ROUTES * COUNTED_STATUSES.len() }>,
    times: Sharded<[Histogram; ENDPOINT_COUNT]>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let times = Sharded::new(|| array::from_fn(|_| Histogram::new(RESPONSE_TIME_BOUNDS)));
        Self { responses: Counts::default(), times }
    }
}

impl HttpMetrics {
    /// Counts a response with this status; `route` is the index of the request's route in the route table.
    pub(crate) fn count_response(&self, route: usize, status: u16) {
        self.responses
            .add(route * COUNTED_STATUSES.len() + COUNTED_STATUSES.binary_search(&status).unwrap_or(0));
    }

    /// The response counts that are not zero, as tuples of route index, status and count.
    pub(crate) fn response_counts(&self) -> impl Iterator<Item = (usize, u16, u64)> {
        let sums = self.responses.sums().into_iter().enumerate().filter(|(_, sum)| *sum > 0);
        sums.map(|(index, sum)| {
            (index / COUNTED_STATUSES.len(), COUNTED_STATUSES[index % COUNTED_STATUSES.len()], sum)
        })
    }

    /// Adds the response time of a data-plane request; `endpoint` is the index of the request's endpoint.
    pub(crate) fn observe_response_time(&self, endpoint: usize, time: Duration) {
        if let Some(histogram) = self.times.local().get(endpoint) {
            histogram.observe_time(time);
        }
    }

    /// Takes snapshots of the response times of the data plane, one for each endpoint.
    pub(crate) fn response_times(&self) -> [HistogramSnapshot; ENDPOINT_COUNT] {
        array::from_fn(|endpoint| Histogram::merge(self.times.shards().map(|shard| &shard[endpoint])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_updated_by_many_threads_add_up_exactly() {
        let counts = Counts::<2>::default();
        let traffic = HttpMetrics::default();
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        counts.add(1);
                        counts.add(2);
                        traffic.count_response(MAX_ROUTES - 1, 507);
                        traffic.count_response(0, 418);
                        traffic.observe_response_time(2, Duration::from_micros(25));
                    }
                });
            }
        });
        assert_eq!(counts.sums(), [0, 5000]);
        let answers: Vec<_> = traffic.response_counts().collect();
        assert_eq!(answers, [(0, 0, 5000), (MAX_ROUTES - 1, 507, 5000)]);
        let times = traffic.response_times();
        assert_eq!((times[2].buckets[1], times[2].sum), (5000, 5000 * 25_000));
        assert_eq!(times[0].buckets, vec![0; RESPONSE_TIME_BOUNDS.len() + 1]);
    }

    #[test]
    fn a_histogram_bucket_includes_its_upper_bound() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, u64::from(u32::MAX)].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.snapshot().buckets, [2, 2, 2]);
    }

    #[test]
    fn statuses_are_sorted_for_binary_search() {
        assert!(COUNTED_STATUSES.is_sorted());
    }
}
