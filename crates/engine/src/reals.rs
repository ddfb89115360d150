//! What is done to numbers of either type, 32 or 16 bits.

use std::borrow::Cow;

use crate::{Reals, RealsMut};

/// `to = from`, rounded where `to` has fewer bits.
pub(crate) fn convert(from: Reals<'_>, to: RealsMut<'_>) {
    use kernels::elementwise::convert;
    match (from, to) {
        (Reals::F32(x), RealsMut::F32(y)) => y.copy_from_slice(x),
        (Reals::Bf16(x), RealsMut::Bf16(y)) => y.copy_from_slice(x),
        (Reals::F32(x), RealsMut::Bf16(y)) => convert(x, y),
        (Reals::Bf16(x), RealsMut::F32(y)) => convert(x, y),
    }
}

/// `to += from`
pub(crate) fn add_assign(from: Reals<'_>, to: RealsMut<'_>) {
    use kernels::elementwise::add_assign;
    match (from, to) {
        (Reals::F32(x), RealsMut::F32(y)) => add_assign(x, y),
        (Reals::Bf16(x), RealsMut::Bf16(y)) => add_assign(x, y),
        (Reals::F32(x), RealsMut::Bf16(y)) => add_assign(x, y),
        (Reals::Bf16(x), RealsMut::F32(y)) => add_assign(x, y),
    }
}

/// The numbers in f32, whatever they are stored as.
pub(crate) fn widened(numbers: Reals<'_>) -> Cow<'_, [f32]> {
    match numbers {
        Reals::F32(x) => x.into(),
        Reals::Bf16(x) => {
            let mut wide = vec![0.0; x.len()];
            kernels::elementwise::convert(x, &mut wide);
            wide.into()
        }
    }
}
