//! What containers printed, from Cloud Logging; and the metric that counts what models answered.
//! <https://cloud.google.com/logging/docs/reference/v2/rest>

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use slsml_release::ports::{LogLine, LogQuery};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{CloudRunError, Google, ServiceTarget, service};

/// The log-based metric's name: its filter and its label are slsml's own.
pub const ANSWERS: &str = "slsml_answers";

/// The metric's name in Cloud Monitoring.
pub(crate) const METRIC_TYPE: &str = "logging.googleapis.com/user/slsml_answers";

/// The metric's label: the class or range of an answer, counted from 0, or [`FAILED`].
pub(crate) const LABEL: &str = "answer";

/// What a gRPC request has there that failed: its HTTP status is 200.
pub(crate) const FAILED: &str = "failed";

impl ServiceTarget {
    /// Lines of containers, the oldest first.
    pub async fn logs(&self, query: &LogQuery<'_>) -> Result<Vec<LogLine>, CloudRunError> {
        let (google, most) = (&self.google, query.most);
        let from = OffsetDateTime::from_unix_timestamp_nanos(query.from.as_nanos().cast_signed());
        let from = from.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
        // Google's own lines about requests and changes have other logs.
        let mut filter = format!(
            "resource.type=\"cloud_run_revision\" AND logName:\"run.googleapis.com%2Fstd\" AND \
             resource.labels.service_name=\"{}\" AND resource.labels.location=\"{}\" AND \
             timestamp>=\"{from}\"",
            self.service,
            google.region(),
        );
        if let Some(revision) = query.revision.filter(|name| is_name(name)) {
            filter.push_str(&format!(" AND resource.labels.revision_name=\"{revision}\""));
        } else if query.revision.is_some() {
            return Ok(Vec::new());
        }
        let mut body = json!({
            "resourceNames": [format!("projects/{}", google.project())],
            "filter": filter,
            "orderBy": "timestamp desc",
            "pageSize": most.min(1000),
        });
        let url = google.logging_url("entries:list");
        let mut lines = VecDeque::new();
        while lines.len() < most {
            let page = google.call("ListLogEntries", Method::POST, &url, &[], Some(&body)).await?;
            let entries = page["entries"].as_array().into_iter().flatten();
            for entry in entries.take(most - lines.len()) {
                lines.push_front(line(entry)?);
            }
            match page["nextPageToken"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => body["pageToken"] = json!(token),
                None => break,
            }
        }
        if lines.is_empty() {
            service::existing(google, &self.service).await?;
        }
        Ok(lines.into())
    }
}

/// Whether a revision may have that name: others could say something else in a filter.
fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn line(entry: &Value) -> Result<LogLine, CloudRunError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = OffsetDateTime::parse(&text(&entry["timestamp"]), &Rfc3339).ok();
    let time = time.and_then(|time| u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok());
    let missing = CloudRunError::Incomplete { call: "ListLogEntries", field: "timestamp" };
    Ok(LogLine {
        id: text(&entry["insertId"]),
        time: Duration::from_millis(time.ok_or(missing)?),
        revision: text(&entry["resource"]["labels"]["revision_name"]),
        severity: entry["severity"].as_str().map(str::to_owned),
        text: said(entry),
    })
}

/// An entry in a line: what it says, the request it is about, and what else is in it.
fn said(entry: &Value) -> String {
    let mut parts = Vec::new();
    let request = &entry["httpRequest"];
    if request.is_object() {
        let text = |name: &str| match &request[name] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let all = ["requestMethod", "requestUrl", "status", "latency"].map(text);
        parts.push(all.join(" ").trim().to_owned());
    }
    let mut payload = entry["jsonPayload"].as_object().cloned().unwrap_or_default();
    let message = payload.remove("message");
    let message = message.as_ref().and_then(Value::as_str).or(entry["textPayload"].as_str());
    parts.extend(message.map(|text| text.trim_end().to_owned()));
    if !payload.is_empty() {
        parts.push(Value::Object(payload).to_string());
    }
    parts.join(" ")
}

/// The metric as it is to be.
fn wanted() -> Value {
    json!({
        "name": ANSWERS,
        "description": "Answers of models that slsml serves, by their class or range",
        "filter": "resource.type=\"cloud_run_revision\" AND jsonPayload.slsml.answer:*",
        "labelExtractors": { LABEL: "EXTRACT(jsonPayload.slsml.answer)" },
        "metricDescriptor": {
            "metricKind": "DELTA",
            "valueType": "INT64",
            "unit": "1",
            "labels": [{ "key": LABEL, "valueType": "STRING", "description": "Class or range" }],
        },
    })
}

/// Whether answers of models are counted in this project.
pub async fn counts_answers(google: &Google) -> Result<bool, CloudRunError> {
    let url = google.logging_url(&format!("projects/{}/metrics/{ANSWERS}", google.project()));
    let found = match google.call("GetLogMetric", Method::GET, &url, &[], None).await {
        Err(error) if error.is_not_found() => return Ok(false),
        other => other?,
    };
    let same = ["filter", "labelExtractors"].into_iter().all(|it| found[it] == wanted()[it]);
    match same && found["disabled"] != true {
        true => Ok(true),
        false => Err(CloudRunError::Failed {
            what: format!("reading the log-based metric {ANSWERS}"),
            reason: "somebody changed or disabled it, and it counts something else now".into(),
        }),
    }
}

/// Has answers of models counted from now on.
pub async fn count_answers(google: &Google) -> Result<(), CloudRunError> {
    let url = google.logging_url(&format!("projects/{}/metrics", google.project()));
    match google.call("CreateLogMetric", Method::POST, &url, &[], Some(&wanted())).await {
        // Somebody else was faster, or the answer was lost.
        Err(CloudRunError::Refused { status: 409, .. }) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line() {
        let request = json!({ "requestMethod": "POST", "requestUrl": "/v2/models/m/infer", "status": 200, "latency": "0.001s" });
        let access =
            json!({ "httpRequest": request, "jsonPayload": { "slsml": { "answer": "3" } } });
        assert_eq!(said(&access), r#"POST /v2/models/m/infer 200 0.001s {"slsml":{"answer":"3"}}"#);
        assert_eq!(said(&json!({ "textPayload": "ready\n" })), "ready");
        let failed = json!({ "jsonPayload": { "message": "cannot", "error": "why" } });
        assert_eq!(said(&failed), r#"cannot {"error":"why"}"#);
        assert!(line(&json!({ "textPayload": "without a time" })).is_err());
    }
}
