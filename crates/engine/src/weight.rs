//! The values of one parameter, and what a device makes of them to read.

use kernels::gemm::PackedRhs;

use crate::{
    Numbers, Shape,
    packed::{Copies, Form},
};

/// The values of one parameter and the copies that products read.
pub struct Weight {
    values: Numbers,
    shape: Shape,
    copies: Copies,
}

impl Weight {
    /// `values` of a parameter of `shape`.
    /// # Panics
    /// When there are more or fewer.
    #[must_use]
    pub fn new(values: Numbers, shape: Shape) -> Self {
        assert_eq!(values.len(), shape.elements(), "values and shape of a parameter agree");
        Self { values, shape, copies: Copies::default() }
    }

    /// Empty on `Meta`.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        self.values.values()
    }

    #[must_use]
    pub fn numbers(&self) -> &Numbers {
        &self.values
    }

    /// The values to change; copies are made anew when next asked for.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.copies.forget();
        self.values.values_mut()
    }

    /// The bf16 copies for one product, one for each matrix, packed once after each change.
    #[must_use]
    pub fn packed(&self, form: Form) -> &[PackedRhs] {
        self.copies.of(form, self.shape, self.values())
    }
}
