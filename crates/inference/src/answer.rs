//! Writing an infer answer.

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use slsml_model::{Data, Signature, Tensor};

use crate::ProtocolError;

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
    /// Indices into signature and `tensors`, in the order asked for.
    pub outputs: &'a [usize],
    /// One for each output of the signature.
    pub tensors: &'a [Tensor],
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
    data: Elements<'a>,
}

struct Elements<'a>(&'a Data);

impl InferAnswer<'_> {
    /// The answer's JSON. Numbers JSON cannot hold (NaN, infinities) are an error, not a `null`.
    pub fn to_json(&self) -> Result<Vec<u8>, ProtocolError> {
        let output = |&index: &usize| {
            let tensor = self.tensors.get(index)?;
            let spec = self.signature.outputs.get(index)?;
            Some(Output {
                name: &spec.name,
                datatype: tensor.datatype().to_string(),
                shape: tensor.shape(),
                data: Elements(tensor.data()),
            })
        };
        let outputs = self.outputs.iter().map(output).collect::<Option<Vec<_>>>();
        let outputs = outputs.ok_or_else(|| {
            ProtocolError::Failed("the model gave fewer outputs than its signature".into())
        })?;
        let body = Body {
            model_name: self.model_name,
            model_version: self.model_version,
            id: self.id,
            outputs,
        };
        let elements = self.tensors.iter().map(|tensor| tensor.data().len()).sum::<usize>();
        // Grown step by step, it would be copied and take as much again.
        let mut json = Vec::with_capacity(BYTES_BESIDE_ELEMENTS + elements * BYTES_PER_ELEMENT);
        serde_json::to_writer(&mut json, &body)
            .map_err(|error| ProtocolError::Failed(error.to_string()))?;
        Ok(json)
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
