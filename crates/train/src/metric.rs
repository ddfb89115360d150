//! What a model is judged by on held-out samples: one number, with its unit and which way is better.

use registry::{Named, Registry};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

/// What a number of held-out samples means.
#[derive(Debug, Clone, Copy)]
pub struct MetricKind {
    /// As JSON calls it.
    pub name: &'static str,
    /// As a person reads it, after the number.
    pub unit: &'static str,
    pub better: Better,
    /// What the sum of an objective's own figures is divided by before it is divided by the samples' weight.
    pub divisor: f64,
}

/// Which way a metric gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

impl Named for MetricKind {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Every kind; in JSON a metric is found by its name.
pub static METRICS: Registry<MetricKind> = Registry::new(&[BITS_PER_BYTE, LOSS]);

/// Of text: comparable between tokenizers, and with anything else that compresses text.
pub const BITS_PER_BYTE: MetricKind =
    MetricKind { name: "bits_per_byte", unit: "bits per byte", better: Better::Lower, divisor: std::f64::consts::LN_2 };

/// Of whatever has no better name: the mean over held-out samples of what training makes small.
pub const LOSS: MetricKind = MetricKind { name: "held_out_loss", unit: "loss per sample", better: Better::Lower, divisor: 1.0 };

impl MetricKind {
    /// The metric of samples whose figures sum to `sums` and whose weights sum to `weight`.
    #[must_use]
    pub fn of(&'static self, sums: &[f64], weight: u64) -> Metric {
        Metric { kind: self, value: sums.iter().sum::<f64>() / self.divisor / weight.max(1) as f64 }
    }
}

/// A kind of metric and its value. In JSON it is one key, such as `"bits_per_byte": 2.31`.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub kind: &'static MetricKind,
    pub value: f64,
}

impl Metric {
    #[must_use]
    pub fn bits_per_byte(value: f64) -> Self {
        Self { kind: &BITS_PER_BYTE, value }
    }

    /// Whether it is better than `other`, of the same kind.
    #[must_use]
    pub fn is_better_than(&self, other: &Self) -> bool {
        match self.kind.better {
            Better::Lower => self.value < other.value,
            Better::Higher => self.value > other.value,
        }
    }
}

impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.kind.name == other.kind.name && self.value == other.value
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.4} {}", self.value, self.kind.unit)
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.kind.name, &self.value)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> de::Visitor<'de> for Entries {
            type Value = Metric;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "one of the metrics `{}`", METRICS.names().join("`, `"))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Metric, A::Error> {
                let mut found = None;
                while let Some(name) = map.next_key::<String>()? {
                    match METRICS.find(&name) {
                        Some(kind) => found = map.next_value::<Option<f64>>()?.map(|value| Metric { kind, value }),
                        None => drop(map.next_value::<de::IgnoredAny>()?),
                    }
                }
                found.ok_or_else(|| de::Error::custom("no metric"))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Line {
        step: u64,
        #[serde(flatten)]
        held_out: Option<Metric>,
    }

    #[test]
    fn a_metric_is_one_key_of_what_holds_it() {
        let line = Line { step: 3, held_out: Some(Metric::bits_per_byte(0.1 + 0.2)) };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(text, r#"{"step":3,"bits_per_byte":0.30000000000000004}"#);
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        for without in [r#"{"step":3}"#, r#"{"step":3,"bits_per_byte":null}"#, r#"{"step":3,"unheard_of":1.0}"#] {
            assert_eq!(serde_json::from_str::<Line>(without).unwrap(), Line { step: 3, held_out: None }, "{without}");
        }
    }
}
