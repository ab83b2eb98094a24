//! One line a request in CloudWatch's embedded metric format: what was answered, how fast, cold
//! or warm.
//!
//! Lambda's own `Errors` counts failed invocations only: a 500 that was returned as an HTTP answer
//! is not one. `ServerErrors` counts exactly those, so that the two never count one failure twice.
//! The format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{init, log};

/// The namespace of every metric the runtime writes.
const NAMESPACE: &str = "slsml";

/// What became of one request.
pub(crate) struct Outcome<'a> {
    pub(crate) request_id: &'a str,
    /// What was invoked: `function:alias`.
    pub(crate) resource: &'a str,
    /// The status answered, or the one a bare infer request would have had.
    pub(crate) status: u16,
    /// The invocation itself failed, so Lambda counts it.
    pub(crate) failed_invocation: bool,
    pub(crate) latency: Duration,
    pub(crate) cold: bool,
    /// The error's text, if there was one.
    pub(crate) error: Option<String>,
    /// The class or range each item's answer fell into.
    pub(crate) predictions: &'a [u8],
}

impl Outcome<'_> {
    /// Writes the line.
    pub(crate) fn log(&self) {
        log::line(&self.line(SystemTime::now()));
    }

    fn line(&self, now: SystemTime) -> Value {
        let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let count = |name: &str| json!({ "Name": name, "Unit": "Count" });
        let mut line = json!({
            "_aws": {
                "Timestamp": millis,
                "CloudWatchMetrics": [{
                    "Namespace": NAMESPACE,
                    "Dimensions": [["FunctionName", "Resource", "Version"]],
                    "Metrics": [
                        count("Requests"),
                        count("ServerErrors"),
                        count("ClientErrors"),
                        count("ColdStarts"),
                        { "Name": "Latency", "Unit": "Milliseconds" },
                    ],
                }],
            },
            "FunctionName": std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default(),
            "Resource": self.resource,
            "Version": init::function_version(),
            "Requests": 1,
            "ServerErrors": u8::from(self.status >= 500 && !self.failed_invocation),
            "ClientErrors": u8::from((400..500).contains(&self.status)),
            "ColdStarts": u8::from(self.cold),
            "Latency": self.latency.as_secs_f64() * 1e3,
            "level": if self.status >= 500 { "ERROR" } else { "INFO" },
            "requestId": self.request_id,
            "status": self.status,
            "start": if self.cold { "cold" } else { "warm" },
        });
        if let Some(bin) = self.prediction() {
            // CloudWatch counts values in ranges that grow with them: powers of two stay apart.
            line["Prediction"] = json!(1_u32 << bin);
            let metrics = &mut line["_aws"]["CloudWatchMetrics"][0]["Metrics"];
            if let Some(metrics) = metrics.as_array_mut() {
                metrics.push(json!({ "Name": "Prediction", "Unit": "None" }));
            }
        }
        if let Some(error) = &self.error {
            line["error"] = json!(error);
        }
        line
    }

    /// One item's of the request, chosen by its id: items of one request are alike, and checks take
    /// what is counted as independent.
    fn prediction(&self) -> Option<u8> {
        let sum = |sum: usize, byte: u8| sum.wrapping_mul(31).wrapping_add(byte.into());
        let choice = self.request_id.bytes().fold(0, sum);
        let at = choice.checked_rem(self.predictions.len())?;
        self.predictions.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(status: u16, failed_invocation: bool) -> Value {
        let latency = Duration::from_micros(1500);
        let outcome = Outcome {
            request_id: "r",
            resource: "f:live",
            status,
            failed_invocation,
            latency,
            cold: true,
            error: None,
            predictions: &[],
        };
        outcome.line(UNIX_EPOCH + Duration::from_secs(7))
    }

    #[test]
    fn every_declared_metric_has_a_number() {
        let line = line(200, false);
        assert_eq!(line["_aws"]["Timestamp"], 7000);
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap() {
            assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric}");
        }
        assert_eq!(line["Latency"], 1.5);
    }

    #[test]
    fn a_failure_that_lambda_counts_is_not_counted_again() {
        assert_eq!(line(500, false)["ServerErrors"], 1);
        assert_eq!(line(500, true)["ServerErrors"], 0);
        assert_eq!(line(400, false)["ServerErrors"], 0);
        assert_eq!(line(400, false)["ClientErrors"], 1);
    }
}
