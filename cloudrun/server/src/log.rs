//! Logs are JSON, one object a line, on standard output, with the fields Cloud Logging knows:
//! <https://cloud.google.com/logging/docs/structured-logging>.

use std::io::Write;
use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::exchange::{Asked, Ended};

/// Writes one line. This and nothing else in the binary prints.
pub(crate) fn line(value: &Value) {
    let mut text = value.to_string();
    text.push('\n');
    // Nobody is left to tell if the log cannot be written.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

pub(crate) fn error(message: &str, cause: &str) {
    line(&json!({ "severity": "ERROR", "message": message, "error": cause }));
}

pub(crate) fn note(message: &str) {
    line(&json!({ "severity": "INFO", "message": message }));
}

/// A panic becomes a line too; whoever caught it decides what it means.
pub(crate) fn panics_as_json() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("no message");
        line(&json!({ "severity": "CRITICAL", "message": "panic", "error": text, "at": at }));
    }));
}

/// Where a request belongs in a trace: the trace's id and the caller's span, hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace: String,
    pub(crate) span: String,
    /// Whether the caller wants it kept.
    pub(crate) sampled: bool,
}

impl TraceContext {
    /// As the headers say it: W3C's `traceparent`, or Google's own `X-Cloud-Trace-Context`.
    pub(crate) fn of(headers: &HeaderMap) -> Option<TraceContext> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let w3c = |parent: &str| {
            let mut parts = parent.split('-');
            let (_, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
            let flags = parts.next().and_then(|flags| u8::from_str_radix(flags, 16).ok());
            let sampled = flags.is_some_and(|flags| flags & 1 == 1);
            (is_hex(trace, 32) && is_hex(span, 16)).then(|| TraceContext {
                trace: trace.into(),
                span: span.into(),
                sampled,
            })
        };
        if let Some(found) = text("traceparent").and_then(w3c) {
            return Some(found);
        }
        let (trace, rest) = text("x-cloud-trace-context")?.split_once('/')?;
        let (span, options) = rest.split_once(';').unwrap_or((rest, ""));
        let span: u64 = span.parse().ok()?;
        is_hex(trace, 32).then(|| TraceContext {
            trace: trace.into(),
            span: format!("{span:016x}"),
            sampled: options == "o=1",
        })
    }
}

/// What became of one request.
pub(crate) struct Access<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) ended: &'a Ended<'a>,
    pub(crate) latency: Duration,
    pub(crate) trace: Option<&'a TraceContext>,
    pub(crate) project: Option<&'a str>,
}

impl Access<'_> {
    pub(crate) fn log(&self) {
        line(&self.line());
    }

    fn line(&self) -> Value {
        let ended = self.ended;
        let severity = match ended.status {
            500.. => "ERROR",
            400.. => "WARNING",
            _ => "INFO",
        };
        let mut line = json!({
            "severity": severity,
            "httpRequest": {
                "requestMethod": self.asked.method.as_str(),
                "requestUrl": self.asked.path,
                "status": ended.status,
                "requestSize": ended.request_bytes.to_string(),
                "responseSize": ended.response_bytes.to_string(),
                "latency": format!("{:.6}s", self.latency.as_secs_f64()),
            },
        });
        // A log-based metric counts these (cloudrun/deploy's `logs`): a release's checks read it.
        let failed = || ended.failed_unseen(self.asked).then(|| "failed".to_owned());
        if let Some(answer) = ended.prediction().map(|bin| bin.to_string()).or_else(failed) {
            line["slsml"] = json!({ "answer": answer });
        }
        if let Some(error) = ended.error {
            line["message"] = json!(error);
        }
        if let Some(TraceContext { trace, span, .. }) = self.trace {
            let name = match self.project {
                Some(project) => format!("projects/{project}/traces/{trace}"),
                None => trace.clone(),
            };
            line["logging.googleapis.com/trace"] = json!(name);
            line["logging.googleapis.com/spanId"] = json!(span);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn context(name: &'static str, value: &str) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        TraceContext::of(&headers)
    }

    #[test]
    fn traces_are_found_in_both_headers() {
        let (trace, span) = (TRACE.to_owned(), "00f067aa0ba902b7".to_owned());
        let expected = Some(TraceContext { trace, span, sampled: true });
        assert_eq!(context("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01")), expected);
        let google = format!("{TRACE}/{};o=1", 0x00f0_67aa_0ba9_02b7_u64);
        assert_eq!(context("x-cloud-trace-context", &google), expected);
        for wrong in ["", "00", "00-xyz-1-01", "a/b"] {
            assert_eq!(context("traceparent", wrong), None);
            assert_eq!(context("x-cloud-trace-context", wrong), None);
        }
    }
}
