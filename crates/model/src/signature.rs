//! What a model takes and gives.

use std::fmt;

use serde::{Deserialize, Serialize};

use half::f16;

use crate::{Data, Datatype, Tensor};

/// The inputs and outputs of a model, in the graph's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// What a request must bring.
    pub inputs: Vec<TensorSpec>,
    /// What an answer holds.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// Inputs of zeros that fit the signature, named dimensions one long: enough to run the model
    /// once. `None` if they would hold more than `limit` elements.
    pub fn zeros(&self, limit: usize) -> Option<Vec<Tensor>> {
        self.inputs.iter().map(|spec| spec.zeros(limit)).collect()
    }

    /// Whether every tensor has the same named dimension first, and nowhere else: its rows.
    pub(crate) fn has_rows(&self) -> bool {
        let Some(Some(Dim::Named(rows))) = self.inputs.first().map(|spec| spec.shape.first())
        else {
            return false;
        };
        let is_rows = |dim: &Dim| matches!(dim, Dim::Named(name) if name == rows);
        self.inputs.iter().chain(&self.outputs).all(|spec| {
            let mut dims = spec.shape.iter();
            dims.next().is_some_and(is_rows) && !dims.any(is_rows)
        })
    }

    /// How many elements the inputs have, named dimensions one long.
    pub(crate) fn input_elements(&self) -> usize {
        let elements = self.inputs.iter().map(TensorSpec::least_elements);
        elements.fold(0, usize::saturating_add)
    }
}

impl TensorSpec {
    /// The shape with named dimensions one long, and its number of elements if it can be counted.
    fn least(&self) -> (Vec<usize>, Option<usize>) {
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => *length,
            Dim::Named(_) => 1,
        };
        let shape: Vec<usize> = self.shape.iter().map(length).collect();
        let elements = shape.iter().try_fold(1usize, |all, dim| all.checked_mul(*dim));
        (shape, elements)
    }

    /// How many elements it has, named dimensions one long.
    pub fn least_elements(&self) -> usize {
        self.least().1.unwrap_or(usize::MAX)
    }

    fn zeros(&self, limit: usize) -> Option<Tensor> {
        let (shape, n) = self.least();
        let n = n.filter(|n| *n <= limit)?;
        let data = match self.datatype {
            Datatype::Bool => Data::Bool(vec![false; n]),
            Datatype::Uint8 => Data::Uint8(vec![0; n]),
            Datatype::Uint16 => Data::Uint16(vec![0; n]),
            Datatype::Uint32 => Data::Uint32(vec![0; n]),
            Datatype::Uint64 => Data::Uint64(vec![0; n]),
            Datatype::Int8 => Data::Int8(vec![0; n]),
            Datatype::Int16 => Data::Int16(vec![0; n]),
            Datatype::Int32 => Data::Int32(vec![0; n]),
            Datatype::Int64 => Data::Int64(vec![0; n]),
            Datatype::Fp16 => Data::Fp16(vec![f16::ZERO; n]),
            Datatype::Fp32 => Data::Fp32(vec![0.0; n]),
            Datatype::Fp64 => Data::Fp64(vec![0.0; n]),
            Datatype::Bytes => Data::Bytes(vec![String::new(); n]),
        };
        Tensor::new(shape, data).ok()
    }
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The name in the original model.
    pub name: String,
    /// The elements' type.
    pub datatype: Datatype,
    /// The length of each dimension.
    pub shape: Vec<Dim>,
}

/// The length of one dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// Decided by the request; the same name means the same length within one request. Outputs
    /// may carry an expression of such names.
    Named(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(length) => write!(f, "{length}"),
            Dim::Named(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[", self.name, self.datatype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[Dim]) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: shape.to_vec() }
    }

    #[test]
    fn rows_are_a_named_first_dimension_that_all_tensors_share() {
        let (rows, other, fixed) =
            (Dim::Named("rows".into()), Dim::Named("other".into()), Dim::Fixed(3));
        let has_rows = |inputs: &[&[Dim]], outputs: &[&[Dim]]| {
            let specs = |all: &[&[Dim]]| all.iter().map(|shape| spec(shape)).collect();
            Signature { inputs: specs(inputs), outputs: specs(outputs) }.has_rows()
        };
        let row = [rows.clone(), fixed.clone()];
        assert!(has_rows(&[&row, std::slice::from_ref(&rows)], &[&row]));
        assert!(!has_rows(&[], &[]), "nothing comes in");
        assert!(!has_rows(&[&[]], &[&row]), "a scalar comes in");
        assert!(!has_rows(&[&row, &[]], &[&row]), "so does a scalar");
        assert!(!has_rows(&[&row], &[std::slice::from_ref(&fixed)]));
        assert!(!has_rows(&[&row], &[&[other]]));
        assert!(!has_rows(&[&[rows.clone(), rows.clone()]], &[&row]));
        assert!(!has_rows(&[&[fixed]], &[&row]));
    }
}
