//! Cloud Monitoring: what requests did, by revision.
//!
//! <https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries/list>

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use super::error::{GoogleError, GoogleResult};
use super::{CloudRun, logging};
use crate::ids;
use crate::metrics::{Key, Metrics};

const NAMESPACE: &str = "run.googleapis.com";

/// The buckets of latencies: powers of 1.4 milliseconds, as Google's own distributions have them.
const GROWTH: f64 = 1.4;
const FINITE: i32 = 66;

/// Whose requests are counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) location: String,
    pub(crate) service: String,
    pub(crate) revision: String,
}

/// Counts a request.
pub(super) fn record(metrics: &Metrics, of: &Counted, class: &str, took: f64) {
    let dimensions = [
        ("location", &*of.location),
        ("service_name", &*of.service),
        ("revision_name", &*of.revision),
        ("response_code_class", class),
    ];
    // By its bucket, so that a second of many requests stays small.
    metrics.put(
        NAMESPACE,
        "request_latencies",
        &dimensions,
        f64::from(bucket(took)),
        "Milliseconds",
    );
}

fn bucket(millis: f64) -> i32 {
    match millis < 1.0 {
        true => 0,
        false => ((millis.ln() / GROWTH.ln()) as i32 + 1).min(FINITE + 1),
    }
}

/// What series are told apart by beside their metric's own labels.
const RESOURCE: [&str; 3] = ["location", "service_name", "revision_name"];

/// The dimension a filter names.
fn dimension(path: &str) -> Option<&str> {
    match path.strip_prefix("resource.labels.") {
        Some(label) => RESOURCE.contains(&label).then_some(label),
        None => path.strip_prefix("metric.labels."),
    }
}

/// What a filter asks for: `name = "value"` joined by AND.
fn filters(text: &str) -> GoogleResult<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for term in text.split(" AND ") {
        let refuse =
            || GoogleError::invalid(format!("slsml local does not read the filter `{term}`"));
        let (name, value) = term.split_once('=').ok_or_else(refuse)?;
        let value = value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let name = name.trim().replace(".label.", ".labels.");
        all.insert(name, value.ok_or_else(refuse)?.to_owned());
    }
    Ok(all)
}

pub(super) fn answer(
    run: &CloudRun,
    method: &Method,
    path: &str,
    query: Option<&str>,
) -> GoogleResult<Value> {
    let segments: Vec<&str> = path.split('/').collect();
    let (&Method::GET, ["projects", project, "timeSeries"]) = (method, segments.as_slice()) else {
        return Err(GoogleError::not_offered(format!(
            "slsml local does not offer {method} {path}"
        )));
    };
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let field = |name: &str| query.get(name).map(String::as_str);
    let filter = filters(field("filter").unwrap_or_default())?;
    let kind = filter.get("metric.type").map(String::as_str).unwrap_or_default();
    let is_distribution = kind == "run.googleapis.com/request_latencies";
    let (namespace, name) = match kind.rsplit_once('/') {
        // Both are counted as one.
        Some((NAMESPACE, "request_latencies" | "request_count")) => {
            (NAMESPACE, "request_latencies")
        }
        Some((logging::NAMESPACE, name)) if run.logging.has(project, name) => {
            (logging::NAMESPACE, name)
        }
        _ => {
            return Err(GoogleError::not_found(format!(
                "Cannot find metric(s) that match type = \"{kind}\"."
            )));
        }
    };
    let time = |name: &str| field(name).and_then(ids::parse_iso8601);
    let end = time("interval.endTime")
        .ok_or_else(|| GoogleError::invalid("Field interval.endTime had an invalid value"))?;
    let start = time("interval.startTime").unwrap_or(end);
    let aligner = field("aggregation.perSeriesAligner").unwrap_or("ALIGN_NONE");
    if !matches!(aligner, "ALIGN_DELTA" | "ALIGN_NONE") {
        return Err(GoogleError::not_offered(format!("slsml local does not offer {aligner}")));
    }
    let period = match field("aggregation.alignmentPeriod") {
        None => 60,
        Some(text) => {
            let seconds = text.strip_suffix('s').and_then(|text| text.parse::<u64>().ok());
            seconds.filter(|seconds| *seconds > 0).ok_or_else(|| {
                GoogleError::invalid("Field aggregation.alignmentPeriod had an invalid value")
            })?
        }
    };
    let (start, end) = (start.max(0.0) as u64, end.max(0.0) as u64);
    let own = ["metric.type", "resource.type", "resource.labels.project_id"];
    let terms: Vec<_> = filter.iter().filter(|(path, _)| !own.contains(&path.as_str())).collect();
    if let Some((unknown, _)) = terms.iter().find(|(path, _)| dimension(path).is_none()) {
        return Err(GoogleError::invalid(format!("The filter names an unknown label: {unknown}")));
    }
    let is_wanted = |key: &Key| {
        terms.iter().all(|(path, value)| label(key, dimension(path).unwrap_or_default()) == **value)
    };
    if filter.get("resource.labels.project_id").is_some_and(|wanted| wanted != project) {
        return Ok(json!({ "timeSeries": [] }));
    }
    let keys = run.metrics.keys().into_iter();
    let keys = keys.filter(|key| key.namespace == namespace && key.name == name && is_wanted(key));
    let mut series = Vec::new();
    for key in keys {
        let points = points(run, &key, start, end, period, is_distribution);
        if !points.is_empty() {
            series.push(one(project, kind, &key, is_distribution, points));
        }
    }
    Ok(json!({ "timeSeries": series, "unit": if is_distribution { "ms" } else { "1" } }))
}

/// A key's label; empty if it has none of that name.
fn label<'a>(key: &'a Key, name: &str) -> &'a str {
    let found = key.dimensions.iter().find(|(label, _)| label == name);
    found.map_or("", |(_, value)| value)
}

fn one(project: &str, kind: &str, key: &Key, is_distribution: bool, points: Vec<Value>) -> Value {
    let label = |name: &str| label(key, name).to_owned();
    let labels = key.dimensions.iter().filter(|(name, _)| !RESOURCE.contains(&name.as_str()));
    let labels: BTreeMap<_, _> = labels.cloned().collect();
    json!({
        "metric": { "type": kind, "labels": labels },
        "resource": {
            "type": "cloud_run_revision",
            "labels": {
                "project_id": project,
                "service_name": label("service_name"),
                "revision_name": label("revision_name"),
                "configuration_name": label("service_name"),
                "location": label("location"),
            },
        },
        "metricKind": "DELTA",
        "valueType": if is_distribution { "DISTRIBUTION" } else { "INT64" },
        "points": points,
    })
}

/// The newest first, in periods that end where the interval does.
fn points(
    run: &CloudRun,
    key: &Key,
    start: u64,
    end: u64,
    period: u64,
    is_distribution: bool,
) -> Vec<Value> {
    let mut periods: BTreeMap<u64, BTreeMap<i32, u64>> = BTreeMap::new();
    for (second, bucket) in run.metrics.series(key, start, end) {
        let until = end - (end - 1 - second) / period * period;
        let counts = periods.entry(until).or_default();
        for (value, count) in bucket.values {
            *counts.entry(value as i32).or_default() += count as u64;
        }
    }
    let point = |(until, counts): (&u64, &BTreeMap<i32, u64>)| {
        let count: u64 = counts.values().sum();
        let value = match is_distribution {
            false => json!({ "int64Value": count.to_string() }),
            true => {
                let last = counts.keys().last().copied().unwrap_or(0);
                let at = |bucket| counts.get(&bucket).copied().unwrap_or(0);
                let middle = |bucket: i32| GROWTH.powi(bucket) * 0.85;
                let sum: f64 =
                    counts.iter().map(|(bucket, count)| middle(*bucket) * *count as f64).sum();
                json!({ "distributionValue": {
                    "count": count.to_string(),
                    "mean": sum / count.max(1) as f64,
                    "bucketOptions": { "exponentialBuckets": {
                        "numFiniteBuckets": FINITE, "growthFactor": GROWTH, "scale": 1.0,
                    } },
                    "bucketCounts": (0..=last).map(|bucket| at(bucket).to_string()).collect::<Vec<_>>(),
                } })
            }
        };
        let interval = json!({
            "startTime": ids::iso8601(until.saturating_sub(period)),
            "endTime": ids::iso8601(*until),
        });
        json!({ "interval": interval, "value": value })
    };
    periods.iter().rev().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_googles_buckets() {
        // Bucket i holds scale * growth^(i-1) up to scale * growth^i.
        for (millis, expected) in
            [(0.2, 0), (1.0, 1), (1.39, 1), (1.41, 2), (100.0, 14), (1e30, 67)]
        {
            assert_eq!(bucket(millis), expected, "{millis}");
        }
    }
}
