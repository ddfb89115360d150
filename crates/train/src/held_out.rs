//! A metric over samples that are never learnt from, with the noise of the samples.

use serde::{Deserialize, Serialize};

use crate::metric::{Metric, MetricKind};

/// What one held-out sample adds to a metric: its loss, in the metric's unit, over its whole weight (of text: bits, and the bytes that
/// its targets stand for).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SampleLoss {
    #[serde(alias = "bits")]
    pub loss: f64,
    #[serde(alias = "bytes")]
    pub weight: u64,
}

/// A metric of held-out samples, and what it is the mean of.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    pub metric: Metric,
    pub samples: Vec<SampleLoss>,
}

impl HeldOut {
    /// Of samples that are measured.
    #[must_use]
    pub fn of(kind: &'static MetricKind, samples: Vec<SampleLoss>) -> Self {
        let weight: u64 = samples.iter().map(|sample| sample.weight).sum();
        let value = samples.iter().map(|sample| sample.loss).sum::<f64>() / weight.max(1) as f64;
        Self { metric: Metric { kind, value }, samples }
    }

    /// Standard error of the metric, from how samples differ: that of a ratio of two sums (Cochran, *Sampling Techniques*, 1977,
    /// section 2.11). None of fewer than two samples.
    #[must_use]
    pub fn standard_error(&self) -> Option<f64> {
        standard_error(&self.samples)
    }

    /// By how much this metric lies above that of `other`, and the standard error of that: over the same samples what is hard for
    /// both is no noise.
    #[must_use]
    pub fn above(&self, other: &Self) -> (f64, Option<f64>) {
        let is_paired =
            self.samples.len() == other.samples.len() && self.samples.iter().zip(&other.samples).all(|(a, b)| a.weight == b.weight);
        let error = if is_paired {
            let both = self.samples.iter().zip(&other.samples);
            standard_error(&both.map(|(a, b)| SampleLoss { loss: a.loss - b.loss, weight: a.weight }).collect::<Vec<_>>())
        } else {
            self.standard_error().zip(other.standard_error()).map(|(a, b)| a.hypot(b))
        };
        (self.metric.value - other.metric.value, error)
    }
}

fn standard_error(samples: &[SampleLoss]) -> Option<f64> {
    let (n, weight) = (samples.len() as f64, samples.iter().map(|sample| sample.weight).sum::<u64>() as f64);
    if n < 2.0 || weight == 0.0 {
        return None;
    }
    let mean = samples.iter().map(|sample| sample.loss).sum::<f64>() / weight;
    let squares: f64 = samples.iter().map(|sample| (sample.loss - mean * sample.weight as f64).powi(2)).sum();
    Some((n / (n - 1.0) * squares).sqrt() / weight)
}
