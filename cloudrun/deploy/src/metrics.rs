//! A revision's counts from Cloud Monitoring.
//!
//! All of them come from one metric, the distribution of latencies with its label of the answer's
//! class: how many requests there were, how many were answered with 5xx, how many took longer than
//! a limit. Two metrics could be late at different times, and half a truth would be a wrong one.
//!
//! What the model answered is counted by a metric of its own, from the container's log. Shares of
//! classes are shares of what it counted, so that it need not agree with the requests. gRPC requests
//! that failed are in it, too: the other metric takes them for answered, since their HTTP status is 200.

use std::time::Duration;

use serde_json::Value;
use slsml_release::ports::{Metrics, PortError};
use slsml_release::{Counts, Latency, Measure, OUTPUTS, Revision};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::logs::{FAILED, LABEL, METRIC_TYPE};
use crate::{CloudRunError, Google};

const LIST: &str = "ListTimeSeries";
const METRIC: &str = "run.googleapis.com/request_latencies";

/// Counts of one service's revisions.
#[derive(Clone, Debug)]
pub struct RevisionMetrics {
    google: Google,
    service: String,
    /// Seconds in one data point.
    period: u64,
}

impl RevisionMetrics {
    /// Counts of `service`, in data points of `period` seconds: 60 on Google Cloud, whose metrics are
    /// not finer, 1 on the local cloud.
    pub fn new(google: &Google, service: &str, period: u64) -> RevisionMetrics {
        RevisionMetrics { google: google.clone(), service: service.into(), period: period.max(1) }
    }

    /// How late Google counts, as it says; here there is nothing between.
    fn late(&self) -> Duration {
        if self.period < 60 { Duration::from_secs(1) } else { Duration::from_secs(180) }
    }

    async fn read(
        &self,
        revision: &str,
        measures: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Result<Counts, CloudRunError> {
        let asks = |measure| measures.contains(&measure);
        let reads_log = asks(Measure::Errors) || asks(Measure::Outputs);
        // Two metrics are late at different times: only what both have counted is evidence.
        let to = if reads_log { to.saturating_sub(self.late()) } else { to };
        // Whole periods from the start, so that none reaches back before it.
        let from = from.as_secs() + u64::from(from.subsec_nanos() > 0);
        let periods = to.as_secs().saturating_sub(from) / self.period;
        if periods == 0 {
            return Ok(Counts::default());
        }
        let interval = (from, from + periods * self.period);
        let mut found = Histogram::default();
        let each = |series: &Value| {
            let failed = series["metric"]["labels"]["response_code_class"] == "5xx";
            for point in series["points"].as_array().into_iter().flatten() {
                found.add(&point["value"]["distributionValue"], failed)?;
            }
            Ok(())
        };
        self.series(METRIC, revision, interval, each).await?;
        let answers = match reads_log {
            true => self.answers(revision, interval).await?,
            false => Answers::default(),
        };
        // A request may be at the edge of a period in one metric and beyond it in the other.
        found.failed = (found.failed + answers.failed).min(found.requests);
        let mut counts = found.counts(measures);
        if asks(Measure::Outputs) {
            counts.outputs = answers.outputs;
        }
        Ok(counts)
    }

    /// How many answers of each class or range there were, and how many failed unseen.
    async fn answers(
        &self,
        revision: &str,
        interval: (u64, u64),
    ) -> Result<Answers, CloudRunError> {
        let mut failed = 0;
        let mut outputs = vec![0; usize::from(OUTPUTS)];
        let each = |series: &Value| {
            let class = series["metric"]["labels"][LABEL].as_str().unwrap_or_default();
            let counted = match class == FAILED {
                true => Some(&mut failed),
                false => class.parse().ok().and_then(|at: usize| outputs.get_mut(at)),
            };
            if let Some(count) = counted {
                let points = series["points"].as_array().into_iter().flatten();
                *count += points.map(|point| number(&point["value"]["int64Value"])).sum::<u64>();
            }
            Ok(())
        };
        match self.series(METRIC_TYPE, revision, interval, each).await {
            // Nothing was counted yet: Monitoring knows a metric from its first value on.
            Err(error) if error.is_not_found() => return Ok(Answers::default()),
            other => other?,
        }
        let used = outputs.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        outputs.truncate(used);
        Ok(Answers { outputs, failed })
    }

    /// The series of a metric for one revision, in whole periods of an interval.
    async fn series(
        &self,
        metric: &str,
        revision: &str,
        (from, end): (u64, u64),
        mut each: impl FnMut(&Value) -> Result<(), CloudRunError>,
    ) -> Result<(), CloudRunError> {
        let labels = [
            ("project_id", self.google.project()),
            ("location", self.google.region()),
            ("service_name", &self.service),
            ("revision_name", revision),
        ];
        let query = [
            ("filter", filter(metric, &labels)),
            ("interval.startTime", rfc3339(from)),
            ("interval.endTime", rfc3339(end)),
            ("aggregation.alignmentPeriod", format!("{}s", self.period)),
            ("aggregation.perSeriesAligner", "ALIGN_DELTA".into()),
            ("view", "FULL".into()),
        ];
        let page = |page: &Value| {
            check_whole(page)?;
            page["timeSeries"].as_array().into_iter().flatten().try_for_each(&mut each)
        };
        self.google.pages(LIST, &self.google.time_series_url(), &query, page).await
    }
}

/// A revision's series, and no others: another region may have a revision of that name.
fn filter(metric: &str, labels: &[(&str, &str); 4]) -> String {
    let labels = labels.map(|(name, value)| format!("resource.labels.{name} = \"{value}\""));
    format!(
        "metric.type = \"{metric}\" AND resource.type = \"cloud_run_revision\" AND {}",
        labels.join(" AND ")
    )
}

/// An answer that may lack series is no evidence: errors might be in what is missing.
fn check_whole(page: &Value) -> Result<(), CloudRunError> {
    let errors = page["executionErrors"].as_array().into_iter().flatten();
    let errors = errors.map(|error| error["message"].as_str().unwrap_or("an error without words"));
    let unreachable = page["unreachable"].as_array().into_iter().flatten();
    let unreachable = unreachable.map(|region| region.as_str().unwrap_or("a region"));
    let all: Vec<&str> = errors.chain(unreachable).collect();
    match all.is_empty() {
        true => Ok(()),
        false => Err(CloudRunError::Failed {
            what: LIST.into(),
            reason: format!("not all of it could be read ({})", all.join(", ")),
        }),
    }
}

/// A count, which JSON has as a text.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse::<u64>().ok()).unwrap_or(0)
}

/// What the container's log says of requests.
#[derive(Debug, Default)]
struct Answers {
    /// Answers of each class or range.
    outputs: Vec<u64>,
    /// gRPC requests that failed.
    failed: u64,
}

/// Requests by how long they took: upper bounds in milliseconds and how many.
#[derive(Debug, Default)]
struct Histogram {
    requests: u64,
    failed: u64,
    /// Lower and upper bound of a bucket, and how many are in it.
    buckets: Vec<(f64, f64, u64)>,
}

impl Histogram {
    fn add(&mut self, value: &Value, failed: bool) -> Result<(), CloudRunError> {
        let count = number(&value["count"]);
        self.requests += count;
        if failed {
            self.failed += count;
        }
        let counts = value["bucketCounts"].as_array().into_iter().flatten();
        for (at, count) in counts.enumerate().map(|(at, count)| (at, number(count))) {
            if count > 0 {
                let (low, high) = bounds(&value["bucketOptions"], at)?;
                self.buckets.push((low, high, count));
            }
        }
        Ok(())
    }

    /// How many took longer than a limit: those of buckets that begin at it or above. A limit within a
    /// bucket counts as the nearer of its bounds.
    fn slower(&self, limit: f64) -> u64 {
        let is_slower =
            |low: f64, high: f64| low >= limit || high > limit && limit - low < high - limit;
        let slower = self.buckets.iter().filter(|(low, high, _)| is_slower(*low, *high));
        slower.map(|(_, _, count)| count).sum()
    }

    /// The upper bound of the bucket in which a share of the requests ends.
    fn percentile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.buckets.clone();
        sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
        let all: u64 = sorted.iter().map(|(_, _, count)| count).sum();
        let mut seen = 0;
        let reached = sorted.iter().find(|(_, _, count)| {
            seen += count;
            seen as f64 >= share * all as f64
        });
        reached.map(|(low, high, _)| if high.is_finite() { *high } else { *low })
    }

    fn counts(&self, measures: &[Measure]) -> Counts {
        let events = measures.iter().filter_map(|measure| {
            let events = match measure {
                Measure::Errors => self.failed,
                Measure::SlowerThan(limit) => self.slower(limit.as_secs_f64() * 1e3),
                _ => return None,
            };
            Some((measure.clone(), events))
        });
        let at = |share| self.percentile(share);
        let latency = match (at(0.50), at(0.95), at(0.99)) {
            (Some(p50_ms), Some(p95_ms), Some(p99_ms)) => Some(Latency { p50_ms, p95_ms, p99_ms }),
            _ => None,
        };
        Counts { requests: self.requests, events: events.collect(), outputs: Vec::new(), latency }
    }
}

/// The bounds of a bucket.
/// <https://cloud.google.com/monitoring/api/ref_v3/rest/v3/TypedValue#bucketoptions>
fn bounds(options: &Value, at: usize) -> Result<(f64, f64), CloudRunError> {
    let upper: Box<dyn Fn(usize) -> f64> =
        if let Some(all) = options["explicitBuckets"]["bounds"].as_array() {
            let all: Vec<f64> = all.iter().filter_map(Value::as_f64).collect();
            Box::new(move |at| all.get(at).copied().unwrap_or(f64::INFINITY))
        } else if options["exponentialBuckets"].is_object() {
            let number = |name: &str| options["exponentialBuckets"][name].as_f64();
            let (growth, scale) =
                (number("growthFactor").unwrap_or(1.0), number("scale").unwrap_or(1.0));
            let finite = number("numFiniteBuckets").unwrap_or(0.0) as usize;
            Box::new(move |at| match at <= finite {
                true => scale * growth.powi(at as i32),
                false => f64::INFINITY,
            })
        } else if options["linearBuckets"].is_object() {
            let number = |name: &str| options["linearBuckets"][name].as_f64().unwrap_or(0.0);
            let (width, offset, finite) =
                (number("width"), number("offset"), number("numFiniteBuckets") as usize);
            Box::new(move |at| match at <= finite {
                true => offset + width * at as f64,
                false => f64::INFINITY,
            })
        } else {
            return Err(CloudRunError::Incomplete { call: LIST, field: "bucketOptions" });
        };
    let low = if at == 0 { 0.0 } else { upper(at - 1) };
    Ok((low, upper(at)))
}

fn rfc3339(seconds: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds.cast_signed());
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

impl Metrics for RevisionMetrics {
    fn resolution(&self) -> Duration {
        Duration::from_secs(self.period)
    }

    /// Only whole periods are read, from a step's begin on: at either end of one some of it is missing,
    /// which is nothing where a period is a second.
    fn delay(&self) -> Duration {
        let edges = if self.period < 60 { Duration::ZERO } else { 2 * self.resolution() };
        self.late() + edges
    }

    async fn knows(&self, measure: &Measure) -> Result<bool, PortError> {
        Ok(matches!(measure, Measure::Errors | Measure::SlowerThan(_) | Measure::Outputs))
    }

    async fn counts(
        &self,
        revision: &Revision,
        measures: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError> {
        Ok(self.read(&revision.0, measures, from, to).await?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn buckets_are_read_as_the_api_defines_them() {
        let exponential = json!({ "exponentialBuckets": { "numFiniteBuckets": 3, "growthFactor": 2.0, "scale": 10.0 } });
        let all: Vec<_> = (0..5).map(|at| bounds(&exponential, at).unwrap()).collect();
        assert_eq!(
            all,
            [(0.0, 10.0), (10.0, 20.0), (20.0, 40.0), (40.0, 80.0), (80.0, f64::INFINITY)]
        );
        let explicit = json!({ "explicitBuckets": { "bounds": [1.0, 5.0] } });
        let all: Vec<_> = (0..3).map(|at| bounds(&explicit, at).unwrap()).collect();
        assert_eq!(all, [(0.0, 1.0), (1.0, 5.0), (5.0, f64::INFINITY)]);
        let linear =
            json!({ "linearBuckets": { "numFiniteBuckets": 2, "width": 5.0, "offset": 1.0 } });
        assert_eq!(bounds(&linear, 1).unwrap(), (1.0, 6.0));
        assert!(bounds(&json!({}), 0).is_err());
    }

    #[test]
    fn an_answer_that_is_not_whole_is_no_evidence() {
        let whole = json!({ "timeSeries": [], "executionErrors": [], "unreachable": [] });
        assert!(check_whole(&whole).is_ok());
        let errors = json!({ "executionErrors": [{ "code": 4, "message": "deadline" }] });
        assert!(check_whole(&errors).unwrap_err().to_string().contains("deadline"));
        assert!(check_whole(&json!({ "unreachable": ["europe-west1"] })).is_err());
    }

    #[test]
    fn requests_errors_and_slow_ones_come_from_one_distribution() {
        let options = json!({ "explicitBuckets": { "bounds": [10.0, 100.0, 1000.0] } });
        let value = |counts: Value, count: &str| json!({ "count": count, "bucketOptions": options, "bucketCounts": counts });
        let mut found = Histogram::default();
        found.add(&value(json!(["5", "3", "1", "1"]), "10"), false).unwrap();
        found.add(&value(json!(["0", "2"]), "2"), true).unwrap();
        let slow = |millis| Measure::SlowerThan(Duration::from_millis(millis));
        let measures = [Measure::Errors, slow(100), slow(90), slow(20), slow(1000)];
        let counts = found.counts(&measures);
        assert_eq!((counts.requests, counts.events[&Measure::Errors]), (12, 2));
        assert_eq!(counts.events[&slow(100)], 2);
        assert_eq!(counts.events[&slow(90)], 2, "90 is nearer to 100 than to 10");
        assert_eq!(counts.events[&slow(20)], 7, "20 is nearer to 10");
        assert_eq!(counts.events[&slow(1000)], 1);
        assert_eq!(counts.latency.unwrap().p50_ms, 100.0);
    }
}
