//! CloudWatch's calls, in the three protocols its clients speak: JSON, CBOR and query.

use axum::body::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::cbor;
use super::statistic::Statistic;
use super::store::{Bucket, Datum, Key, Metrics, StatisticSet};
use crate::error::{AwsError, AwsResult};
use crate::{ids, query};

const NAMESPACE: &str = "http://monitoring.amazonaws.com/doc/2010-08-01/";

/// How far in the future a value may be, in seconds.
const FUTURE: u64 = 2 * 3600;

/// The most data points one answer holds.
const POINTS: usize = 100_800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Json,
    Cbor,
    Query,
}

/// Answers one call.
pub(crate) fn answer(metrics: &Metrics, parts: &Parts, body: &[u8]) -> Response<Bytes> {
    let (protocol, operation) = spoken(&parts.headers, parts.uri.path());
    let request = match protocol {
        Protocol::Cbor => cbor::decode(body),
        Protocol::Json => serde_json::from_slice(body).ok(),
        Protocol::Query => Some(query::parse(body)),
    };
    let operation = match protocol {
        Protocol::Query => {
            text(request.as_ref().and_then(|request| request.get("Action"))).to_owned()
        }
        _ => operation,
    };
    let result = request
        .ok_or_else(|| invalid("the body cannot be read"))
        .and_then(|request| call(metrics, &operation, &request));
    write(protocol, &operation, &result)
}

/// Refuses a call in the protocol it came in.
pub(crate) fn refuse(headers: &HeaderMap, path: &str, error: AwsError) -> Response<Bytes> {
    let (protocol, operation) = spoken(headers, path);
    write(protocol, &operation, &Err(error))
}

/// The protocol of a call, and its operation where the head says it.
fn spoken(headers: &HeaderMap, path: &str) -> (Protocol, String) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (header("smithy-protocol"), header("x-amz-target")) {
        (Some("rpc-v2-cbor"), _) => {
            (Protocol::Cbor, path.rsplit('/').next().unwrap_or_default().to_owned())
        }
        (_, Some(target)) => {
            (Protocol::Json, target.rsplit('.').next().unwrap_or_default().to_owned())
        }
        _ => (Protocol::Query, String::new()),
    }
}

fn write(protocol: Protocol, operation: &str, result: &AwsResult<Value>) -> Response<Bytes> {
    let body: Bytes = match (protocol, result) {
        (Protocol::Cbor, Ok(tree)) => cbor::encode(tree).into(),
        (Protocol::Json, Ok(tree)) => tree.to_string().into(),
        (Protocol::Query, Ok(tree)) => query::answer(operation, NAMESPACE, tree).into(),
        (Protocol::Query, Err(error)) => query::refusal(error, NAMESPACE).into(),
        (protocol, Err(error)) => {
            let tree = json!({ "__type": error.code, "message": error.message });
            if protocol == Protocol::Cbor {
                cbor::encode(&tree).into()
            } else {
                tree.to_string().into()
            }
        }
    };
    let mut response = Response::new(body);
    if let Err(error) = result {
        *response.status_mut() =
            StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Ok(value) = HeaderValue::from_str(&format!("{};Sender", error.code)) {
            response.headers_mut().insert("x-amzn-query-error", value);
        }
    }
    let headers = response.headers_mut();
    let content_type = match protocol {
        Protocol::Json => "application/x-amz-json-1.0",
        Protocol::Cbor => "application/cbor",
        Protocol::Query => "text/xml",
    };
    headers.insert("content-type", HeaderValue::from_static(content_type));
    if protocol == Protocol::Cbor {
        headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    }
    response
}

fn invalid(message: impl std::fmt::Display) -> AwsError {
    AwsError { code: "InvalidParameterValue", ..AwsError::invalid(message) }
}

fn call(metrics: &Metrics, operation: &str, request: &Value) -> AwsResult<Value> {
    match operation {
        "PutMetricData" => put(metrics, request),
        "GetMetricData" => get(metrics, request),
        "ListMetrics" => Ok(list(metrics, request)),
        other => Err(AwsError::not_offered(format!("CloudWatch's {other}"))),
    }
}

/// A number, which the query protocol writes as text.
fn number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

/// A time in seconds since the Unix epoch.
fn time(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::String(text) => ids::parse_iso8601(text),
        other => number(Some(other)),
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn key(namespace: &str, metric: &Value) -> Key {
    let dimensions = items(metric.get("Dimensions"))
        .iter()
        .map(|dimension| (text(dimension.get("Name")).into(), text(dimension.get("Value")).into()));
    Key::new(namespace, text(metric.get("MetricName")), dimensions.collect())
}

fn put(metrics: &Metrics, request: &Value) -> AwsResult<Value> {
    let namespace = text(request.get("Namespace"));
    if namespace.is_empty() {
        return Err(invalid("The parameter Namespace is required."));
    }
    if namespace.starts_with("AWS/") {
        return Err(invalid("The value AWS/ for parameter Namespace is invalid."));
    }
    let data: Vec<Datum> = items(request.get("MetricData"))
        .iter()
        .map(|datum| read_datum(namespace, datum))
        .collect::<AwsResult<_>>()?;
    if data.is_empty() {
        return Err(invalid("The parameter MetricData is required."));
    }
    data.into_iter().for_each(|datum| metrics.record(datum));
    Ok(json!({}))
}

fn read_datum(namespace: &str, datum: &Value) -> AwsResult<Datum> {
    let key = key(namespace, datum);
    if key.name.is_empty() {
        return Err(invalid("The parameter MetricData.member.N.MetricName is required."));
    }
    let finite = |value: f64| match value.is_finite() {
        true => Ok(value),
        false => Err(invalid("The value for parameter MetricData.member.N.Value is not a number.")),
    };
    let mut values = Vec::new();
    if let Some(value) = number(datum.get("Value")) {
        values.push((finite(value)?, 1.0));
    }
    let counts = items(datum.get("Counts"));
    for (at, value) in items(datum.get("Values")).iter().enumerate() {
        let count = counts.get(at).map_or(Some(1.0), |count| number(Some(count)));
        let value = number(Some(value))
            .zip(count)
            .ok_or_else(|| invalid("Values and Counts must be numbers."))?;
        values.push((finite(value.0)?, finite(value.1)?));
    }
    let set = datum.get("StatisticValues").and_then(|set| {
        Some(StatisticSet {
            count: number(set.get("SampleCount"))?,
            sum: number(set.get("Sum"))?,
            minimum: number(set.get("Minimum"))?,
            maximum: number(set.get("Maximum"))?,
        })
    });
    if values.is_empty() && set.is_none() {
        return Err(invalid(
            "At least one of the parameters must be specified: MetricData.member.N.Value, \
             MetricData.member.N.Values, MetricData.member.N.StatisticValues.",
        ));
    }
    let second =
        time(datum.get("Timestamp")).map_or_else(|| ids::now().as_secs(), |time| time as u64);
    if second > ids::now().as_secs() + FUTURE {
        return Err(invalid("The timestamp is more than two hours in the future."));
    }
    Ok(Datum { key, second, unit: text(datum.get("Unit")).into(), values, set })
}

fn get(metrics: &Metrics, request: &Value) -> AwsResult<Value> {
    let times = time(request.get("StartTime")).zip(time(request.get("EndTime")));
    let (start, end) = times.ok_or_else(|| invalid("StartTime and EndTime are required."))?;
    if start >= end {
        return Err(AwsError {
            code: "ValidationError",
            ..AwsError::validation(
                "The parameter StartTime must be less than the parameter EndTime.",
            )
        });
    }
    let descending = text(request.get("ScanBy")) != "TimestampAscending";
    let results = items(request.get("MetricDataQueries"))
        .iter()
        .map(|asked| one_query(metrics, asked, start as u64, end.ceil() as u64, descending))
        .collect::<AwsResult<Vec<_>>>()?;
    Ok(json!({ "MetricDataResults": results, "Messages": [] }))
}

fn one_query(
    metrics: &Metrics,
    asked: &Value,
    start: u64,
    end: u64,
    descending: bool,
) -> AwsResult<Value> {
    let id = text(asked.get("Id"));
    let Some(stat) = asked.get("MetricStat") else {
        return Err(AwsError::not_offered("metric math expressions"));
    };
    let metric = stat.get("Metric").unwrap_or(&Value::Null);
    let key = key(text(metric.get("Namespace")), metric);
    let name = text(stat.get("Stat"));
    let statistic = Statistic::parse(name)
        .ok_or_else(|| invalid(format!("The value {name} for parameter Stat is invalid.")))?;
    let period = number(stat.get("Period")).unwrap_or(0.0) as u64;
    if ![1, 5, 10, 20, 30].contains(&period) && (period == 0 || !period.is_multiple_of(60)) {
        return Err(invalid(
            "The value for parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60.",
        ));
    }
    let mut periods: Vec<(u64, Bucket)> = Vec::new();
    // Periods are aligned, and the first one counts from its beginning.
    for (second, bucket) in metrics.series(&key, start - start % period, end) {
        let begin = second - second % period;
        match periods.last_mut() {
            Some((last, all)) if *last == begin => {
                all.values.extend(bucket.values);
                all.sets.extend(bucket.sets);
            }
            _ => periods.push((begin, bucket)),
        }
    }
    let mut points: Vec<(u64, f64)> = periods
        .iter()
        .filter_map(|(begin, bucket)| Some((*begin, statistic.of(bucket)?)))
        .collect();
    if descending {
        points.reverse();
    }
    points.truncate(POINTS);
    let label =
        asked.get("Label").map_or_else(|| key.name.clone(), |label| text(Some(label)).to_owned());
    Ok(json!({
        "Id": id,
        "Label": label,
        "Timestamps": points.iter().map(|(begin, _)| *begin).collect::<Vec<_>>(),
        "Values": points.iter().map(|(_, value)| *value).collect::<Vec<_>>(),
        "StatusCode": "Complete",
    }))
}

fn list(metrics: &Metrics, request: &Value) -> Value {
    let (namespace, name) = (text(request.get("Namespace")), text(request.get("MetricName")));
    let filters = items(request.get("Dimensions"));
    // A filter without a value asks for the dimension alone.
    let has = |key: &Key, filter: &Value| {
        let (name, value) = (text(filter.get("Name")), filter.get("Value"));
        let mut named = key.dimensions.iter().filter(|(dimension, _)| dimension == name);
        named.any(|(_, found)| value.is_none_or(|value| text(Some(value)) == found))
    };
    let wanted = |key: &Key| {
        (namespace.is_empty() || key.namespace == namespace)
            && (name.is_empty() || key.name == name)
            && filters.iter().all(|filter| has(key, filter))
    };
    let metrics: Vec<Value> = metrics
        .keys()
        .into_iter()
        .filter(wanted)
        .map(|key| {
            let dimension =
                |(name, value): &(String, String)| json!({ "Name": name, "Value": value });
            json!({
                "Namespace": key.namespace,
                "MetricName": key.name,
                "Dimensions": key.dimensions.iter().map(dimension).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "Metrics": metrics })
}
