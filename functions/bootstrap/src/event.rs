//! From Lambda's events to the protocol and back.
//!
//! Function URLs, API Gateway (v1 and v2) and load balancers wrap an HTTP request; a direct
//! `Invoke` may bring the infer request itself.

use std::time::Instant;

use http::Response;
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Request, RequestExt};
use lambda_runtime::{Diagnostic, LambdaEvent, Service as _, service_fn};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::{RawValue, to_raw_value};
use slsml_inference::{Answer, Method, ProtocolError, Service};

use crate::outcome::Outcome;

/// What tells the kinds of event apart.
#[derive(Deserialize)]
struct Shape {
    /// Every wrapped HTTP request has one.
    #[serde(rename = "requestContext")]
    request_context: Option<IgnoredAny>,
    /// Function URLs and HTTP APIs say the path so: payload format 2.0.
    #[serde(rename = "rawPath")]
    raw_path: Option<IgnoredAny>,
}

/// Answers one event and logs what became of it.
pub(crate) async fn answer(
    service: &Service,
    event: LambdaEvent<Box<RawValue>>,
    cold: bool,
) -> Result<Box<RawValue>, Diagnostic> {
    let started = Instant::now();
    let request_id = event.context.request_id.clone();
    let payload = event.payload.get();
    let shape = serde_json::from_str::<Shape>(payload).ok();
    let wrapped = shape.filter(|shape| shape.request_context.is_some());
    let resource = resource(&event.context.invoked_function_arn);
    let (status, error, reply) = match wrapped {
        Some(shape) => http(service, event, shape.raw_path.is_some()).await?,
        None => bare(service, payload),
    };
    Outcome {
        request_id: &request_id,
        resource: &resource,
        status,
        failed_invocation: reply.is_err(),
        latency: started.elapsed(),
        cold,
        error,
    }
    .log();
    reply
}

/// `function:alias`, as CloudWatch names what was invoked; just the function without a qualifier.
fn resource(arn: &str) -> String {
    arn.split_once(":function:").map_or(arn, |(_, resource)| resource).to_owned()
}

type Reply = Result<Box<RawValue>, Diagnostic>;

/// The status answered, the error's text if it was one, and what goes back.
type Answered = (u16, Option<String>, Reply);

fn answered(answer: Answer) -> Answered {
    (answer.status, error_text(&answer), raw(answer.body))
}

/// An infer request as the whole payload. There is no status to carry: a request at fault is
/// answered with the protocol's error body, a failing model fails the invocation.
fn bare(service: &Service, payload: &str) -> Answered {
    match service.infer(payload.as_bytes()) {
        Ok(body) => answered(Answer { status: 200, body }),
        Err(error @ ProtocolError::Failed(_)) => {
            let error_message = error.message();
            let diagnostic = Diagnostic {
                error_type: "ModelFailed".into(),
                error_message: error_message.clone(),
            };
            (error.status(), Some(error_message), Err(diagnostic))
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

/// The event's HTTP request. lambda_http would try the other kinds first, and a body of megabytes
/// is read as often.
fn unwrapped(payload: &str, is_format_2: bool) -> Result<LambdaRequest, serde_json::Error> {
    if is_format_2 {
        serde_json::from_str(payload).map(LambdaRequest::ApiGatewayV2)
    } else {
        serde_json::from_str(payload)
    }
}

async fn http(
    service: &Service,
    event: LambdaEvent<Box<RawValue>>,
    is_format_2: bool,
) -> Result<Answered, Diagnostic> {
    let LambdaEvent { payload, context } = event;
    let unwrapped = unwrapped(payload.get(), is_format_2);
    // The model's tensors can have its memory.
    drop(payload);
    let payload = match unwrapped {
        Ok(payload) => payload,
        Err(error) => return Ok(answered(ProtocolError::BadRequest(error.to_string()).into())),
    };
    let mut outcome = None;
    let reply = {
        let handler = service_fn(|request: Request| {
            let answer = route(service, request);
            outcome = Some((answer.status, error_text(&answer)));
            async move { response(answer) }
        });
        let event = LambdaEvent { payload, context };
        let response = Adapter::from(handler).call(event).await;
        response.and_then(|response| {
            to_raw_value(&response).map_err(|error| internal(&error.to_string()))
        })
    };
    let (status, error) = outcome.ok_or_else(|| internal("the request was not answered"))?;
    Ok((status, error, reply))
}

fn response(answer: Answer) -> Result<Response<String>, Diagnostic> {
    let body = String::from_utf8(answer.body).map_err(|error| internal(&error.to_string()))?;
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(answer.status)
        .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn route(service: &Service, request: Request) -> Answer {
    let method = match *request.method() {
        http::Method::GET | http::Method::HEAD => Method::Get,
        http::Method::POST => Method::Post,
        _ => Method::Other,
    };
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
