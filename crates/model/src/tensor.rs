//! Tensors as callers see them: a shape and typed, row-major elements. They exist so that no
//! caller needs tract's types.

use std::fmt;

use half::f16;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tract_core::prelude as tract;

/// The type of a tensor's elements, named as the Open Inference Protocol names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    /// Strings of bytes; tract holds them as UTF-8.
    Bytes,
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A tensor's elements, row-major.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Data {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<f16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bytes(Vec<String>),
}

/// Runs `$body` with `$v` bound to the vector inside, whatever its type.
macro_rules! each {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            Data::Bool($v) => $body,
            Data::Uint8($v) => $body,
            Data::Uint16($v) => $body,
            Data::Uint32($v) => $body,
            Data::Uint64($v) => $body,
            Data::Int8($v) => $body,
            Data::Int16($v) => $body,
            Data::Int32($v) => $body,
            Data::Int64($v) => $body,
            Data::Fp16($v) => $body,
            Data::Fp32($v) => $body,
            Data::Fp64($v) => $body,
            Data::Bytes($v) => $body,
        }
    };
}

impl Data {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// How many bytes they take in memory.
    pub fn bytes(&self) -> usize {
        let texts = match self {
            Data::Bytes(texts) => texts.iter().map(String::len).sum(),
            _ => 0,
        };
        texts + each!(self, v => size_of_val(v.as_slice()))
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' type.
    pub fn datatype(&self) -> Datatype {
        match self {
            Data::Bool(_) => Datatype::Bool,
            Data::Uint8(_) => Datatype::Uint8,
            Data::Uint16(_) => Datatype::Uint16,
            Data::Uint32(_) => Datatype::Uint32,
            Data::Uint64(_) => Datatype::Uint64,
            Data::Int8(_) => Datatype::Int8,
            Data::Int16(_) => Datatype::Int16,
            Data::Int32(_) => Datatype::Int32,
            Data::Int64(_) => Datatype::Int64,
            Data::Fp16(_) => Datatype::Fp16,
            Data::Fp32(_) => Datatype::Fp32,
            Data::Fp64(_) => Datatype::Fp64,
            Data::Bytes(_) => Datatype::Bytes,
        }
    }
}

impl Data {
    /// Appends elements of the same type; none if they are of another.
    fn append(&mut self, more: &Data) -> Option<()> {
        macro_rules! append {
            ($($kind:ident)*) => {
                match (self, more) {
                    $((Data::$kind(all), Data::$kind(more)) => all.extend_from_slice(more),)*
                    _ => return None,
                }
            };
        }
        append!(Bool Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Fp32 Fp64 Bytes);
        Some(())
    }

    fn slice(&self, range: std::ops::Range<usize>) -> Data {
        macro_rules! slice {
            ($($kind:ident)*) => {
                match self { $(Data::$kind(all) => Data::$kind(all[range].to_vec()),)* }
            };
        }
        slice!(Bool Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Fp32 Fp64 Bytes)
    }
}

/// A shape and as many elements as it asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

/// A shape that asks for another number of elements than there are.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("shape {shape:?} does not hold {elements} elements")]
pub struct ShapeMismatch {
    /// The shape asked for.
    pub shape: Vec<usize>,
    /// The elements given.
    pub elements: usize,
}

impl Tensor {
    /// Whether another has the same elements, bit for bit; what is no number is alike.
    pub fn is_identical(&self, other: &Tensor) -> bool {
        fn alike<T: Copy>(one: &[T], other: &[T], same: impl Fn(T, T) -> bool) -> bool {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(*one, *other))
        }
        self.shape == other.shape
            && match (&self.data, &other.data) {
                (Data::Fp16(one), Data::Fp16(other)) => alike(one, other, |one, other| {
                    one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan()
                }),
                (Data::Fp32(one), Data::Fp32(other)) => alike(one, other, |one, other| {
                    one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan()
                }),
                (Data::Fp64(one), Data::Fp64(other)) => alike(one, other, |one, other| {
                    one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan()
                }),
                (one, other) => one == other,
            }
    }

    /// A tensor, if `data` fills `shape` exactly. A shape whose product overflows is refused.
    pub fn new(shape: Vec<usize>, data: Data) -> Result<Tensor, ShapeMismatch> {
        let volume = shape.iter().try_fold(1usize, |all, dim| all.checked_mul(*dim));
        if volume == Some(data.len()) {
            Ok(Tensor { shape, data })
        } else {
            Err(ShapeMismatch { elements: data.len(), shape })
        }
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements' type.
    pub fn datatype(&self) -> Datatype {
        self.data.datatype()
    }

    /// Tensors one after the other along the first dimension; none if there are none, or they differ
    /// in type or in another dimension.
    pub fn stack(tensors: &[&Tensor]) -> Option<Tensor> {
        let first = tensors.first()?;
        let rest = first.shape.get(1..)?;
        let mut stacked = Tensor { shape: first.shape.clone(), data: first.data.clone() };
        for tensor in &tensors[1..] {
            if tensor.shape.get(1..)? != rest {
                return None;
            }
            stacked.shape[0] += tensor.shape[0];
            stacked.data.append(&tensor.data)?;
        }
        Some(stacked)
    }

    /// So many rows of the first dimension each; none if that is not all there are.
    pub fn split(&self, rows: &[usize]) -> Option<Vec<Tensor>> {
        let (all, rest) = self.shape.split_first()?;
        if rows.iter().sum::<usize>() != *all {
            return None;
        }
        let row: usize = rest.iter().product();
        let mut from = 0;
        let part = |&rows: &usize| {
            let shape = std::iter::once(rows).chain(rest.iter().copied()).collect();
            let data = self.data.slice(from..from + rows * row);
            from += rows * row;
            Tensor { shape, data }
        };
        Some(rows.iter().map(part).collect())
    }

    pub(crate) fn into_tract(self) -> tract::TractResult<tract::Tensor> {
        let Tensor { shape, data } = self;
        let flat = each!(data, v => tract::tract_ndarray::Array1::from_vec(v).into());
        let tensor: tract::Tensor = flat;
        tensor.into_shape(&shape)
    }

    /// The protocol's form of a tensor of tract's.
    pub fn from_tract(tensor: &tract::Tensor) -> tract::TractResult<Tensor> {
        use tract::DatumType;
        let shape = tensor.shape().to_vec();
        // Quantised tensors are served as the integers they hold.
        let data = match tensor.datum_type().unquantized() {
            DatumType::Bool => Data::Bool(elements(tensor)?),
            DatumType::U8 => Data::Uint8(elements(tensor)?),
            DatumType::U16 => Data::Uint16(elements(tensor)?),
            DatumType::U32 => Data::Uint32(elements(tensor)?),
            DatumType::U64 => Data::Uint64(elements(tensor)?),
            DatumType::I8 => Data::Int8(elements(tensor)?),
            DatumType::I16 => Data::Int16(elements(tensor)?),
            DatumType::I32 => Data::Int32(elements(tensor)?),
            DatumType::I64 => Data::Int64(elements(tensor)?),
            DatumType::F16 => Data::Fp16(elements(tensor)?),
            DatumType::F32 => Data::Fp32(elements(tensor)?),
            DatumType::F64 => Data::Fp64(elements(tensor)?),
            DatumType::String => Data::Bytes(elements(tensor)?),
            // A dimension computed inside the graph: a plain number once the inputs are known.
            DatumType::TDim => Data::Int64(elements(&*tensor.cast_to::<i64>()?)?),
            other => tract_core::internal::bail!("a tensor of {other:?} has no protocol datatype"),
        };
        Ok(Tensor { shape, data })
    }
}

fn elements<D: tract::Datum>(tensor: &tract::Tensor) -> tract::TractResult<Vec<D>> {
    Ok(tensor.try_as_plain_ram()?.as_slice::<D>()?.to_vec())
}

impl Datatype {
    /// The protocol's name for tract's type, where there is one.
    pub fn from_tract(datum: tract::DatumType) -> Option<Datatype> {
        use tract::DatumType;
        Some(match datum.unquantized() {
            DatumType::Bool => Datatype::Bool,
            DatumType::U8 => Datatype::Uint8,
            DatumType::U16 => Datatype::Uint16,
            DatumType::U32 => Datatype::Uint32,
            DatumType::U64 => Datatype::Uint64,
            DatumType::I8 => Datatype::Int8,
            DatumType::I16 => Datatype::Int16,
            DatumType::I32 => Datatype::Int32,
            DatumType::I64 | DatumType::TDim => Datatype::Int64,
            DatumType::F16 => Datatype::Fp16,
            DatumType::F32 => Datatype::Fp32,
            DatumType::F64 => Datatype::Fp64,
            DatumType::String => Datatype::Bytes,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_hold_exactly_the_elements_given() {
        assert!(Tensor::new(vec![2, 3], Data::Fp32(vec![0.0; 6])).is_ok());
        assert!(Tensor::new(vec![2, 3], Data::Fp32(vec![0.0; 5])).is_err());
        assert!(Tensor::new(vec![usize::MAX, 2], Data::Fp32(vec![])).is_err());
        assert!(Tensor::new(vec![], Data::Int64(vec![7])).is_ok());
        assert!(Tensor::new(vec![0, 4], Data::Bool(vec![])).is_ok());
    }

    #[test]
    fn tensors_survive_the_way_through_tract() {
        let all = [
            Data::Bool(vec![true, false]),
            Data::Uint8(vec![1, 255]),
            Data::Int64(vec![i64::MIN, i64::MAX]),
            Data::Fp16(vec![f16::from_f32(0.5), f16::MAX]),
            Data::Fp64(vec![1e300, -0.0]),
            Data::Bytes(vec!["a".into(), "é".into()]),
        ];
        for data in all {
            let tensor = Tensor::new(vec![2, 1], data).unwrap();
            let back = Tensor::from_tract(&tensor.clone().into_tract().unwrap()).unwrap();
            assert_eq!(back, tensor);
        }
    }

    #[test]
    fn identical_tensors_have_the_same_bits_but_for_what_is_no_number() {
        let tensor = |numbers: &[f32]| {
            Tensor::new(vec![numbers.len()], Data::Fp32(numbers.to_vec())).unwrap()
        };
        let other_nan = f32::from_bits(f32::NAN.to_bits() | 1);
        assert!(tensor(&[1.0, f32::NAN]).is_identical(&tensor(&[1.0, other_nan])));
        assert!(!tensor(&[0.0]).is_identical(&tensor(&[-0.0])));
        assert!(!tensor(&[1.0]).is_identical(&tensor(&[1.0, 2.0])));
        let labels = |numbers: &[i64]| {
            Tensor::new(vec![numbers.len()], Data::Int64(numbers.to_vec())).unwrap()
        };
        assert!(labels(&[3]).is_identical(&labels(&[3])));
        assert!(!labels(&[3]).is_identical(&tensor(&[3.0])));
    }
}
