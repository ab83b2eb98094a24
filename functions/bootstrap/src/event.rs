//! From Lambda's events to the protocol and back.
//!
//! Function URLs and HTTP APIs (`http_api`), API Gateway's REST APIs and load balancers (`lambda_http`)
//! wrap an HTTP request; a direct `Invoke` may bring the infer request itself.

use std::pin::Pin;
use std::time::Instant;

use http::Response;
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, IntoResponse, Request, RequestExt};
use lambda_runtime::{Context, Diagnostic, LambdaEvent, Service as _, service_fn};
use serde::{Deserialize, Deserializer};
use serde_json::value::{RawValue, to_raw_value};
use slsml_inference::{Answer, ProtocolError, Service};

use crate::http_api::{self, HttpApi, Parts};
use crate::outcome::Outcome;

/// What Lambda brings.
pub(crate) struct Event {
    arrived: Instant,
    payload: Payload,
}

/// Read from the bytes that arrived, and all that is kept of them.
enum Payload {
    HttpApi(HttpApi),
    Http(Box<LambdaRequest>),
    /// Something else that is wrapped, or damaged.
    Unfit(String),
    Bare(Box<RawValue>),
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Event, D::Error> {
        let arrived = Instant::now();
        let event = <&RawValue>::deserialize(json)?;
        Ok(Event { arrived, payload: Payload::of(event) })
    }
}

impl Payload {
    fn of(event: &RawValue) -> Payload {
        let parts = serde_json::from_str::<Parts<'_>>(event.get()).ok();
        let Some(parts) = parts.filter(|parts| parts.context.is_some()) else {
            return Payload::Bare(event.to_owned());
        };
        let read = match parts.request() {
            Some(request) => request.map(Payload::HttpApi),
            None => unwrapped(event.get(), parts.path.is_some()).map(Payload::Http),
        };
        read.unwrap_or_else(|error| Payload::Unfit(error.to_string()))
    }
}

/// The event's HTTP request. lambda_http would try the other kinds first, and a body of megabytes
/// is read as often.
fn unwrapped(event: &str, is_format_2: bool) -> Result<Box<LambdaRequest>, serde_json::Error> {
    if is_format_2 {
        serde_json::from_str(event).map(LambdaRequest::ApiGatewayV2).map(Box::new)
    } else {
        serde_json::from_str(event)
    }
}

/// Answers one event and logs what became of it.
pub(crate) async fn answer(
    service: &Service,
    event: LambdaEvent<Event>,
    cold: bool,
) -> Result<Box<RawValue>, Diagnostic> {
    let LambdaEvent { payload: Event { arrived, payload }, context } = event;
    let request_id = context.request_id.clone();
    let resource = resource(&context.invoked_function_arn);
    let Answered { status, error, reply, predictions } = match payload {
        Payload::HttpApi(HttpApi { method, path, body }) => {
            let answer = service.answer(method, protocol_path(&path), body);
            let reply = http_api::reply(&answer).map_err(|error| internal(&error));
            Answered::with(&answer, reply)
        }
        Payload::Http(request) => http(service, *request, context).await?,
        Payload::Unfit(cause) => answered(ProtocolError::BadRequest(cause).into()),
        Payload::Bare(request) => bare(service, request),
    };
    Outcome {
        request_id: &request_id,
        resource: &resource,
        status,
        failed_invocation: reply.is_err(),
        latency: arrived.elapsed(),
        cold,
        error,
        predictions: &predictions,
    }
    .log();
    reply
}

/// `function:alias`, as CloudWatch names what was invoked; just the function without a qualifier.
fn resource(arn: &str) -> String {
    arn.split_once(":function:").map_or(arn, |(_, resource)| resource).to_owned()
}

type Reply = Result<Box<RawValue>, Diagnostic>;

/// What was answered.
struct Answered {
    status: u16,
    /// The error's text, if it was one.
    error: Option<String>,
    reply: Reply,
    predictions: Vec<u8>,
}

impl Answered {
    fn with(answer: &Answer, reply: Reply) -> Answered {
        let predictions = answer.predictions.clone();
        Answered { status: answer.status, error: error_text(answer), reply, predictions }
    }
}

fn answered(mut answer: Answer) -> Answered {
    let (status, error) = (answer.status, error_text(&answer));
    let predictions = std::mem::take(&mut answer.predictions);
    Answered { status, error, reply: raw(answer.body), predictions }
}

/// An infer request as the whole payload. There is no status to carry: a request at fault is
/// answered with the protocol's error body, a failing model fails the invocation.
fn bare(service: &Service, request: Box<RawValue>) -> Answered {
    match service.infer(String::from(Box::<str>::from(request))) {
        Ok(answer) => answered(answer),
        Err(error @ ProtocolError::Failed(_)) => {
            let error_message = error.message();
            let diagnostic = Diagnostic {
                error_type: "ModelFailed".into(),
                error_message: error_message.clone(),
            };
            let (status, reply) = (error.status(), Err(diagnostic));
            Answered { status, error: Some(error_message), reply, predictions: Vec::new() }
        }
        Err(error) => answered(error.into()),
    }
}

fn raw(json: Vec<u8>) -> Reply {
    let text = String::from_utf8(json).map_err(|error| internal(&error.to_string()))?;
    RawValue::from_string(text).map_err(|error| internal(&error.to_string()))
}

fn internal(cause: &str) -> Diagnostic {
    Diagnostic { error_type: "Internal".into(), error_message: cause.into() }
}

async fn http(
    service: &Service,
    request: LambdaRequest,
    context: Context,
) -> Result<Answered, Diagnostic> {
    let mut outcome = None;
    let reply = {
        let handler = service_fn(|request: Request| {
            let answer = route(service, request);
            let predictions = answer.predictions.clone();
            outcome = Some((answer.status, error_text(&answer), predictions));
            async move { response(answer) }
        });
        let event = LambdaEvent { payload: request, context };
        let response = Adapter::from(handler).call(event).await;
        response.and_then(|response| {
            to_raw_value(&response).map_err(|error| internal(&error.to_string()))
        })
    };
    let answered = outcome.ok_or_else(|| internal("the request was not answered"))?;
    let (status, error, predictions) = answered;
    Ok(Answered { status, error, reply, predictions })
}

fn response(answer: Answer) -> Result<Json, Diagnostic> {
    let status = http::StatusCode::from_u16(answer.status)
        .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let body = String::from_utf8(answer.body).map_err(|error| internal(&error.to_string()))?;
    Ok(Json { status, body })
}

/// JSON as it is. Of other bodies lambda_http asks their character set and copies them.
struct Json {
    status: http::StatusCode,
    body: String,
}

impl IntoResponse for Json {
    fn into_response(self) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        let mut response = Response::new(Body::Text(self.body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Box::pin(std::future::ready(response))
    }
}

fn route(service: &Service, request: Request) -> Answer {
    let method = http_api::method(request.method().as_str());
    let path = request.raw_http_path().to_owned();
    service.answer(method, protocol_path(&path), request.into_body())
}

/// A stage or a base path may stand before the protocol's own `/v2`.
fn protocol_path(path: &str) -> &str {
    let mut at = 0;
    for part in path.split_inclusive('/') {
        if part.trim_end_matches('/') == "v2" {
            return path.get(at.max(1) - 1..).unwrap_or(path);
        }
        at += part.len();
    }
    path
}

/// The text of an error's body; `None` when the answer is no error.
fn error_text(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        error: String,
    }
    (answer.status >= 400).then(|| {
        serde_json::from_slice(&answer.body).map_or_else(
            |_| String::from_utf8_lossy(&answer.body).into_owned(),
            |body: Body| body.error,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::protocol_path;

    #[test]
    fn what_stands_before_the_protocol_is_skipped() {
        assert_eq!(protocol_path("/v2/models/m"), "/v2/models/m");
        assert_eq!(protocol_path("/v2"), "/v2");
        assert_eq!(protocol_path("/prod/v2/health/live"), "/v2/health/live");
        assert_eq!(protocol_path("/v1/models"), "/v1/models");
        assert_eq!(protocol_path("/"), "/");
        assert_eq!(protocol_path(""), "");
    }
}
