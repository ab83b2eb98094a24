//! Element types.

use serde::{Deserialize, Serialize};
use tract_core::internal::*;

/// tract's element types, as far as models use them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum DatumRecord {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    F32,
    F64,
    Dim,
    String,
    QI8(QuantRecord),
    QU8(QuantRecord),
    QI32(QuantRecord),
}

/// How a quantised integer stands for a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum QuantRecord {
    MinMax { min: f32, max: f32 },
    ZpScale { zero_point: i32, scale: f32 },
}

impl QuantRecord {
    fn encode(params: QParams) -> Self {
        match params {
            QParams::MinMax { min, max } => Self::MinMax { min, max },
            QParams::ZpScale { zero_point, scale } => Self::ZpScale { zero_point, scale },
        }
    }

    fn decode(self) -> QParams {
        match self {
            Self::MinMax { min, max } => QParams::MinMax { min, max },
            Self::ZpScale { zero_point, scale } => QParams::ZpScale { zero_point, scale },
        }
    }
}

impl DatumRecord {
    pub(crate) fn encode(datum: DatumType) -> TractResult<Self> {
        Ok(match datum {
            DatumType::Bool => Self::Bool,
            DatumType::U8 => Self::U8,
            DatumType::U16 => Self::U16,
            DatumType::U32 => Self::U32,
            DatumType::U64 => Self::U64,
            DatumType::I8 => Self::I8,
            DatumType::I16 => Self::I16,
            DatumType::I32 => Self::I32,
            DatumType::I64 => Self::I64,
            DatumType::F16 => Self::F16,
            DatumType::F32 => Self::F32,
            DatumType::F64 => Self::F64,
            DatumType::TDim => Self::Dim,
            DatumType::String => Self::String,
            DatumType::QI8(params) => Self::QI8(QuantRecord::encode(params)),
            DatumType::QU8(params) => Self::QU8(QuantRecord::encode(params)),
            DatumType::QI32(params) => Self::QI32(QuantRecord::encode(params)),
            other => bail!("elements of type {other:?} cannot be stored"),
        })
    }

    pub(crate) fn decode(self) -> DatumType {
        match self {
            Self::Bool => DatumType::Bool,
            Self::U8 => DatumType::U8,
            Self::U16 => DatumType::U16,
            Self::U32 => DatumType::U32,
            Self::U64 => DatumType::U64,
            Self::I8 => DatumType::I8,
            Self::I16 => DatumType::I16,
            Self::I32 => DatumType::I32,
            Self::I64 => DatumType::I64,
            Self::F16 => DatumType::F16,
            Self::F32 => DatumType::F32,
            Self::F64 => DatumType::F64,
            Self::Dim => DatumType::TDim,
            Self::String => DatumType::String,
            Self::QI8(params) => DatumType::QI8(params.decode()),
            Self::QU8(params) => DatumType::QU8(params.decode()),
            Self::QI32(params) => DatumType::QI32(params.decode()),
        }
    }
}
