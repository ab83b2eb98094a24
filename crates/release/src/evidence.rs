//! What was counted.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Instant;
use crate::sequential::Share;

/// How many classes or ranges a model's answers are counted in at most.
pub const OUTPUTS: u8 = 16;

/// What is counted of a revision's requests. As text, in settings and in the journal: `errors`,
/// `throttles`, `slower_than_250ms`, `custom:NAME`, `outputs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Measure {
    /// Requests that failed: failed invocations and answers with a 5xx status.
    Errors,
    /// Requests that were refused for want of capacity.
    Throttles,
    /// Requests that took longer than this.
    SlowerThan(Duration),
    /// Requests that a metric of the user's own counts.
    Custom(String),
    /// How many answers fell into each class, or each range of a score.
    Outputs,
}

/// A text that names no measure.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no metric: errors, throttles, slower_than_250ms, outputs, or custom:NAME for one of your own"
)]
pub struct UnknownMeasure(pub String);

impl FromStr for Measure {
    type Err = UnknownMeasure;

    fn from_str(text: &str) -> Result<Self, UnknownMeasure> {
        let unknown = || UnknownMeasure(text.into());
        Ok(match text {
            "errors" => Self::Errors,
            "throttles" => Self::Throttles,
            "outputs" => Self::Outputs,
            _ => match (text.strip_prefix("custom:"), text.strip_prefix("slower_than_")) {
                (Some(name), _) if !name.is_empty() => Self::Custom(name.into()),
                (_, Some(limit)) => {
                    let millis = limit.strip_suffix("ms").and_then(|n| n.parse().ok());
                    let millis = millis.filter(|&millis: &u64| millis > 0);
                    Self::SlowerThan(Duration::from_millis(millis.ok_or_else(unknown)?))
                }
                _ => return Err(unknown()),
            },
        })
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors => f.write_str("errors"),
            Self::Throttles => f.write_str("throttles"),
            Self::SlowerThan(limit) => write!(f, "slower_than_{}ms", limit.as_millis()),
            Self::Custom(name) => write!(f, "custom:{name}"),
            Self::Outputs => f.write_str("outputs"),
        }
    }
}

impl TryFrom<String> for Measure {
    type Error = UnknownMeasure;

    fn try_from(text: String) -> Result<Self, UnknownMeasure> {
        text.parse()
    }
}

impl From<Measure> for String {
    fn from(measure: Measure) -> String {
        measure.to_string()
    }
}

/// Requests of one revision within one window of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Requests that were answered or failed.
    pub requests: u64,
    /// How many of them each measure counted; one that was not asked for is absent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<Measure, u64>,
    /// Answers by class or range; empty if they are not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<u64>,
    /// Times of requests, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// Percentiles of how long requests took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
}

impl Counts {
    /// The share of requests a measure counted. Throttled requests are none of those answered, so
    /// their share is of both together.
    pub fn share(&self, measure: &Measure) -> Share {
        let events = self.events.get(measure).copied().unwrap_or(0);
        match measure {
            Measure::Throttles => Share::new(events, self.requests + events),
            _ => Share::new(events, self.requests),
        }
    }

    /// The share of answers in one class or range.
    pub fn output(&self, bin: usize) -> Share {
        let all = self.outputs.iter().sum();
        Share::new(self.outputs.get(bin).copied().unwrap_or(0), all)
    }

    /// Both together; of the latency, what was seen last.
    pub fn plus(mut self, other: &Counts) -> Counts {
        self.requests += other.requests;
        for (measure, events) in &other.events {
            *self.events.entry(measure.clone()).or_default() += events;
        }
        if self.outputs.len() < other.outputs.len() {
            self.outputs.resize(other.outputs.len(), 0);
        }
        self.outputs.iter_mut().zip(&other.outputs).for_each(|(all, more)| *all += more);
        self.latency = other.latency.or(self.latency);
        self
    }
}

/// What both revisions did between two points in time. Once written down it is never counted
/// again, so whoever goes on with a release judges by the same evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Where it begins.
    #[serde(with = "crate::millis")]
    pub from: Instant,
    /// Where it ends.
    #[serde(with = "crate::millis")]
    pub to: Instant,
    /// The stable revision.
    pub stable: Counts,
    /// The candidate.
    pub candidate: Counts,
}
