//! What a step is fed: named arrays on the host, so that text, images and pairs of both go through one door.

use std::collections::BTreeMap;

use crate::{EngineError, Shape};

/// One input; on `Meta` the data may be empty.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    U32(Shape, Vec<u32>),
    F32(Shape, Vec<f32>),
}

/// Named arrays: `tokens` `[batch, seq]`, `targets` `[batch, seq]`, `images` `[batch, ...]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs(BTreeMap<&'static str, Array>);

impl Inputs {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_u32(mut self, name: &'static str, dims: &[usize], data: Vec<u32>) -> Self {
        self.0.insert(name, Array::U32(Shape::new(dims), data));
        self
    }

    #[must_use]
    pub fn with_f32(mut self, name: &'static str, dims: &[usize], data: Vec<f32>) -> Self {
        self.0.insert(name, Array::F32(Shape::new(dims), data));
        self
    }

    /// These and those of `other`, which come in the place of any of the same name.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().map(|(name, array)| (*name, array.clone())));
        self
    }

    /// The first axis of its arrays, which is that of samples in all of them.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.0.values().next().and_then(|array| array.shape().dims().first().copied()).unwrap_or(0)
    }

    /// Whether there is one of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Each array changed by `change`.
    #[must_use]
    pub fn map(&self, change: impl Fn(&Array) -> Array) -> Self {
        self.named(|_, array| change(array))
    }

    /// The same where the change depends on the name.
    #[must_use]
    pub fn named(&self, change: impl Fn(&str, &Array) -> Array) -> Self {
        Self(self.0.iter().map(|(name, array)| (*name, change(name, array))).collect())
    }

    /// # Errors
    /// [`EngineError::Input`] when there is no such input, naming those that there are.
    pub fn get(&self, name: &'static str) -> Result<&Array, EngineError> {
        let have = || self.0.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        self.0.get(name).ok_or_else(|| EngineError::Input { name, have: have() })
    }
}

impl Array {
    #[must_use]
    pub fn shape(&self) -> Shape {
        match self {
            Self::U32(shape, _) | Self::F32(shape, _) => *shape,
        }
    }
}
