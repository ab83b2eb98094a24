//! Reading and validating an infer request.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use slsml_model::{Data, Datatype, Dim, Signature, Tensor, TensorSpec};

use crate::numbers::{self, Elements};
use crate::{Limits, ProtocolError};

/// A request that fits the signature: the tensors in the signature's order.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// Echoed in the answer.
    pub id: Option<String>,
    /// One for each input of the signature, in its order.
    pub inputs: Vec<Tensor>,
    /// Indices of the outputs asked for, in the order asked.
    pub outputs: Vec<usize>,
}

/// With `DIRECT`, data that follows its shape and datatype is parsed in the first pass. On any error
/// the body is parsed again without it; only that pass words errors.
#[derive(Deserialize)]
#[serde(expecting = "an object with `inputs`")]
struct Body<'a, const DIRECT: bool> {
    id: Option<String>,
    #[serde(borrow)]
    inputs: Vec<Given<'a, DIRECT>>,
    outputs: Option<Vec<Output>>,
}

/// How an input is parsed; what it is does not depend on that.
struct Given<'a, const DIRECT: bool>(Input<'a>);

/// An input as it is given.
struct Input<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    data: Option<Values<'a>>,
}

enum Values<'a> {
    Unread(&'a RawValue),
    Read(Data),
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Name,
    Shape,
    Datatype,
    Data,
    #[serde(other)]
    Other,
}

impl<'de: 'a, 'a, const DIRECT: bool> Deserialize<'de> for Given<'a, DIRECT> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(InputVisitor::<DIRECT>(PhantomData)).map(Given)
    }
}

struct InputVisitor<'a, const DIRECT: bool>(PhantomData<&'a ()>);

impl<'de: 'a, 'a, const DIRECT: bool> Visitor<'de> for InputVisitor<'a, DIRECT> {
    type Value = Input<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input with `name`, `shape`, `datatype` and `data`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut name, mut shape, mut datatype) = (None, None::<Vec<i64>>, None::<String>);
        let mut data = None;
        while let Some(field) = map.next_key()? {
            match field {
                Field::Name => set(&mut name, "name", map.next_value()?)?,
                Field::Shape => set(&mut shape, "shape", map.next_value()?)?,
                Field::Datatype => set(&mut datatype, "datatype", map.next_value()?)?,
                Field::Data => {
                    let known = shape.as_deref().zip(datatype.as_deref()).filter(|_| DIRECT);
                    let values = match known.and_then(|(shape, datatype)| plan(shape, datatype)) {
                        Some((datatype, shape, expected)) => {
                            let shape = &*shape;
                            let seed = Elements { datatype, shape, expected, reserve: 0 };
                            Some(Values::Read(map.next_value_seed(seed)?))
                        }
                        None => map.next_value::<Option<&RawValue>>()?.map(Values::Unread),
                    };
                    set(&mut data, "data", values)?;
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Input {
            name: name.ok_or_else(|| A::Error::missing_field("name"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            datatype: datatype.ok_or_else(|| A::Error::missing_field("datatype"))?,
            data: data.flatten(),
        })
    }
}

fn set<T, E: Error>(field: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
    }
}

/// What data of this shape and type is read into, if that is clear.
fn plan(shape: &[i64], name: &str) -> Option<(Datatype, Vec<usize>, usize)> {
    let shape = shape.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<_>>>()?;
    let volume = volume(&shape)?;
    // Texts take many times the memory of their JSON: their shape is checked first.
    let datatype = datatype(name).filter(|datatype| *datatype != Datatype::Bytes)?;
    Some((datatype, shape, volume))
}

/// The number of elements, if it can be counted.
fn volume(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |all, dim| all.checked_mul(*dim))
}

#[derive(Deserialize)]
struct Output {
    name: String,
}

fn bad(message: impl Into<String>) -> ProtocolError {
    ProtocolError::BadRequest(message.into())
}

impl InferRequest {
    /// The request in `body`, if it fits `signature` and `limits`.
    pub fn parse(
        body: &[u8],
        signature: &Signature,
        limits: &Limits,
    ) -> Result<Self, ProtocolError> {
        if body.len() > limits.body_bytes {
            let (size, limit) = (body.len(), limits.body_bytes);
            return Err(ProtocolError::TooLarge(format!(
                "the body has {size} bytes, the limit is {limit}"
            )));
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(bad("the body is empty; an infer request is JSON with `inputs`"));
        }
        match serde_json::from_slice::<Body<'_, true>>(body) {
            Ok(body) => Self::fit(body, signature, limits),
            Err(_) => {
                let body: Body<'_, false> = serde_json::from_slice(body)
                    .map_err(|error| bad(format!("the body is not an infer request: {error}")))?;
                Self::fit(body, signature, limits)
            }
        }
    }

    fn fit<const DIRECT: bool>(
        body: Body<'_, DIRECT>,
        signature: &Signature,
        limits: &Limits,
    ) -> Result<Self, ProtocolError> {
        let outputs = wanted_outputs(body.outputs.as_deref(), signature)?;
        let given = body.inputs.into_iter().map(|Given(input)| input).collect();
        let inputs = bind(given, signature, limits)?;
        Ok(Self { id: body.id, inputs, outputs })
    }
}

fn wanted_outputs(
    wanted: Option<&[Output]>,
    signature: &Signature,
) -> Result<Vec<usize>, ProtocolError> {
    let all = &signature.outputs;
    match wanted {
        None | Some([]) => Ok((0..all.len()).collect()),
        Some(wanted) => {
            let mut indices = Vec::with_capacity(all.len());
            for output in wanted {
                let index =
                    all.iter().position(|spec| spec.name == output.name).ok_or_else(|| {
                        bad(format!("no output `{}`; the model gives {}", output.name, names(all)))
                    })?;
                if indices.contains(&index) {
                    return Err(bad(format!("output `{}` is asked for twice", output.name)));
                }
                indices.push(index);
            }
            Ok(indices)
        }
    }
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| format!("`{}`", spec.name)).collect::<Vec<_>>().join(", ")
}

/// The request's inputs in the signature's order, each checked, named dimensions consistent.
fn bind(
    mut given: Vec<Input<'_>>,
    signature: &Signature,
    limits: &Limits,
) -> Result<Vec<Tensor>, ProtocolError> {
    let mut named: HashMap<&str, usize> = HashMap::new();
    let mut tensors = Vec::with_capacity(signature.inputs.len());
    for spec in &signature.inputs {
        let at = given.iter().position(|input| input.name == spec.name).ok_or_else(|| {
            bad(format!(
                "input `{}` is missing; the model takes {}",
                spec.name,
                names(&signature.inputs)
            ))
        })?;
        let input = given.swap_remove(at);
        let shape = check_shape(&input, spec, &mut named)?;
        tensors.push(read_tensor(input, spec, shape, limits)?);
    }
    match given.first() {
        None => Ok(tensors),
        Some(extra) if signature.inputs.iter().any(|spec| spec.name == extra.name) => {
            Err(bad(format!("input `{}` is given twice", extra.name)))
        }
        Some(extra) => {
            let takes = names(&signature.inputs);
            Err(bad(format!("no input `{}`; the model takes {takes}", extra.name)))
        }
    }
}

fn check_shape<'s>(
    input: &Input<'_>,
    spec: &'s TensorSpec,
    named: &mut HashMap<&'s str, usize>,
) -> Result<Vec<usize>, ProtocolError> {
    let unfit = |why: String| {
        bad(format!(
            "input `{}` has shape {:?}, the model takes {spec}{why}",
            input.name, input.shape
        ))
    };
    if input.shape.len() != spec.shape.len() {
        return Err(unfit(String::new()));
    }
    let mut shape = Vec::with_capacity(input.shape.len());
    for (given, dim) in input.shape.iter().zip(&spec.shape) {
        let given = usize::try_from(*given).map_err(|_| unfit(String::new()))?;
        match dim {
            Dim::Fixed(length) if *length != given => return Err(unfit(String::new())),
            Dim::Fixed(_) => {}
            Dim::Named(_) if given == 0 => return Err(unfit(" with lengths of 1 or more".into())),
            Dim::Named(name) => {
                let first = *named.entry(name).or_insert(given);
                if first != given {
                    return Err(unfit(format!("; `{name}` is {first} in this request already")));
                }
            }
        }
        shape.push(given);
    }
    Ok(shape)
}

fn read_tensor(
    input: Input<'_>,
    spec: &TensorSpec,
    shape: Vec<usize>,
    limits: &Limits,
) -> Result<Tensor, ProtocolError> {
    let name = &input.name;
    let datatype = datatype(&input.datatype).ok_or_else(|| {
        bad(format!("input `{name}` has the unknown datatype `{}`", input.datatype))
    })?;
    if datatype != spec.datatype {
        return Err(bad(format!(
            "input `{name}` has datatype {datatype}, the model takes {}",
            spec.datatype
        )));
    }
    let volume = volume(&shape).filter(|volume| *volume <= limits.elements).ok_or_else(|| {
        let limit = limits.elements;
        bad(format!(
            "input `{name}` of shape {shape:?} has more elements than the limit of {limit}"
        ))
    })?;
    let data = match input.data {
        None => return Err(bad(format!("input `{name}` has no data"))),
        Some(Values::Read(data)) => data,
        Some(Values::Unread(raw)) => numbers::read(raw, datatype, &shape, volume)
            .map_err(|error| bad(format!("the data of input `{name}`: {error}")))?,
    };
    let found = data.len();
    Tensor::new(shape, data).map_err(|_| {
        bad(format!(
            "input `{name}` has {found} elements, its shape {:?} asks for {volume}",
            input.shape
        ))
    })
}

fn datatype(name: &str) -> Option<Datatype> {
    Datatype::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name))
        .ok()
}
