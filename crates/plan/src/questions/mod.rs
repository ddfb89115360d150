//! Questions that a person asks before a launch: each is a `Question`, a `Plan` of typed answers, and one function from the first to
//! the second.

pub mod align;
pub mod approach;
pub mod budget;
pub mod corpus;
pub mod reading;
pub mod rent;
pub mod serving;
