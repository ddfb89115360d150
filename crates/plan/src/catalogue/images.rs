//! Rows of images.

use serde::{Deserialize, Serialize};

/// How fast one vCPU makes samples of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRate {
    pub name: String,
    /// Read and decoded.
    pub decoded_per_sec: f64,
    /// Cut, mirrored and made into samples, from what is decoded.
    pub made_per_sec: f64,
    pub source: String,
    pub date: String,
}
