//! Metrics as Prometheus reads them.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::tally::Observed;
use crate::error::{Error, Result};

/// The media type of what [`Families::write`] gives.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Names and values that tell the samples of a metric apart.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Metrics, each with its samples. One without samples is left out.
#[derive(Default)]
pub(crate) struct Families(Vec<MetricFamily>);

impl Families {
    /// What only grows, by its labels.
    pub(crate) fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(name, help, MetricType::COUNTER, samples, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        });
    }

    /// What goes up and down, by its labels.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, f64)>) {
        self.add(name, help, MetricType::GAUGE, samples, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    /// Sizes, by their labels; `unit` is what a size of 1 comes to in the unit of the name.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: f64,
        samples: impl IntoIterator<Item = (Labels, Observed)>,
    ) {
        self.add(name, help, MetricType::HISTOGRAM, samples, |metric, observed| {
            let mut count = 0;
            let buckets = observed.bounds.iter().zip(&observed.buckets).map(|(bound, more)| {
                count += more;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(float(*bound) * unit);
                bucket.set_cumulative_count(count);
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(observed.buckets.iter().sum());
            histogram.set_sample_sum(float(observed.sum) * unit);
            metric.set_histogram(histogram);
        });
    }

    fn add<T>(
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

    /// The text of all of them.
    ///
    /// # Errors
    /// When something isn't written as Prometheus wants it.
    pub(crate) fn write(self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.0).map_err(Error::internal)
    }
}

/// A metric's only sample.
pub(crate) fn one<T>(value: T) -> [(Labels, T); 1] {
    [(Labels::new(), value)]
}

/// Prometheus knows no other numbers. Beyond 2⁵³ the last digits are lost.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}
