//! CloudWatch Logs, as far as it is read.
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html>

use axum::body::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::{Line, Logs};
use crate::error::{AwsError, AwsResult};

/// How many events a page has at most.
const PAGE: u64 = 10_000;

/// Answers one call.
pub(crate) fn answer(logs: &Logs, parts: &Parts, body: &[u8]) -> Response<Bytes> {
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    let operation = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default();
    let request = serde_json::from_slice(body).map_err(AwsError::invalid);
    let result = request.and_then(|request| match operation {
        "FilterLogEvents" => filter(logs, &request),
        other => Err(AwsError::not_offered(other)),
    });
    let (status, value) = match result {
        Ok(value) => (200, value),
        Err(error) => {
            // Refusals of this API are 400 where Lambda's are 404.
            let status = if error.status < 500 { 400 } else { error.status };
            (status, json!({ "__type": error.code, "message": error.message }))
        }
    };
    let mut response = Response::new(Bytes::from(value.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/x-amz-json-1.1");
    response.headers_mut().insert("content-type", json);
    response
}

fn filter(logs: &Logs, request: &Value) -> AwsResult<Value> {
    let group = request["logGroupName"].as_str().unwrap_or_default();
    let missing = || AwsError::not_found("The specified log group does not exist.");
    let lines = logs.lines(group).ok_or_else(missing)?;
    if request["filterPattern"].as_str().is_some_and(|pattern| !pattern.is_empty()) {
        return Err(AwsError::not_offered("filterPattern"));
    }
    let number = |name: &str| request[name].as_u64();
    let (start, end) = (number("startTime").unwrap_or(0), number("endTime").unwrap_or(u64::MAX));
    let prefix = request["logStreamNamePrefix"].as_str().unwrap_or_default();
    let after = request["nextToken"].as_str().and_then(|token| token.parse::<u64>().ok());
    let most = number("limit").unwrap_or(PAGE).clamp(1, PAGE) as usize;
    let is_wanted = |line: &&Line| {
        line.millis >= start
            && line.millis < end
            && line.id > after.unwrap_or(0)
            && line.stream.starts_with(prefix)
    };
    let mut found: Vec<&Line> = lines.iter().filter(is_wanted).take(most + 1).collect();
    let more = found.len() > most;
    found.truncate(most);
    let events: Vec<Value> = found
        .iter()
        .map(|line| {
            json!({
                "eventId": format!("{:056}", line.id),
                "logStreamName": line.stream,
                "timestamp": line.millis,
                "ingestionTime": line.millis,
                "message": format!("{}\n", line.text),
            })
        })
        .collect();
    let mut value = json!({ "events": events, "searchedLogStreams": [] });
    if let Some(last) = found.last().filter(|_| more) {
        value["nextToken"] = json!(last.id.to_string());
    }
    Ok(value)
}
