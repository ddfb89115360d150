//! Strategies: who holds a parameter, when it is gathered, where its gradient goes. Each is one file that implements
//! [`engine::ParamStore`]; a model never knows which.
//!
//! Here: [`Replicated`], every rank holds every parameter, with the tree over lanes that all data-parallel strategies
//! share ([`lanes`]).

pub mod lanes;
mod replicated;

pub use replicated::Replicated;
