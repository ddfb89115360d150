//! How fast a step goes on a cluster that is not here: the step itself on `Meta`, over what accelerators and links can do.
//!
//! ```text
//! family (a model of a size) -> search (every cut) -> step (the trainer on a virtual clock) <- hardware
//! efficiency asks for all of it at once; reliability takes off what failures cost
//! ```

pub mod efficiency;
pub mod family;
pub mod hardware;
pub mod reliability;
pub mod search;
pub mod step;
