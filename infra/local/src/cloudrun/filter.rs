//! Google's filters, as far as terms that all must hold: `path=value`, joined by AND.
//! <https://cloud.google.com/logging/docs/view/logging-query-language>

use serde_json::Value;

use super::error::{GoogleError, GoogleResult};
use crate::ids;

/// Terms that all must hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter(Vec<Term>);

#[derive(Clone, Debug, PartialEq)]
struct Term {
    path: Vec<String>,
    relation: Relation,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Is,
    IsNot,
    AtLeast,
    AtMost,
    Above,
    Below,
    Has,
}

const RELATIONS: [(&str, Relation); 7] = [
    (">=", Relation::AtLeast),
    ("<=", Relation::AtMost),
    ("!=", Relation::IsNot),
    ("=", Relation::Is),
    (">", Relation::Above),
    ("<", Relation::Below),
    (":", Relation::Has),
];

/// From the least to the most severe.
const SEVERITIES: [&str; 9] =
    ["DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"];

impl Filter {
    pub(super) fn parse(text: &str) -> GoogleResult<Filter> {
        let lines = text.lines().flat_map(|line| line.split(" AND "));
        let terms = lines.map(str::trim).filter(|term| !term.is_empty());
        terms.map(term).collect::<GoogleResult<Vec<_>>>().map(Filter)
    }

    pub(super) fn holds(&self, entry: &Value) -> bool {
        self.0.iter().all(|term| term.holds(entry))
    }
}

fn term(text: &str) -> GoogleResult<Term> {
    let refuse = || GoogleError::invalid(format!("slsml local does not read the filter `{text}`"));
    let of_path = |letter: char| letter.is_alphanumeric() || "._-".contains(letter);
    let end = text.find(|letter| !of_path(letter)).ok_or_else(refuse)?;
    let (path, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let found = RELATIONS.iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(refuse)?;
    let value = rest[found.0.len()..].trim();
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let is_bare = quoted.is_none();
    let value = quoted.unwrap_or(value);
    // A space in what is not quoted begins an OR, or a second term.
    let is_more = value.contains(['"', '(', ')']) || is_bare && value.contains(' ');
    let is_unknown = path.ends_with("severity") && !SEVERITIES.contains(&value);
    if path.is_empty() || value.is_empty() || is_more || is_unknown {
        return Err(refuse());
    }
    let path = path.split('.').map(str::to_owned).collect();
    Ok(Term { path, relation: found.1, value: value.into() })
}

impl Term {
    fn holds(&self, entry: &Value) -> bool {
        use std::cmp::Ordering::{Greater, Less};
        let mut found = entry;
        for name in &self.path {
            found = &found[name];
        }
        let text = match found {
            Value::Null => return self.relation == Relation::IsNot,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let order = || match self.path.last().map(String::as_str) {
            Some("severity") => severity(&text).partial_cmp(&severity(&self.value)),
            Some("timestamp" | "receiveTimestamp") => {
                ids::parse_iso8601(&text)?.partial_cmp(&ids::parse_iso8601(&self.value)?)
            }
            _ => text.parse::<f64>().ok()?.partial_cmp(&self.value.parse::<f64>().ok()?),
        };
        match self.relation {
            Relation::Is => text == self.value,
            Relation::IsNot => text != self.value,
            Relation::Has => self.value == "*" || text.contains(&self.value),
            Relation::AtLeast => order().is_some_and(|order| order != Less),
            Relation::AtMost => order().is_some_and(|order| order != Greater),
            Relation::Above => order() == Some(Greater),
            Relation::Below => order() == Some(Less),
        }
    }
}

fn severity(name: &str) -> usize {
    SEVERITIES.iter().position(|one| *one == name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn terms_hold_as_the_query_language_defines_them() {
        let entry = json!({
            "severity": "ERROR",
            "timestamp": "2026-11-23T10:00:00.500Z",
            "resource": { "type": "cloud_run_revision", "labels": { "service_name": "digits" } },
            "jsonPayload": { "slsml": { "answer": "3" }, "count": 12 },
        });
        for (filter, holds) in [
            ("", true),
            (r#"resource.type="cloud_run_revision""#, true),
            (r#"resource.type = "cloud_run_revision" AND severity>=WARNING"#, true),
            ("severity>ERROR", false),
            (r#"timestamp>="2026-11-23T10:00:00Z""#, true),
            (r#"timestamp>"2026-11-23T10:00:00.5Z""#, false),
            ("jsonPayload.slsml.answer:*", true),
            ("jsonPayload.slsml.other:*", false),
            ("jsonPayload.count<=12\njsonPayload.count<13", true),
            ("jsonPayload.count>9", true),
            (r#"resource.labels.service_name!="digits""#, false),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().holds(&entry), holds, "{filter}");
        }
        for unread in ["a", "a=1 OR (b=2)", "=1", "a="] {
            assert!(Filter::parse(unread).is_err(), "{unread}");
        }
    }
}
