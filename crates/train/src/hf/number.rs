//! Kinds of numbers in files of weights, and what is found of a tensor in one.

use safetensors::Dtype;

/// What the numbers of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
    F64,
    /// None that weights are read of, by its name.
    Other(&'static str),
}

impl Number {
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 | Self::Other(_) => 2,
        }
    }

    pub fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::F64 => Self::F64,
            Dtype::F8_E4M3 | Dtype::F8_E5M2 => Self::Other("8-bit floats"),
            Dtype::BOOL => Self::Other("true or false"),
            _ => Self::Other("whole numbers or another kind"),
        }
    }

    pub fn read(self, bytes: &[u8], to: &mut Vec<f32>) {
        match self {
            Self::F32 => to.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F64 => to.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
            Self::Bf16 => to.extend(bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32())),
            Self::F16 => to.extend(bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32())),
            Self::Other(_) => {}
        }
    }
}

/// A tensor's name, dimensions, kind of numbers, and the byte of the file at which it begins.
pub(super) type Found = (String, Vec<usize>, Number, u64);
