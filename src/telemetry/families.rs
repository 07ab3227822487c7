//! Metric families in the Prometheus text format.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::tally::HistogramSnapshot;
use crate::error::{Error, Result};

/// The media type of the text that [`Families::write`] returns.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The labels of a sample, as names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Metric families with their samples. A family without samples is omitted.
#[derive(Default)]
pub(crate) struct MetricFamilies(Vec<MetricFamily>);

impl MetricFamilies {
    /// Adds a metric family of type counter.
    pub(crate) fn add_counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add_family(name, help, MetricType::COUNTER, samples, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        });
    }

    /// Adds a metric family of type gauge.
    pub(crate) fn add_gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add_family(name, help, MetricType::GAUGE, samples, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    /// Adds a metric family of type histogram. Observed values are multiplied by `unit` to convert them to
    /// the unit in the metric's name.
    pub(crate) fn add_histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: f64,
        samples: impl IntoIterator<Item = (Labels, HistogramSnapshot)>,
    ) {
        self.add_family(name, help, MetricType::HISTOGRAM, samples, |metric, observed| {
            let mut count = 0;
            let buckets = observed.bounds.iter().zip(&observed.buckets).map(|(bound, bucket_count)| {
                count += bucket_count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(integer_to_float(*bound) * unit);
                bucket.set_cumulative_count(count);
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(observed.buckets.iter().sum());
            histogram.set_sample_sum(integer_to_float(observed.sum) * unit);
            metric.set_histogram(histogram);
        });
    }

    fn add_family<T>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, T)>,
        mut set: impl FnMut(&mut Metric, T),
    ) {
        let metrics = samples.into_iter().map(|(labels, value)| {
            let labels = labels.into_iter().map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.to_owned());
                pair.set_value(value);
                pair
            });
            let mut metric = Metric::from_label(labels.collect());
            set(&mut metric, value);
            metric
        });
        let metrics: Vec<_> = metrics.collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    /// Encodes all metric families in the Prometheus text format.
    ///
    /// # Errors
    /// `INTERNAL` when the Prometheus encoder rejects a metric family.
    pub(crate) fn encode_as_text(self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.0).map_err(Error::internal)
    }
}

/// Returns the only sample of a metric that has no labels.
pub(crate) fn unlabeled_sample<T>(value: T) -> [(Labels, T); 1] {
    [(Labels::new(), value)]
}

/// Converts an integer to `f64`, the only number type of Prometheus. Integers above 2⁵³ lose precision.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn integer_to_float(number: u64) -> f64 {
    number as f64
}
