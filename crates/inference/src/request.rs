//! Reading and validating an infer request.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use slsml_model::{Data, Datatype, Dim, Signature, Tensor, TensorSpec};

use crate::lift::lift;
use crate::numbers;
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

#[derive(Deserialize)]
#[serde(expecting = "an object with `inputs`")]
struct Body<'a> {
    id: Option<String>,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    outputs: Option<Vec<Output>>,
}

/// An input as it is given.
#[derive(Deserialize)]
#[serde(expecting = "an input with `name`, `shape`, `datatype` and `data`")]
struct Input<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
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
        // Errors are worded below: what was lifted is not what was sent.
        if let Some((rest, mut arrays)) = lift(body, signature, limits)
            && let Ok(body) = serde_json::from_slice(&rest)
            && let Ok(request) = Self::fit(body, signature, limits, Some(&mut arrays))
        {
            return Ok(request);
        }
        let body: Body<'_> = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the body is not an infer request: {error}")))?;
        Self::fit(body, signature, limits, None)
    }

    /// With `arrays` an input's data is a place among them.
    fn fit(
        body: Body<'_>,
        signature: &Signature,
        limits: &Limits,
        arrays: Option<&mut [Option<Data>]>,
    ) -> Result<Self, ProtocolError> {
        let outputs = wanted_outputs(body.outputs.as_deref(), signature)?;
        let inputs = bind(body.inputs, signature, limits, arrays)?;
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
    mut arrays: Option<&mut [Option<Data>]>,
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
        tensors.push(read_tensor(input, spec, shape, limits, arrays.as_deref_mut())?);
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
    arrays: Option<&mut [Option<Data>]>,
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
    let missing = || bad(format!("input `{name}` has no data"));
    let raw = input.data.ok_or_else(missing)?;
    let data = match arrays {
        Some(arrays) => {
            let place = raw.get().parse::<usize>().ok().and_then(|place| arrays.get_mut(place));
            place.and_then(Option::take).ok_or_else(missing)?
        }
        None => numbers::read(raw, datatype, &shape, volume)
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
