//! From method, path and body to an answer.

use serde_json::{Value, json};
use slsml_model::{CountedOutput, Model, RunError, Tensor};

use crate::{InferAnswer, InferRequest, Limits, ProtocolError, metadata};

/// The methods the protocol uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Runs the model.
    Post,
    /// Anything else.
    Other,
}

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body: JSON.
    pub body: Vec<u8>,
    /// How much of the body is JSON, if elements of tensors follow it as bytes.
    pub json_length: Option<usize>,
    /// The class or range each item's answer fell into, where that is counted.
    pub predictions: Vec<u8>,
}

/// One model under one name.
#[derive(Clone, Debug)]
pub struct Service {
    /// The name in paths.
    pub name: String,
    /// The version in paths.
    pub version: String,
    /// What runs.
    pub model: Model,
    /// What a request may ask for.
    pub limits: Limits,
    /// Which answers are counted.
    pub counted: Option<CountedOutput>,
    /// The protocol's extensions that whoever carries requests offers.
    pub extensions: &'static [&'static str],
}

/// What a method and a path ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Something that is known.
    Known(Answer),
    /// A run of the model.
    Infer,
}

impl From<ProtocolError> for Answer {
    fn from(error: ProtocolError) -> Self {
        Self::json(error.status(), error.body())
    }
}

impl Answer {
    fn json(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, body, json_length: None, predictions: Vec::new() }
    }
}

impl Service {
    /// The answer to one HTTP request. `path` is without the query.
    pub fn answer(&self, method: Method, path: &str, body: impl AsRef<[u8]>) -> Answer {
        match self.route(method, path) {
            Ok(Route::Known(answer)) => answer,
            Ok(Route::Infer) => self.infer(body).unwrap_or_else(Answer::from),
            Err(error) => error.into(),
        }
    }

    /// Runs one infer request: a JSON body in, a JSON body out.
    pub fn infer(&self, body: impl AsRef<[u8]>) -> Result<Answer, ProtocolError> {
        let mut request = InferRequest::parse(body.as_ref(), self.model.signature(), &self.limits)?;
        // The run can have its memory.
        drop(body);
        let inputs = std::mem::take(&mut request.inputs);
        let tensors = self.model.run(inputs).map_err(|error| failed(&error))?;
        self.infer_answer(&request, &tensors)
    }

    /// The answer to a request that the model answered so.
    pub fn infer_answer(
        &self,
        request: &InferRequest,
        tensors: &[Tensor],
    ) -> Result<Answer, ProtocolError> {
        let (body, json_length) = self.named(request, tensors).to_bytes()?;
        Ok(Answer { status: 200, body, json_length, predictions: self.predictions(tensors) })
    }

    /// The model's answer with what it is to be called.
    pub fn named<'a>(
        &'a self,
        request: &'a InferRequest,
        tensors: &'a [Tensor],
    ) -> InferAnswer<'a> {
        InferAnswer {
            model_name: &self.name,
            model_version: &self.version,
            id: request.id.as_deref(),
            signature: self.model.signature(),
            outputs: &request.outputs,
            tensors,
        }
    }

    /// The class or range each item's answer fell into, where that is counted.
    pub fn predictions(&self, tensors: &[Tensor]) -> Vec<u8> {
        let Some(counted) = &self.counted else { return Vec::new() };
        let mut outputs = self.model.signature().outputs.iter().zip(tensors);
        let found = outputs.find(|(spec, _)| spec.name == counted.output);
        found.map(|(_, tensor)| counted.bins(tensor)).unwrap_or_default()
    }

    /// What a method and a path ask for.
    pub fn route(&self, method: Method, path: &str) -> Result<Route, ProtocolError> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let read = |value: Value| match method {
            Method::Get => Ok(Route::Known(Answer::json(200, value.to_string().into_bytes()))),
            _ => Err(not_allowed(path, "GET")),
        };
        match parts.as_slice() {
            ["v2"] => read(metadata::server(self.extensions)),
            ["v2", "health", "live"] => read(json!({ "live": true })),
            ["v2", "health", "ready"] => read(json!({ "ready": true })),
            ["v2", "models", rest @ ..] => match self.in_model(rest)? {
                [] => read(metadata::model(&self.name, &self.version, self.model.signature())),
                ["ready"] => read(json!({ "name": self.name, "ready": true })),
                ["infer"] if method == Method::Post => Ok(Route::Infer),
                ["infer"] => Err(not_allowed(path, "POST")),
                _ => Err(not_found(path)),
            },
            _ => Err(not_found(path)),
        }
    }

    /// What follows `NAME[/versions/V]` when both are this model's.
    fn in_model<'p, 's>(&self, parts: &'s [&'p str]) -> Result<&'s [&'p str], ProtocolError> {
        let [name, rest @ ..] = parts else {
            let named = format!("name a model: /v2/models/{}", self.name);
            return Err(ProtocolError::NotFound(named));
        };
        match rest {
            ["versions", version, rest @ ..] => self.check_name(name, version).map(|()| rest),
            rest => self.check_name(name, "").map(|()| rest),
        }
    }

    /// Refuses another model's name, or another version than this if one is named.
    pub fn check_name(&self, name: &str, version: &str) -> Result<(), ProtocolError> {
        let unknown = |what: &str, name: &str, this: &str| {
            Err(ProtocolError::NotFound(format!("no {what} `{name}`; this is `{this}`")))
        };
        if name != self.name {
            return unknown("model", name, &self.name);
        }
        if !version.is_empty() && version != self.version {
            return unknown("version", version, &self.version);
        }
        Ok(())
    }
}

/// A run that failed, as the protocol says it.
pub fn failed(error: &RunError) -> ProtocolError {
    match error {
        RunError::Failed(_) | RunError::Panicked(_) => ProtocolError::Failed(error.to_string()),
    }
}

fn not_allowed(path: &str, takes: &'static str) -> ProtocolError {
    ProtocolError::MethodNotAllowed { path: path.into(), takes }
}

fn not_found(path: &str) -> ProtocolError {
    ProtocolError::NotFound(format!("nothing is at {path}; see /v2"))
}
