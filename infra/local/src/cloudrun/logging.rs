//! Cloud Logging: what containers printed as entries, and metrics that count them.
//!
//! <https://cloud.google.com/logging/docs/reference/v2/rest>

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use serde_json::{Map, Value, json};

use super::error::{GoogleError, GoogleResult};
use super::filter::Filter;
use super::monitoring::Counted;
use crate::home::Home;
use crate::ids;
use crate::kept::Kept;
use crate::logs::{Line, Logs};
use crate::metrics::Metrics;

/// Where log-based metrics are counted.
pub(super) const NAMESPACE: &str = "logging.googleapis.com/user";

/// How many entries a page has, if nothing is said and at most.
const PAGE: u64 = 50;
const LARGEST_PAGE: u64 = 1000;

/// Who prints.
#[derive(Clone, Debug)]
pub(super) struct Printing {
    pub(super) project: String,
    pub(super) of: Counted,
}

/// Entries, and what is counted of them.
#[derive(Debug)]
pub(super) struct Logging {
    logs: Arc<Logs>,
    metrics: Arc<Metrics>,
    /// Log-based metrics by project and name, as they were created.
    defined: Kept<BTreeMap<String, Value>>,
}

impl Logging {
    pub(super) fn open(
        home: &Home,
        logs: Arc<Logs>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Logging> {
        Ok(Logging { logs, metrics, defined: Kept::open(home, "logging.json")? })
    }

    /// Takes a line in, and counts it.
    pub(super) fn take(&self, printing: &Printing, text: &[u8]) {
        let line = self.logs.append(&printing.group(), &printing.of.revision, text);
        let prefix = format!("projects/{}/metrics/", printing.project);
        let defined: Vec<Value> = self.defined.read().values().cloned().collect();
        let defined = defined.iter().filter(|one| text_of(&one["name"]).starts_with(&prefix));
        for metric in defined {
            let entry = printing.entry(&line);
            let filter = Filter::parse(&text_of(&metric["filter"]));
            if filter.is_ok_and(|filter| filter.holds(&entry)) {
                self.count(printing, metric, &entry);
            }
        }
    }

    fn count(&self, printing: &Printing, metric: &Value, entry: &Value) {
        let mut dimensions = vec![
            ("location", printing.of.location.clone()),
            ("service_name", printing.of.service.clone()),
            ("revision_name", printing.of.revision.clone()),
        ];
        let labels = metric["labelExtractors"].as_object();
        for (label, extractor) in labels.into_iter().flatten() {
            dimensions.push((label, extracted(&text_of(extractor), entry)));
        }
        let dimensions: Vec<(&str, &str)> =
            dimensions.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let name = text_of(&metric["name"]);
        let name = name.rsplit('/').next().unwrap_or_default();
        self.metrics.put(NAMESPACE, name, &dimensions, 1.0, "1");
    }

    /// Whether a project has a metric of this name.
    pub(super) fn has(&self, project: &str, name: &str) -> bool {
        self.defined.read().contains_key(&format!("projects/{project}/metrics/{name}"))
    }

    /// Answers a call; `segments` are the path's after its version, without a verb.
    pub(super) fn answer(
        &self,
        method: &Method,
        segments: &[&str],
        body: &Value,
    ) -> GoogleResult<Value> {
        let name = segments.join("/");
        match (method, segments) {
            (&Method::POST, ["entries"]) => self.list(body),
            (&Method::GET, ["projects", _, "metrics"]) => {
                let defined = self.defined.read();
                let all = defined.iter().filter(|(full, _)| full.starts_with(&format!("{name}/")));
                Ok(json!({ "metrics": all.map(|(_, one)| shown(one)).collect::<Vec<_>>() }))
            }
            (&Method::POST, ["projects", _, "metrics"]) => self.create(&name, body),
            (&Method::GET, ["projects", _, "metrics", _]) => {
                self.defined.read().get(&name).map(shown).ok_or_else(|| no_metric(&name))
            }
            (&Method::DELETE, ["projects", _, "metrics", _]) => self.defined.change(
                |all| all.remove(&name).map(|_| json!({})).ok_or_else(|| no_metric(&name)),
                GoogleError::internal,
            ),
            _ => Err(GoogleError::not_offered(format!(
                "slsml local does not offer {method} /v2/{name}"
            ))),
        }
    }

    fn create(&self, parent: &str, body: &Value) -> GoogleResult<Value> {
        let id = text_of(&body["name"]);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.,+!*',()%/".contains(&byte);
        if id.is_empty() || id.len() > 100 || id.starts_with('/') || !id.bytes().all(fits) {
            return Err(GoogleError::invalid(format!("Invalid metric name: '{id}'")));
        }
        Filter::parse(&text_of(&body["filter"]))?;
        for (label, extractor) in body["labelExtractors"].as_object().into_iter().flatten() {
            let declared = body["metricDescriptor"]["labels"].as_array().into_iter().flatten();
            let text = text_of(extractor);
            if !text.starts_with("EXTRACT(") || !text.ends_with(')') {
                return Err(GoogleError::not_offered(format!(
                    "slsml local does not offer the extractor {text}"
                )));
            }
            if declared.into_iter().all(|one| one["key"] != label.as_str()) {
                return Err(GoogleError::invalid(format!("The label {label} is not declared")));
            }
        }
        let mut metric = body.clone();
        let name = format!("{parent}/{id}");
        metric["name"] = json!(name);
        let now = ids::iso8601(ids::now().as_secs());
        metric["createTime"] = json!(now);
        metric["updateTime"] = json!(now);
        let created = |all: &mut BTreeMap<String, Value>| match all.contains_key(&name) {
            true => Err(GoogleError::exists(format!("Metric {id} already exists"))),
            false => {
                all.insert(name.clone(), metric.clone());
                Ok(shown(&metric))
            }
        };
        self.defined.change(created, GoogleError::internal)
    }

    /// Entries of all that prints in a project.
    fn list(&self, request: &Value) -> GoogleResult<Value> {
        let projects = request["resourceNames"].as_array().into_iter().flatten();
        let projects: Vec<String> = projects.map(|name| format!("{}/", text_of(name))).collect();
        if projects.is_empty() {
            return Err(GoogleError::invalid("No resource names were given"));
        }
        let filter = Filter::parse(&text_of(&request["filter"]))?;
        let newest_first = match request["orderBy"].as_str().unwrap_or_default() {
            "" | "timestamp" | "timestamp asc" => false,
            "timestamp desc" => true,
            other => {
                return Err(GoogleError::invalid(format!("orderBy \"{other}\" is not supported")));
            }
        };
        let size = request["pageSize"].as_u64().unwrap_or(PAGE).clamp(1, LARGEST_PAGE) as usize;
        let after = request["pageToken"].as_str().and_then(|token| token.parse::<u64>().ok());
        let mut found = Vec::new();
        for group in self.logs.groups() {
            let Some(printing) = Printing::of_group(&group) else { continue };
            if !projects.iter().any(|project| group.starts_with(project.as_str())) {
                continue;
            }
            let lines = self.logs.lines(&group).unwrap_or_default();
            let entries = lines.iter().map(|line| (line.id, printing.entry(line)));
            found.extend(entries.filter(|(_, entry)| filter.holds(entry)));
        }
        found.sort_by_key(|(id, _)| if newest_first { u64::MAX - id } else { *id });
        found.retain(|(id, _)| {
            after.is_none_or(|after| if newest_first { *id < after } else { *id > after })
        });
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().map(|(id, _)| *id);
        let entries: Vec<Value> = found.into_iter().map(|(_, entry)| entry).collect();
        let mut value = json!({ "entries": entries });
        if let Some(last) = last.filter(|_| more) {
            value["nextPageToken"] = json!(last.to_string());
        }
        Ok(value)
    }
}

impl Printing {
    /// What its lines are kept under: the service's name.
    fn group(&self) -> String {
        let Counted { location, service, .. } = &self.of;
        format!("projects/{}/locations/{location}/services/{service}", self.project)
    }

    /// Whose lines a group holds; the revision is said by each line.
    fn of_group(group: &str) -> Option<Printing> {
        let parts: Vec<&str> = group.split('/').collect();
        let ["projects", project, "locations", location, "services", service] = parts[..] else {
            return None;
        };
        let of =
            Counted { location: location.into(), service: service.into(), revision: String::new() };
        Some(Printing { project: project.into(), of })
    }

    /// A line as an entry: fields Cloud Logging knows are taken out of JSON.
    /// <https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields>
    fn entry(&self, line: &Line) -> Value {
        let time = ids::iso8601_millis(line.millis);
        let mut entry = json!({
            "logName": format!("projects/{}/logs/run.googleapis.com%2Fstdout", self.project),
            "resource": {
                "type": "cloud_run_revision",
                "labels": {
                    "project_id": self.project,
                    "location": self.of.location,
                    "service_name": self.of.service,
                    "configuration_name": self.of.service,
                    "revision_name": line.stream,
                },
            },
            "timestamp": time,
            "receiveTimestamp": time,
            "insertId": format!("{:016x}", line.id),
        });
        let Ok(mut payload) = serde_json::from_str::<Map<String, Value>>(&line.text) else {
            entry["textPayload"] = json!(line.text);
            return entry;
        };
        for (key, field) in [
            ("severity", "severity"),
            ("httpRequest", "httpRequest"),
            ("logging.googleapis.com/trace", "trace"),
            ("logging.googleapis.com/spanId", "spanId"),
        ] {
            if let Some(value) = payload.remove(key) {
                entry[field] = value;
            }
        }
        match payload.get("message").and_then(Value::as_str).filter(|_| payload.len() == 1) {
            Some(message) => entry["textPayload"] = json!(message),
            None => entry["jsonPayload"] = json!(payload),
        }
        entry
    }
}

/// What `EXTRACT(path)` finds in an entry.
fn extracted(extractor: &str, entry: &Value) -> String {
    let path = extractor.strip_prefix("EXTRACT(").and_then(|rest| rest.strip_suffix(')'));
    let mut found = entry;
    for name in path.unwrap_or_default().split('.') {
        found = &found[name];
    }
    match found {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// As the API shows it: by its id alone.
fn shown(metric: &Value) -> Value {
    let mut shown = metric.clone();
    let name = text_of(&metric["name"]);
    shown["name"] = json!(name.rsplit('/').next());
    shown
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn no_metric(name: &str) -> GoogleError {
    GoogleError::not_found(format!("Metric {name} does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Value {
        let of = Counted { location: "l".into(), service: "s".into(), revision: "s-1".into() };
        let line = Line { id: 1, millis: 1_500, stream: "s-1".into(), text: text.into() };
        Printing { project: "p".into(), of }.entry(&line)
    }

    #[test]
    fn lines_become_entries_as_google_makes_them() {
        let plain = entry("hello {");
        assert_eq!(plain["textPayload"], "hello {");
        assert_eq!(plain["timestamp"], "1970-01-01T00:00:01.5Z");
        assert_eq!(plain["resource"]["labels"]["revision_name"], "s-1");
        let note = entry(r#"{"severity":"INFO","message":"ready"}"#);
        assert_eq!((&note["severity"], &note["textPayload"]), (&json!("INFO"), &json!("ready")));
        let access =
            entry(r#"{"severity":"INFO","httpRequest":{"status":200},"slsml":{"answer":"3"}}"#);
        assert_eq!(access["httpRequest"]["status"], 200);
        assert_eq!(access["jsonPayload"], json!({ "slsml": { "answer": "3" } }));
        assert_eq!(extracted("EXTRACT(jsonPayload.slsml.answer)", &access), "3");
    }
}
