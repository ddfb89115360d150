//! What others measured, held against what is predicted here: whole runs, throughputs, single products.

pub mod products;
pub mod published;
pub mod throughput;
