//! Lists that name every model, objective, strategy, gate or reader: what a crate has built in, and what crates above it add when the
//! program starts.
//!
//! ```
//! use registry::{Named, Registry};
//! struct Shape(&'static str, u32);
//! impl Named for Shape {
//!     fn name(&self) -> &'static str {
//!         self.0
//!     }
//! }
//! static SHAPES: Registry<Shape> = Registry::new(&[Shape("square", 4)]);
//! SHAPES.add(Shape("hexagon", 6));
//! assert_eq!(SHAPES.find("hexagon").map(|shape| shape.1), Some(6));
//! assert_eq!(SHAPES.names(), ["square", "hexagon"]);
//! ```
//! **Invariant:** entries are never removed or replaced: a name means one thing for as long as the program runs.

use std::sync::{PoisonError, RwLock};

/// What can be listed: it has the name by which recipes and commands ask for it.
pub trait Named {
    fn name(&self) -> &'static str;
}

/// See the head of this file.
pub struct Registry<T: 'static> {
    built_in: &'static [T],
    added: RwLock<Vec<&'static T>>,
}

impl<T: Named + Sync> Registry<T> {
    #[must_use]
    pub const fn new(built_in: &'static [T]) -> Self {
        Self { built_in, added: RwLock::new(Vec::new()) }
    }

    /// Add an entry at the end. One of a name that is there already changes nothing, so that adding twice is adding once.
    pub fn add(&self, entry: T) {
        let mut added = self.added.write().unwrap_or_else(PoisonError::into_inner);
        let is_known = self.built_in.iter().chain(added.iter().copied()).any(|known| known.name() == entry.name());
        if !is_known {
            added.push(Box::leak(Box::new(entry)));
        }
    }

    /// Every entry, the built-in ones first, each list in its own order.
    #[must_use]
    pub fn all(&self) -> Vec<&'static T> {
        let added = self.added.read().unwrap_or_else(PoisonError::into_inner);
        self.built_in.iter().chain(added.iter().copied()).collect()
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static T> {
        self.all().into_iter().find(|entry| entry.name() == name)
    }

    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.all().into_iter().map(Named::name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Named for &'static str {
        fn name(&self) -> &'static str {
            self
        }
    }

    #[test]
    fn a_name_that_is_taken_keeps_its_meaning() {
        static WORDS: Registry<&'static str> = Registry::new(&["a", "b"]);
        for word in ["c", "a", "c"] {
            WORDS.add(word);
        }
        assert_eq!((WORDS.names(), WORDS.find("d")), (vec!["a", "b", "c"], None));
    }
}
