//! Writing an infer answer.

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use slsml_model::{Data, Signature, Tensor, TensorSpec};

use crate::{ProtocolError, Wanted, raw};

/// A typical number with its comma; where it is more, the text grows.
const BYTES_PER_ELEMENT: usize = 12;
/// Names, types and shapes.
const BYTES_BESIDE_ELEMENTS: usize = 1024;

/// What the model gave, with what it is to be called.
#[derive(Clone, Debug)]
pub struct InferAnswer<'a> {
    /// The model's name.
    pub model_name: &'a str,
    /// The model's version.
    pub model_version: &'a str,
    /// The request's id.
    pub id: Option<&'a str>,
    /// Where the outputs' names are.
    pub signature: &'a Signature,
    /// Those asked for, in the order asked; indices into signature and `tensors`.
    pub outputs: &'a [Wanted],
    /// One for each output of the signature.
    pub tensors: &'a [Tensor],
}

/// An output as bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct RawOutput<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape and type.
    pub tensor: &'a Tensor,
    /// Its elements, as [`crate::raw`] describes them.
    pub bytes: Vec<u8>,
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: String,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Parameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Elements<'a>>,
}

#[derive(Serialize)]
struct Parameters {
    binary_data_size: usize,
}

struct Elements<'a>(&'a Data);

impl InferAnswer<'_> {
    /// The answer: JSON, and how much of it that is if the elements of tensors follow as bytes.
    /// Numbers JSON cannot hold (NaN, infinities) are an error there, not a `null`.
    pub fn to_bytes(&self) -> Result<(Vec<u8>, Option<usize>), ProtocolError> {
        let mut raw = Vec::new();
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for wanted in self.outputs {
            let (spec, tensor) = self.output(wanted.index)?;
            let before = raw.len();
            let (mut parameters, mut data) = (None, None);
            if wanted.binary {
                raw::write(tensor.data(), &mut raw);
                parameters = Some(Parameters { binary_data_size: raw.len() - before });
            } else {
                data = Some(Elements(tensor.data()));
            }
            let (name, datatype) = (&spec.name, tensor.datatype().to_string());
            outputs.push(Output { name, datatype, shape: tensor.shape(), parameters, data });
        }
        let body = Body {
            model_name: self.model_name,
            model_version: self.model_version,
            id: self.id,
            outputs,
        };
        let in_json = self.outputs.iter().filter(|wanted| !wanted.binary);
        let elements: usize = in_json
            .filter_map(|wanted| self.tensors.get(wanted.index))
            .map(|tensor| tensor.data().len())
            .sum();
        // Grown step by step, it would be copied and take as much again.
        let capacity = BYTES_BESIDE_ELEMENTS + elements * BYTES_PER_ELEMENT + raw.len();
        let mut bytes = Vec::with_capacity(capacity);
        serde_json::to_writer(&mut bytes, &body)
            .map_err(|error| ProtocolError::Failed(error.to_string()))?;
        let json_length = self.outputs.iter().any(|wanted| wanted.binary).then_some(bytes.len());
        bytes.extend_from_slice(&raw);
        Ok((bytes, json_length))
    }

    /// Each output asked for, with its elements as bytes.
    pub fn to_raw(&self) -> Result<Vec<RawOutput<'_>>, ProtocolError> {
        let raw = |wanted: &Wanted| {
            let (spec, tensor) = self.output(wanted.index)?;
            let mut bytes = Vec::new();
            raw::write(tensor.data(), &mut bytes);
            Ok(RawOutput { name: &spec.name, tensor, bytes })
        };
        self.outputs.iter().map(raw).collect()
    }

    fn output(&self, index: usize) -> Result<(&TensorSpec, &Tensor), ProtocolError> {
        let both = self.signature.outputs.get(index).zip(self.tensors.get(index));
        both.ok_or_else(|| {
            ProtocolError::Failed("the model gave fewer outputs than its signature".into())
        })
    }
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Data::Bool(v) => v.serialize(to),
            Data::Uint8(v) => v.serialize(to),
            Data::Uint16(v) => v.serialize(to),
            Data::Uint32(v) => v.serialize(to),
            Data::Uint64(v) => v.serialize(to),
            Data::Int8(v) => v.serialize(to),
            Data::Int16(v) => v.serialize(to),
            Data::Int32(v) => v.serialize(to),
            Data::Int64(v) => v.serialize(to),
            Data::Fp16(v) => floats(v.iter().map(|x| x.to_f32()), f32::is_finite, to),
            Data::Fp32(v) => floats(v.iter().copied(), f32::is_finite, to),
            Data::Fp64(v) => floats(v.iter().copied(), f64::is_finite, to),
            Data::Bytes(v) => v.serialize(to),
        }
    }
}

fn floats<T: Serialize + Copy, S: Serializer>(
    values: impl ExactSizeIterator<Item = T>,
    finite: fn(T) -> bool,
    to: S,
) -> Result<S::Ok, S::Error> {
    let mut seq = to.serialize_seq(Some(values.len()))?;
    for (at, value) in values.enumerate() {
        if !finite(value) {
            return Err(serde::ser::Error::custom(format!(
                "output element {at} is not a finite number, which JSON cannot hold"
            )));
        }
        seq.serialize_element(&value)?;
    }
    seq.end()
}
