//! Shapes: how many elements along each axis, outermost first, and the error that names the axis that disagrees.
//!
//! Axes go by a closed list of words, the same in docs, shape rules and errors:
//! `batch seq heads kv_heads head_dim model ffn vocab rows experts rank lane stage`.
//! **Absent on purpose:** strides. A tensor is always dense and row-major; kernels read transposes in place.

use std::fmt;

/// Up to four axes, outermost first. `Copy`, so that a tape can keep millions of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    axes: [usize; 4],
    rank: u8,
}

impl Shape {
    /// # Panics
    /// When given more than four axes: no op of ours has them.
    #[must_use]
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a shape has at most four axes, got {dims:?}");
        let mut axes = [1; 4];
        axes[..dims.len()].copy_from_slice(dims);
        Self { axes, rank: dims.len() as u8 }
    }

    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.axes[..usize::from(self.rank)]
    }

    #[must_use]
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// Length of the innermost axis; 1 for a scalar.
    #[must_use]
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// How many innermost rows there are: elements divided by [`Shape::last`].
    #[must_use]
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// As matrices: how many, their rows and columns. `[experts, out, in]` are as many as experts; anything else is one.
    #[must_use]
    pub fn matrices(&self) -> [usize; 3] {
        match *self.dims() {
            [experts, out, inner] => [experts, out, inner],
            _ => [1, self.rows(), self.last()],
        }
    }

    /// The same outer axes with another innermost one.
    #[must_use]
    pub fn with_last(mut self, last: usize) -> Self {
        self.axes[usize::from(self.rank).saturating_sub(1)] = last;
        self.rank = self.rank.max(1);
        self
    }

    /// Bytes of one 4-byte number (f32 or u32) per element.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        4 * self.elements() as u64
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Two shapes that do not fit, named by op and axis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {problem}")]
pub struct ShapeError {
    pub op: &'static str,
    pub problem: String,
}

impl ShapeError {
    #[must_use]
    pub fn new(op: &'static str, problem: impl Into<String>) -> Self {
        Self { op, problem: problem.into() }
    }

    /// ``rms_norm: `model` is 384 in x and 512 in w``
    #[must_use]
    pub fn axis(op: &'static str, axis: &str, (a, a_size): (&str, usize), (b, b_size): (&str, usize)) -> Self {
        Self::new(op, format!("`{axis}` is {a_size} in {a} and {b_size} in {b}"))
    }

    /// `Ok` when the two sizes of one axis agree.
    pub fn check(op: &'static str, axis: &str, a: (&str, usize), b: (&str, usize)) -> Result<(), Self> {
        if a.1 == b.1 { Ok(()) } else { Err(Self::axis(op, axis, a, b)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_times_last_is_elements() {
        for dims in [&[][..], &[7], &[2, 3], &[2, 3, 4, 5]] {
            let shape = Shape::new(dims);
            assert_eq!(shape.rows() * shape.last(), shape.elements(), "{shape}");
        }
    }

    #[test]
    fn a_mismatch_names_the_axis_and_both_sides() {
        let error = ShapeError::check("rms_norm", "model", ("x", 384), ("w", 512)).unwrap_err();
        assert_eq!(error.to_string(), "rms_norm: `model` is 384 in x and 512 in w");
    }
}
