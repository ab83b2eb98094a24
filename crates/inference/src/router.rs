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

/// What is sent back. The body is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON body.
    pub body: Vec<u8>,
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
}

impl From<ProtocolError> for Answer {
    fn from(error: ProtocolError) -> Self {
        Self { status: error.status(), body: error.body(), predictions: Vec::new() }
    }
}

impl Service {
    /// The answer to one HTTP request. `path` is without the query.
    pub fn answer(&self, method: Method, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.route(method, path, body).unwrap_or_else(Answer::from)
    }

    /// Runs one infer request: a JSON body in, a JSON body out.
    pub fn infer(&self, body: impl AsRef<[u8]>) -> Result<Answer, ProtocolError> {
        let signature = self.model.signature();
        let request = InferRequest::parse(body.as_ref(), signature, &self.limits)?;
        // The run can have its memory.
        drop(body);
        let tensors = self.model.run(request.inputs).map_err(|error| match error {
            RunError::Failed(_) | RunError::Panicked(_) => ProtocolError::Failed(error.to_string()),
        })?;
        let body = InferAnswer {
            model_name: &self.name,
            model_version: &self.version,
            id: request.id.as_deref(),
            signature,
            outputs: &request.outputs,
            tensors: &tensors,
        }
        .to_json()?;
        Ok(Answer { status: 200, body, predictions: self.predictions(&tensors) })
    }

    fn predictions(&self, tensors: &[Tensor]) -> Vec<u8> {
        let Some(counted) = &self.counted else { return Vec::new() };
        let mut outputs = self.model.signature().outputs.iter().zip(tensors);
        let found = outputs.find(|(spec, _)| spec.name == counted.output);
        found.map(|(_, tensor)| counted.bins(tensor)).unwrap_or_default()
    }

    fn route(
        &self,
        method: Method,
        path: &str,
        body: impl AsRef<[u8]>,
    ) -> Result<Answer, ProtocolError> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let read = |value: Value| match method {
            Method::Get => {
                let body = value.to_string().into_bytes();
                Ok(Answer { status: 200, body, predictions: Vec::new() })
            }
            _ => Err(ProtocolError::MethodNotAllowed(format!("{path} takes GET"))),
        };
        match parts.as_slice() {
            ["v2"] => read(metadata::server()),
            ["v2", "health", "live"] => read(json!({ "live": true })),
            ["v2", "health", "ready"] => read(json!({ "ready": true })),
            ["v2", "models", rest @ ..] => match self.in_model(rest)? {
                [] => read(metadata::model(&self.name, &self.version, self.model.signature())),
                ["ready"] => read(json!({ "name": self.name, "ready": true })),
                ["infer"] if method == Method::Post => self.infer(body),
                ["infer"] => Err(ProtocolError::MethodNotAllowed(format!("{path} takes POST"))),
                _ => Err(not_found(path)),
            },
            _ => Err(not_found(path)),
        }
    }

    /// What follows `NAME[/versions/V]` when both are this model's.
    fn in_model<'p, 's>(&self, parts: &'s [&'p str]) -> Result<&'s [&'p str], ProtocolError> {
        let unknown = |what: String| Err(ProtocolError::NotFound(what));
        match parts {
            [name, ..] if *name != self.name => {
                unknown(format!("no model `{name}`; this is `{}`", self.name))
            }
            [_, "versions", version, ..] if *version != self.version => {
                unknown(format!("no version `{version}`; this is `{}`", self.version))
            }
            [_, "versions", _, rest @ ..] => Ok(rest),
            [_, rest @ ..] => Ok(rest),
            [] => unknown(format!("name a model: /v2/models/{}", self.name)),
        }
    }
}

fn not_found(path: &str) -> ProtocolError {
    ProtocolError::NotFound(format!("nothing is at {path}; see /v2"))
}
