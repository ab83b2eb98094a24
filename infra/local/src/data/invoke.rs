//! The Invoke call: synchronous, as an event, or dry.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Response, StatusCode};

use super::fleet::{Fleet, Invocation, Invoked};
use crate::error::{AwsError, AwsResult};
use crate::ids;

/// What a synchronous request may carry.
pub(crate) const SYNC_LIMIT: usize = 6_291_456;

/// What an event may carry.
const EVENT_LIMIT: usize = 1_048_576;

/// How often a failed event is tried again, and after how long.
const EVENT_RETRIES: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(120)];

/// How long a throttled event is kept before it is dropped, and how often it is tried.
const EVENT_THROTTLED: (u32, Duration) = (300, Duration::from_secs(1));

pub(crate) async fn invoke(
    fleet: &Arc<Fleet>,
    function: String,
    qualifier: Option<String>,
    headers: &HeaderMap,
    payload: Bytes,
) -> AwsResult<Response<Bytes>> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = header("x-amz-invocation-type").unwrap_or("RequestResponse");
    let limit = if kind == "Event" { EVENT_LIMIT } else { SYNC_LIMIT };
    if payload.len() > limit {
        return Err(AwsError::payload_too_large(format!(
            "Request must be smaller than {limit} bytes for the InvokeFunction operation"
        )));
    }
    let payload = if payload.is_empty() { Bytes::from_static(b"{}") } else { payload };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&payload) {
        return Err(AwsError::malformed(format!(
            "Could not parse request body into json: {error}"
        )));
    }
    let with_tail = header("x-amz-log-type") == Some("Tail");
    let request_id = ids::uuid();
    let asked = Invocation { function, qualifier, payload, request_id, with_tail };
    match kind {
        "RequestResponse" => {
            let request_id = asked.request_id.clone();
            let invoked = finish(fleet, asked).await?;
            Ok(answer(&request_id, invoked, with_tail))
        }
        "Event" => {
            fleet.check(&asked.function, asked.qualifier.as_deref())?;
            let response = plain(StatusCode::ACCEPTED, &asked.request_id);
            tokio::spawn(deliver(fleet.clone(), asked));
            Ok(response)
        }
        "DryRun" => {
            fleet.check(&asked.function, asked.qualifier.as_deref())?;
            Ok(plain(StatusCode::NO_CONTENT, &asked.request_id))
        }
        other => Err(AwsError::invalid(format!("Unknown invocation type {other}"))),
    }
}

/// Runs a request to its end even if the caller goes away, as Lambda does.
pub(crate) async fn finish(fleet: &Arc<Fleet>, asked: Invocation) -> AwsResult<Invoked> {
    let fleet = fleet.clone();
    let task = tokio::spawn(async move { fleet.invoke(&asked).await });
    task.await.map_err(AwsError::internal)?
}

fn plain(status: StatusCode, request_id: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    set(&mut response, "x-amzn-requestid", request_id);
    response
}

fn set(response: &mut Response<Bytes>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

fn answer(request_id: &str, invoked: Invoked, with_tail: bool) -> Response<Bytes> {
    let mut response = plain(StatusCode::OK, request_id);
    set(&mut response, "content-type", "application/json");
    set(&mut response, "x-amz-executed-version", &invoked.version);
    if invoked.failed {
        set(&mut response, "x-amz-function-error", "Unhandled");
    }
    if with_tail {
        set(&mut response, "x-amz-log-result", &STANDARD.encode(&invoked.log_tail));
    }
    *response.body_mut() = invoked.payload;
    response
}

/// An event is tried until it succeeds or its retries are used up. Events wait in memory: they
/// end with the local cloud.
async fn deliver(fleet: Arc<Fleet>, asked: Invocation) {
    let mut retries = EVENT_RETRIES.into_iter();
    let (mut patience, pause) = EVENT_THROTTLED;
    loop {
        match fleet.invoke(&asked).await {
            Ok(invoked) if !invoked.failed => return,
            Ok(_) => match retries.next() {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return,
            },
            Err(error) if error.status == 429 && patience > 0 => {
                patience -= 1;
                tokio::time::sleep(pause).await;
            }
            Err(_) => return,
        }
    }
}
