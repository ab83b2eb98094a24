//! Reading and validating an infer request.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use slsml_model::{Data, Datatype, Dim, Signature, Tensor, TensorSpec};

use crate::lift::lift;
use crate::numbers;
use crate::{Limits, ProtocolError, raw};

/// A request that fits the signature: the tensors in the signature's order.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// Echoed in the answer.
    pub id: Option<String>,
    /// One for each input of the signature, in its order.
    pub inputs: Vec<Tensor>,
    /// The outputs asked for, in the order asked.
    pub outputs: Vec<Wanted>,
}

impl InferRequest {
    /// How many bytes its inputs take.
    pub fn bytes(&self) -> usize {
        self.inputs.iter().map(|tensor| tensor.data().bytes()).sum()
    }
}

/// An output that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its place in the signature.
    pub index: usize,
    /// Whether its elements follow the JSON as bytes.
    pub binary: bool,
}

/// An input as it is given.
#[derive(Debug)]
pub struct GivenInput<'a> {
    /// Which input it is.
    pub name: String,
    /// The length of each dimension.
    pub shape: Vec<i64>,
    /// The type of its elements, as the protocol names it.
    pub datatype: String,
    /// Its elements.
    pub elements: Elements<'a>,
}

/// Elements as they are given.
#[derive(Debug)]
pub enum Elements<'a> {
    /// In JSON.
    Json(&'a RawValue),
    /// Bytes, as [`crate::raw`] describes them.
    Raw(&'a [u8]),
    /// Read already.
    Data(Data),
    /// There are none.
    Absent,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with `inputs`")]
struct Body<'a> {
    id: Option<String>,
    #[serde(borrow, deserialize_with = "few")]
    inputs: Vec<Input<'a>>,
    #[serde(default, deserialize_with = "few_or_null")]
    outputs: Vec<Output>,
    #[serde(default, deserialize_with = "null_is_none")]
    parameters: Parameters,
}

#[derive(Deserialize)]
#[serde(expecting = "an input with `name`, `shape`, `datatype` and `data`")]
struct Input<'a> {
    name: String,
    #[serde(deserialize_with = "few")]
    shape: Vec<i64>,
    datatype: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "null_is_none")]
    parameters: Parameters,
}

/// The parameters that mean something here; others are left alone.
#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
    binary_data: Option<bool>,
    binary_data_output: Option<bool>,
}

/// The number of elements, if it can be counted.
fn volume(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |all, dim| all.checked_mul(*dim))
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default, deserialize_with = "null_is_none")]
    parameters: Parameters,
}

/// Clients that know of parameters and have none may say `null`.
fn null_is_none<'de, D: Deserializer<'de>>(json: D) -> Result<Parameters, D::Error> {
    Option::deserialize(json).map(Option::unwrap_or_default)
}

/// How many inputs, outputs or dimensions there may be: two bytes of each may take a hundred in memory.
const FEW: usize = 1024;

/// A list of no more than [`FEW`].
fn few<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Vec<T>, D::Error> {
    struct Few<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of at most {FEW}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                if all.len() == FEW {
                    return Err(A::Error::custom(format!("there are more than {FEW}, the limit")));
                }
                all.push(item);
            }
            Ok(all)
        }
    }

    json.deserialize_seq(Few(std::marker::PhantomData))
}

fn few_or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    json: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(Vec<T>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
        fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
            few(json).map(List)
        }
    }

    let list = Option::<List<T>>::deserialize(json)?;
    Ok(list.map_or_else(Vec::new, |List(all)| all))
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
        check_size(body, limits)?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(bad("the body is empty; an infer request is JSON with `inputs`"));
        }
        // Errors are worded below: what was lifted is not what was sent.
        if let Some((rest, mut arrays)) = lift(body, signature, limits)
            && let Ok(body) = serde_json::from_slice::<Body<'_>>(&rest)
            && let Ok(request) = fit(body, signature, limits, |raw| take(raw, &mut arrays))
        {
            return Ok(request);
        }
        fit(json(body)?, signature, limits, Elements::Json)
    }

    /// The request in a body of so many bytes of JSON, which the elements of tensors follow, in
    /// their order.
    pub fn parse_binary(
        body: &[u8],
        json_length: usize,
        signature: &Signature,
        limits: &Limits,
    ) -> Result<Self, ProtocolError> {
        check_size(body, limits)?;
        let (head, mut rest) = body.split_at_checked(json_length).ok_or_else(|| {
            bad(format!(
                "Inference-Header-Content-Length is {json_length}, the body has {} bytes",
                body.len()
            ))
        })?;
        let body = json(head)?;
        let outputs = wanted_outputs(&body, signature)?;
        let mut inputs = Vec::with_capacity(body.inputs.len());
        for input in body.inputs {
            let elements = match (input.data, input.parameters.binary_data_size) {
                (Some(_), Some(_)) => {
                    return Err(bad(format!(
                        "input `{}` has both `data` and `binary_data_size`",
                        input.name
                    )));
                }
                (Some(data), None) => Elements::Json(data),
                (None, None) => Elements::Absent,
                (None, Some(size)) => {
                    let (mine, others) = rest.split_at_checked(size).ok_or_else(|| {
                        bad(format!(
                            "input `{}` has a binary_data_size of {size}, {} bytes are left",
                            input.name,
                            rest.len()
                        ))
                    })?;
                    rest = others;
                    Elements::Raw(mine)
                }
            };
            let Input { name, shape, datatype, .. } = input;
            inputs.push(GivenInput { name, shape, datatype, elements });
        }
        if !rest.is_empty() {
            return Err(bad(format!("{} bytes follow the last input's", rest.len())));
        }
        Ok(Self { id: body.id, inputs: bind(inputs, signature, limits)?, outputs })
    }

    /// A request from its parts. Outputs that are not named are all wanted.
    pub fn bind(
        id: Option<String>,
        inputs: Vec<GivenInput<'_>>,
        outputs: &[String],
        signature: &Signature,
        limits: &Limits,
    ) -> Result<Self, ProtocolError> {
        let outputs = outputs.iter().map(|name| (name.as_str(), true));
        let outputs = wanted(outputs, true, signature)?;
        Ok(Self { id, inputs: bind(inputs, signature, limits)?, outputs })
    }
}

fn check_size(body: &[u8], limits: &Limits) -> Result<(), ProtocolError> {
    let (size, limit) = (body.len(), limits.body_bytes);
    match size > limit {
        true => {
            Err(ProtocolError::TooLarge(format!("the body has {size} bytes, the limit is {limit}")))
        }
        false => Ok(()),
    }
}

fn json(text: &[u8]) -> Result<Body<'_>, ProtocolError> {
    serde_json::from_slice(text)
        .map_err(|error| bad(format!("the body is not an infer request: {error}")))
}

/// What was lifted out of the text in this place.
fn take<'a>(place: &RawValue, arrays: &mut [Option<Data>]) -> Elements<'a> {
    let place = place.get().parse::<usize>().ok();
    let lifted = place.and_then(|place| arrays.get_mut(place)?.take());
    lifted.map_or(Elements::Absent, Elements::Data)
}

/// The request of a body whose elements are all in JSON, or were.
fn fit<'a>(
    body: Body<'a>,
    signature: &Signature,
    limits: &Limits,
    mut elements: impl FnMut(&'a RawValue) -> Elements<'a>,
) -> Result<InferRequest, ProtocolError> {
    let outputs = wanted_outputs(&body, signature)?;
    let given = |input: Input<'a>| {
        let Input { name, shape, datatype, data, parameters } = input;
        if data.is_none() && parameters.binary_data_size.is_some() {
            return Err(bad(format!(
                "input `{name}` has a binary_data_size, and the header Inference-Header-Content-Length \
                 is missing"
            )));
        }
        let elements = data.map_or(Elements::Absent, &mut elements);
        Ok(GivenInput { name, shape, datatype, elements })
    };
    let inputs = body.inputs.into_iter().map(given).collect::<Result<_, _>>()?;
    Ok(InferRequest { id: body.id, inputs: bind(inputs, signature, limits)?, outputs })
}

fn wanted_outputs(body: &Body<'_>, signature: &Signature) -> Result<Vec<Wanted>, ProtocolError> {
    let all_binary = body.parameters.binary_data_output.unwrap_or(false);
    let named = body.outputs.iter();
    let named = named
        .map(|output| (output.name.as_str(), output.parameters.binary_data.unwrap_or(all_binary)));
    wanted(named, all_binary, signature)
}

fn wanted<'a>(
    named: impl Iterator<Item = (&'a str, bool)>,
    all_binary: bool,
    signature: &Signature,
) -> Result<Vec<Wanted>, ProtocolError> {
    let all = &signature.outputs;
    let mut outputs: Vec<Wanted> = Vec::with_capacity(all.len());
    for (name, binary) in named {
        let index = all.iter().position(|spec| spec.name == name).ok_or_else(|| {
            bad(format!("no output `{name}`; the model gives {}", self::names(all)))
        })?;
        if outputs.iter().any(|output| output.index == index) {
            return Err(bad(format!("output `{name}` is asked for twice")));
        }
        outputs.push(Wanted { index, binary });
    }
    if outputs.is_empty() {
        outputs = (0..all.len()).map(|index| Wanted { index, binary: all_binary }).collect();
    }
    Ok(outputs)
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| format!("`{}`", spec.name)).collect::<Vec<_>>().join(", ")
}

/// The request's inputs in the signature's order, each checked, named dimensions consistent.
fn bind(
    mut given: Vec<GivenInput<'_>>,
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
    input: &GivenInput<'_>,
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
    input: GivenInput<'_>,
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
    let unfit = |error| bad(format!("the data of input `{name}`: {error}"));
    let data = match input.elements {
        Elements::Data(data) => data,
        Elements::Absent => return Err(bad(format!("input `{name}` has no data"))),
        Elements::Raw(bytes) => raw::read(bytes, datatype, volume).map_err(unfit)?,
        Elements::Json(json) => numbers::read(json, datatype, &shape, volume).map_err(unfit)?,
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
