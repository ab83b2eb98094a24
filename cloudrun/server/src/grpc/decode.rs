//! An infer request's message: what it may cost is counted before it is read, because two bytes of it can
//! become hundreds in memory.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use slsml_inference::{Elements, GivenInput, InferRequest, Limits, ProtocolError};
use slsml_model::{Data, Signature};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::messages::{Contents, InferTensor, ModelInferRequest, ModelInferResponse};
use super::{no_room_status, status};
use crate::room::Part;

/// How many inputs, outputs, parameters or dimensions a message may have.
const MOST_PARTS: usize = 1024;

/// What a text among the elements takes in memory, in elements.
const TEXT: usize = 7;

/// Any bytes as an infer request.
pub fn decode(
    message: Bytes,
    signature: &Signature,
    limits: &Limits,
) -> Result<InferRequest, ProtocolError> {
    bind(read(message, limits)?, signature, limits)
}

/// The message in these bytes, if it is none that costs too much.
fn read(bytes: Bytes, limits: &Limits) -> Result<ModelInferRequest, ProtocolError> {
    let mut cost = Cost { parts: MOST_PARTS, elements: limits.elements };
    cost.of_request(&bytes)?;
    ModelInferRequest::decode(bytes)
        .map_err(|error| bad(format!("it is no infer request: {error}")))
}

/// tonic's way to a message, through the count of what it costs.
pub(super) struct Counted {
    pub(super) limits: Limits,
    pub(super) part: Arc<Part>,
}

impl Codec for Counted {
    type Encode = ModelInferResponse;
    type Decode = ModelInferRequest;
    type Encoder = ProstEncoder<ModelInferResponse>;
    type Decoder = Counted;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<ModelInferResponse, ModelInferRequest>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Counted { limits: self.limits, part: self.part.clone() }
    }
}

impl Decoder for Counted {
    type Item = ModelInferRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        // As it came and, if that is another thing, decompressed.
        let (came, whole) = (self.part.received(), from.remaining());
        let all = if whole > came { came + whole } else { came };
        self.part.hold(all).map_err(no_room_status)?;
        let bytes = from.copy_to_bytes(from.remaining());
        read(bytes, &self.limits).map(Some).map_err(|error| status(&error))
    }
}

/// What may still be spent.
struct Cost {
    parts: usize,
    elements: usize,
}

impl Cost {
    fn part(&mut self) -> Result<(), ProtocolError> {
        self.parts = self.parts.checked_sub(1).ok_or_else(|| {
            ProtocolError::TooLarge(format!(
                "the message has more than {MOST_PARTS} inputs, outputs, parameters and dimensions, \
                 which is the limit"
            ))
        })?;
        Ok(())
    }

    fn elements(&mut self, count: usize) -> Result<(), ProtocolError> {
        self.elements = self.elements.checked_sub(count).ok_or_else(|| {
            ProtocolError::TooLarge("the message has more elements than the limit".into())
        })?;
        Ok(())
    }

    /// `ModelInferRequest`: its parameters, inputs, outputs and raw contents.
    fn of_request(&mut self, message: &[u8]) -> Result<(), ProtocolError> {
        each_field(message, |tag, value| match tag {
            4 | 7 => self.part(),
            5 => {
                self.part()?;
                self.of_input(value.bytes())
            }
            6 => {
                self.part()?;
                self.of_output(value.bytes())
            }
            _ => Ok(()),
        })
    }

    /// `InferInputTensor`: its shape, parameters and contents.
    fn of_input(&mut self, message: &[u8]) -> Result<(), ProtocolError> {
        each_field(message, |tag, value| match tag {
            3 => (0..value.integers()).try_for_each(|_| self.part()),
            4 => self.part(),
            5 => self.of_contents(value.bytes()),
            _ => Ok(()),
        })
    }

    /// `InferRequestedOutputTensor`: its parameters.
    fn of_output(&mut self, message: &[u8]) -> Result<(), ProtocolError> {
        each_field(message, |tag, _| if tag == 2 { self.part() } else { Ok(()) })
    }

    /// `InferTensorContents`: numbers one by one or packed, and texts.
    fn of_contents(&mut self, message: &[u8]) -> Result<(), ProtocolError> {
        each_field(message, |tag, value| match tag {
            1..=5 => self.elements(value.integers()),
            6 => self.elements((value.bytes().len() / 4).max(1)),
            7 => self.elements((value.bytes().len() / 8).max(1)),
            8 => self.elements(TEXT),
            _ => Ok(()),
        })
    }
}

/// A field's value.
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Number => &[],
            Self::Bytes(bytes) => bytes,
        }
    }

    /// How many integers it is: one, or as many as are packed, each of which ends with a low byte.
    fn integers(&self) -> usize {
        match self {
            Self::Number => 1,
            Self::Bytes(bytes) => bytes.iter().filter(|byte| **byte < 0x80).count(),
        }
    }
}

/// Walks the fields of a message. <https://protobuf.dev/programming-guides/encoding/>
fn each_field(
    mut message: &[u8],
    mut told: impl FnMut(u32, Value<'_>) -> Result<(), ProtocolError>,
) -> Result<(), ProtocolError> {
    let broken = || bad("it is no infer request: a field is broken off".into());
    while !message.is_empty() {
        let (tag, kind) = decode_key(&mut message).map_err(|_| broken())?;
        let value = match kind {
            WireType::Varint => {
                decode_varint(&mut message).map_err(|_| broken())?;
                Value::Number
            }
            WireType::SixtyFourBit => {
                message.split_off(..8).ok_or_else(broken)?;
                Value::Number
            }
            WireType::ThirtyTwoBit => {
                message.split_off(..4).ok_or_else(broken)?;
                Value::Number
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut message).map_err(|_| broken())?;
                let length = usize::try_from(length).map_err(|_| broken())?;
                Value::Bytes(message.split_off(..length).ok_or_else(broken)?)
            }
            WireType::StartGroup | WireType::EndGroup => {
                return Err(bad("it is no infer request: it has groups".into()));
            }
        };
        told(tag, value)?;
    }
    Ok(())
}

fn bad(message: String) -> ProtocolError {
    ProtocolError::BadRequest(message)
}

/// The request in a message that was read.
pub(super) fn bind(
    asked: ModelInferRequest,
    signature: &Signature,
    limits: &Limits,
) -> Result<InferRequest, ProtocolError> {
    let raw = &asked.raw_input_contents;
    if !raw.is_empty() && raw.len() != asked.inputs.len() {
        return Err(bad(format!(
            "there are {} inputs and {} raw_input_contents",
            asked.inputs.len(),
            raw.len()
        )));
    }
    let mut inputs = Vec::with_capacity(asked.inputs.len());
    for (at, input) in asked.inputs.into_iter().enumerate() {
        let elements = match (raw.get(at), input.contents) {
            (Some(_), Some(_)) => {
                return Err(bad(format!(
                    "input `{}` has contents, and so do raw_input_contents: use one of both",
                    input.name
                )));
            }
            (Some(bytes), None) => Elements::Raw(bytes),
            (None, None) => Elements::Absent,
            (None, Some(contents)) => Elements::Data(data(&input.name, &input.datatype, contents)?),
        };
        let InferTensor { name, datatype, shape, .. } = input;
        inputs.push(GivenInput { name, shape, datatype, elements });
    }
    let outputs: Vec<String> = asked.outputs.into_iter().map(|output| output.name).collect();
    let id = Some(asked.id).filter(|id| !id.is_empty());
    InferRequest::bind(id, inputs, &outputs, signature, limits)
}

/// Elements in the field of their type.
fn data(name: &str, datatype: &str, contents: Contents) -> Result<Data, ProtocolError> {
    fn narrow<T: TryFrom<V>, V: Copy + std::fmt::Display>(
        name: &str,
        datatype: &str,
        values: &[V],
    ) -> Result<Vec<T>, ProtocolError> {
        let unfit = |value| bad(format!("the data of input `{name}`: {value} is no {datatype}"));
        values.iter().map(|&value| T::try_from(value).map_err(|_| unfit(value))).collect()
    }
    Ok(match datatype {
        "BOOL" => Data::Bool(contents.bools),
        "INT8" => Data::Int8(narrow(name, datatype, &contents.ints)?),
        "INT16" => Data::Int16(narrow(name, datatype, &contents.ints)?),
        "INT32" => Data::Int32(contents.ints),
        "INT64" => Data::Int64(contents.int64s),
        "UINT8" => Data::Uint8(narrow(name, datatype, &contents.uints)?),
        "UINT16" => Data::Uint16(narrow(name, datatype, &contents.uints)?),
        "UINT32" => Data::Uint32(contents.uints),
        "UINT64" => Data::Uint64(contents.uint64s),
        "FP32" => Data::Fp32(contents.fp32s),
        "FP64" => Data::Fp64(contents.fp64s),
        "BYTES" => {
            let texts = contents.bytes.iter().map(|bytes| String::from_utf8(bytes.to_vec()));
            Data::Bytes(
                texts.collect::<Result<_, _>>().map_err(|_| {
                    bad(format!("the data of input `{name}`: an element is not UTF-8"))
                })?,
            )
        }
        other => {
            return Err(bad(format!("input `{name}`: {other} comes in raw_input_contents only")));
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use slsml_model::{Datatype, Dim, TensorSpec};

    use super::super::messages::{InferParameter, RequestedOutput};
    use super::*;

    const LIMITS: Limits = Limits { body_bytes: 32 << 20, elements: 1000 };

    fn signature() -> Signature {
        let spec = |datatype| TensorSpec {
            name: "x".into(),
            datatype,
            shape: vec![Dim::Named("n".into())],
        };
        Signature { inputs: vec![spec(Datatype::Int64)], outputs: vec![spec(Datatype::Fp32)] }
    }

    fn asked(count: usize) -> ModelInferRequest {
        let contents = Contents { int64s: vec![1; count], ..Contents::default() };
        let input = InferTensor {
            name: "x".into(),
            datatype: "INT64".into(),
            shape: vec![count as i64],
            contents: Some(contents),
            ..InferTensor::default()
        };
        ModelInferRequest { inputs: vec![input], ..ModelInferRequest::default() }
    }

    fn decoded(asked: &ModelInferRequest) -> Result<InferRequest, ProtocolError> {
        decode(asked.encode_to_vec().into(), &signature(), &LIMITS)
    }

    fn is_too_large(asked: &ModelInferRequest) -> bool {
        matches!(decoded(asked), Err(ProtocolError::TooLarge(_)))
    }

    #[test]
    fn a_request_within_its_limits_is_read() {
        let request = decoded(&asked(1000)).unwrap();
        assert_eq!(request.inputs[0].data(), &Data::Int64(vec![1; 1000]));
        assert!(is_too_large(&asked(1001)));
    }

    #[test]
    fn little_that_would_become_much_is_refused_before_it_is_read() {
        let many = MOST_PARTS + 1;
        let mut inputs = asked(1);
        inputs.inputs = vec![InferTensor::default(); many];
        let mut outputs = asked(1);
        outputs.outputs = vec![RequestedOutput::default(); many];
        let mut raw = asked(1);
        raw.raw_input_contents = vec![Bytes::new(); many];
        let mut shape = asked(1);
        shape.inputs[0].shape = vec![1; many];
        let mut texts = asked(0);
        texts.inputs[0].contents =
            Some(Contents { bytes: vec![Bytes::new(); 1000 / TEXT + 1], ..Contents::default() });
        let parameter = |at: usize| (at.to_string(), InferParameter::default());
        let mut parameters = asked(1);
        parameters.inputs[0].parameters = (0..many).map(parameter).collect();
        let mut of_output = asked(1);
        let parameters_of_it = (0..many).map(parameter).collect();
        of_output.outputs =
            vec![RequestedOutput { parameters: parameters_of_it, ..RequestedOutput::default() }];
        for (what, message) in [
            ("parameters of an output", of_output),
            ("inputs", inputs),
            ("outputs", outputs),
            ("raw", raw),
            ("shape", shape),
            ("texts", texts),
            ("parameters", parameters),
        ] {
            assert!(is_too_large(&message), "{what}");
        }
    }

    #[test]
    fn what_is_broken_off_is_an_error_wherever_that_is() {
        let whole = asked(9).encode_to_vec();
        for end in 0..whole.len() {
            let part = Bytes::copy_from_slice(&whole[..end]);
            assert!(decode(part, &signature(), &LIMITS).is_err(), "{end}");
        }
    }
}
