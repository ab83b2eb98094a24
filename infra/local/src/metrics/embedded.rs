//! The embedded metric format: metrics inside JSON log lines.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use serde::Deserialize;
use serde_json::Value;

use super::store::{Datum, Key};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Head {
    timestamp: u64,
    cloud_watch_metrics: Vec<Directive>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: String,
    #[serde(default)]
    dimensions: Vec<Vec<String>>,
    #[serde(default)]
    metrics: Vec<Metric>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    name: String,
    #[serde(default)]
    unit: String,
}

/// The metrics in a line; none if it is not in the format.
pub(crate) fn parse(line: &[u8]) -> Vec<Datum> {
    if !line.trim_ascii_start().starts_with(b"{") {
        return Vec::new();
    }
    let Ok(root) = serde_json::from_slice::<Value>(line) else { return Vec::new() };
    let Some(head) = root.get("_aws").and_then(|head| Head::deserialize(head).ok()) else {
        return Vec::new();
    };
    let mut data = Vec::new();
    for directive in &head.cloud_watch_metrics {
        for metric in &directive.metrics {
            let Some(values) = root.get(&metric.name).and_then(numbers) else { continue };
            for set in &directive.dimensions {
                let Some(dimensions) = dimensions(&root, set) else { continue };
                data.push(Datum {
                    key: Key::new(&directive.namespace, &metric.name, dimensions),
                    second: head.timestamp / 1000,
                    unit: metric.unit.clone(),
                    values: values.clone(),
                    set: None,
                });
            }
        }
    }
    data
}

fn numbers(value: &Value) -> Option<Vec<(f64, f64)>> {
    match value {
        Value::Number(number) => Some(vec![(number.as_f64()?, 1.0)]),
        Value::Array(all) => all.iter().map(|number| Some((number.as_f64()?, 1.0))).collect(),
        _ => None,
    }
}

/// A set whose member is missing from the line is not reported.
fn dimensions(root: &Value, set: &[String]) -> Option<Vec<(String, String)>> {
    set.iter().map(|name| Some((name.clone(), root.get(name)?.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dimension_set_is_a_series_of_its_own() {
        let line = br#"{"_aws":{"Timestamp":5000,"CloudWatchMetrics":[{"Namespace":"n",
            "Dimensions":[["F"],["F","G"],["missing"]],"Metrics":[{"Name":"a","Unit":"Count"},{"Name":"b"}]}]},
            "F":"f","G":"g","a":2,"b":[1,2.5]}"#;
        let data = parse(line);
        assert_eq!(data.len(), 4);
        assert_eq!(data[0].second, 5);
        assert_eq!(data[0].values, [(2.0, 1.0)]);
        assert_eq!(data[3].key.dimensions, [("F".into(), "f".into()), ("G".into(), "g".into())]);
        assert_eq!(data[3].values, [(1.0, 1.0), (2.5, 1.0)]);
    }

    #[test]
    fn other_lines_are_not_metrics() {
        for line in ["", "plain text", "{", "{}", r#"{"_aws":{}}"#, r#"{"_aws":7}"#, "[1]"] {
            assert!(parse(line.as_bytes()).is_empty(), "{line}");
        }
    }
}
