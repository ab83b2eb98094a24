//! A version's counts from CloudWatch.
//!
//! Invocations, failed invocations and throttled ones are Lambda's own metrics, which every function
//! has. An HTTP answer with a 5xx status is a success to Lambda, so the runtime counts those itself
//! (`ServerErrors` in the namespace `slsml`); it counts nothing that Lambda counts. What the model
//! answered is the runtime's, too.
//!
//! The two arrive on different ways and at different times, and half a truth would be a wrong one:
//! failures without the requests they are a part of. So only the time counts up to which both say
//! nearly the same number of requests. Without the runtime's own counts (a role that may not write
//! logs, say) there is no evidence.

use std::time::Duration;

use aws_sdk_cloudwatch::types::{
    Dimension, DimensionFilter, Metric, MetricDataQuery, MetricStat, StatusCode,
};
use aws_smithy_types::DateTime;
use slsml_release::ports::{Metrics, PortError};
use slsml_release::{Counts, Latency, Measure, OUTPUTS, Revision};

use crate::{Clients, LambdaError};

/// Counts of the versions behind one alias.
#[derive(Clone, Debug)]
pub struct VersionMetrics {
    clients: Clients,
    function: String,
    alias: String,
    /// Seconds in one data point.
    period: i32,
}

impl VersionMetrics {
    /// Counts of what `alias` of `function` sent to its versions, in data points of `period`
    /// seconds: 60 on AWS, whose Lambda metrics are not finer, 1 on the local cloud.
    pub fn new(clients: &Clients, function: &str, alias: &str, period: i32) -> VersionMetrics {
        let (function, alias) = (function.into(), alias.into());
        VersionMetrics { clients: clients.clone(), function, alias, period }
    }

    /// What requests are sent to, as metrics name it.
    fn resource(&self) -> String {
        format!("{}:{}", self.function, self.alias)
    }

    /// What to ask for, under the names the sums are known by afterwards.
    fn queries(&self, version: &str, measures: &[Measure]) -> Vec<Query> {
        let resource = self.resource();
        let dimensions = |version_is_called: &str| {
            vec![
                dimension("FunctionName", &self.function),
                dimension("Resource", &resource),
                dimension(version_is_called, version),
            ]
        };
        let lambda = |name: &str| {
            Metric::builder()
                .namespace("AWS/Lambda")
                .metric_name(name)
                .set_dimensions(Some(dimensions("ExecutedVersion")))
                .build()
        };
        let own = |name: &str| {
            let (namespace, name) = named(name);
            Metric::builder()
                .namespace(namespace)
                .metric_name(name)
                .set_dimensions(Some(dimensions("Version")))
                .build()
        };
        let sum = |of, metric| Query { of, metric, stat: "Sum".into() };
        let latency = |of, stat: String| Query { of, metric: lambda("Duration"), stat };
        let mut queries = vec![
            sum(Of::Invocations, lambda("Invocations")),
            sum(Of::Failed, lambda("Errors")),
            sum(Of::Answered, own("Requests")),
            sum(Of::ServerErrors, own("ServerErrors")),
            latency(Of::Percentile(50), "p50".into()),
            latency(Of::Percentile(95), "p95".into()),
            latency(Of::Percentile(99), "p99".into()),
        ];
        for measure in measures {
            let of = Of::Measure(measure.clone());
            match measure {
                Measure::Errors => {}
                Measure::Throttles => queries.push(sum(of, lambda("Throttles"))),
                Measure::SlowerThan(limit) => {
                    queries.push(latency(of, format!("TC({}:)", limit.as_secs_f64() * 1e3)));
                }
                Measure::Custom(name) => queries.push(sum(of, own(name))),
                // The nth class or range is counted as 2 to the power of n, which keeps them apart
                // however CloudWatch rounds.
                Measure::Outputs => queries.extend((0..OUTPUTS).map(|bin| {
                    let value = 2f64.powi(bin.into());
                    let (low, high) = (0.75 * value, 1.5 * value);
                    let stat = format!("TC({low}:{high})");
                    Query { of: Of::Output(bin), metric: own("Prediction"), stat }
                })),
            }
        }
        queries
    }

    async fn read(
        &self,
        version: &str,
        measures: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Result<Counts, LambdaError> {
        // CloudWatch rounds a start down to a whole period, and would count what was before it.
        let period = self.period.unsigned_abs().max(1).into();
        let from = from.as_millis().div_ceil(1000) as u64;
        let from = from.div_ceil(period) * period;
        if from >= to.as_secs() {
            return Ok(Counts::default());
        }
        let queries = self.queries(version, measures);
        let wire = queries.iter().enumerate().map(|(at, query)| {
            let (metric, stat) = (query.metric.clone(), query.stat.clone());
            let stat = MetricStat::builder().metric(metric).period(self.period).stat(stat).build();
            MetricDataQuery::builder().id(format!("q{at}")).metric_stat(stat).build()
        });
        let time = |seconds: u64| DateTime::from_secs(seconds.cast_signed());
        let mut pages = self
            .clients
            .cloudwatch
            .get_metric_data()
            .set_metric_data_queries(Some(wire.collect()))
            .start_time(time(from))
            .end_time(time(to.as_secs()))
            .into_paginator()
            .send();
        let mut found: Vec<Vec<(i64, f64)>> = vec![Vec::new(); queries.len()];
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| LambdaError::of("GetMetricData", error))?;
            for series in page.metric_data_results() {
                let id = series.id().unwrap_or_default();
                let known = matches!(
                    series.status_code(),
                    Some(StatusCode::Complete | StatusCode::PartialData) | None
                );
                if !known {
                    return Err(LambdaError::Failed {
                        what: format!("reading the metric {id}"),
                        reason: format!("{:?}", series.status_code()),
                    });
                }
                let at = id.strip_prefix('q').and_then(|at| at.parse::<usize>().ok());
                if let Some(values) = at.and_then(|at| found.get_mut(at)) {
                    let times = series.timestamps().iter().map(DateTime::secs);
                    values.extend(times.zip(series.values().iter().copied()));
                }
            }
        }
        Ok(counts(&queries, &found, measures))
    }
}

/// The namespace of the runtime's metrics.
const NAMESPACE: &str = "slsml";

/// A metric's namespace and name: one of the user's own may be in a namespace of its own.
fn named(metric: &str) -> (&str, &str) {
    metric.rsplit_once('/').unwrap_or((NAMESPACE, metric))
}

/// One series to ask for.
struct Query {
    of: Of,
    metric: Metric,
    stat: String,
}

/// What a series holds.
#[derive(Clone, Debug, PartialEq)]
enum Of {
    Invocations,
    Failed,
    Answered,
    ServerErrors,
    Percentile(u8),
    Measure(Measure),
    Output(u8),
}

fn dimension(name: &str, value: &str) -> Dimension {
    Dimension::builder().name(name).value(value).build()
}

/// By how much the two sources may differ where both are complete: requests that began before a point
/// in time and ended after it.
const ALIKE: f64 = 0.95;

/// What is known for certain of the data points found, each with its time in seconds.
fn counts(queries: &[Query], found: &[Vec<(i64, f64)>], measures: &[Measure]) -> Counts {
    let values = |of: &Of| {
        let series = queries.iter().zip(found).filter(|(query, _)| query.of == *of);
        series.flat_map(|(_, values)| values.iter().copied()).collect::<Vec<(i64, f64)>>()
    };
    let [invoked, answered, failed] =
        [Of::Invocations, Of::Answered, Of::Failed].map(|of| values(&of));
    let until = settled(&invoked, &answered, &failed);
    let sum = |of: &Of| {
        let known =
            values(of).into_iter().filter(|(time, _)| until.is_some_and(|end| *time <= end));
        known.map(|(_, value)| value).sum::<f64>().round() as u64
    };
    let newest = |percent| {
        let newest = values(&Of::Percentile(percent)).into_iter().max_by_key(|(time, _)| *time);
        newest.map(|(_, value)| value)
    };
    let latency = match (newest(50), newest(95), newest(99)) {
        (Some(p50_ms), Some(p95_ms), Some(p99_ms)) => Some(Latency { p50_ms, p95_ms, p99_ms }),
        _ => None,
    };
    let events = measures.iter().filter(|measure| **measure != Measure::Outputs).map(|measure| {
        let events = match measure {
            Measure::Errors => sum(&Of::Failed) + sum(&Of::ServerErrors),
            other => sum(&Of::Measure(other.clone())),
        };
        (measure.clone(), events)
    });
    let mut outputs = Vec::new();
    if measures.contains(&Measure::Outputs) {
        outputs = (0..OUTPUTS).map(|bin| sum(&Of::Output(bin))).collect();
        let used = outputs.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        outputs.truncate(used);
    }
    Counts { requests: sum(&Of::Invocations), events: events.collect(), outputs, latency }
}

/// The latest time up to which both sources say nearly the same. A failed invocation may have been
/// counted by the runtime, or have ended it.
fn settled(invoked: &[(i64, f64)], answered: &[(i64, f64)], failed: &[(i64, f64)]) -> Option<i64> {
    let series = [invoked, answered, failed];
    let mut points: Vec<(i64, usize, f64)> = (0..)
        .zip(series)
        .flat_map(|(of, values)| values.iter().map(move |&(time, value)| (time, of, value)))
        .collect();
    points.sort_by_key(|(time, ..)| *time);
    let (mut sums, mut until) = ([0.0; 3], None);
    for points in points.chunk_by(|a, b| a.0 == b.0) {
        points.iter().for_each(|&(_, of, value)| sums[of] += value);
        let [invoked, answered, failed] = sums;
        if ALIKE * answered <= invoked && ALIKE * invoked <= answered + failed {
            until = points.first().map(|point| point.0);
        }
    }
    until
}

impl Metrics for VersionMetrics {
    fn resolution(&self) -> Duration {
        Duration::from_secs(self.period.unsigned_abs().into())
    }

    /// AWS says up to three minutes; here there is nothing between.
    fn delay(&self) -> Duration {
        if self.period < 60 { Duration::from_secs(1) } else { Duration::from_secs(180) }
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

    async fn knows(&self, measure: &Measure) -> Result<bool, PortError> {
        let Measure::Custom(name) = measure else { return Ok(true) };
        let (namespace, name) = named(name);
        let filter = |name: &str| DimensionFilter::builder().name(name);
        let mut pages = self
            .clients
            .cloudwatch
            .list_metrics()
            .namespace(namespace)
            .metric_name(name)
            .dimensions(filter("FunctionName").value(&self.function).build())
            .dimensions(filter("Resource").value(self.resource()).build())
            .dimensions(filter("Version").build())
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| LambdaError::of("ListMetrics", error))?;
            // One with more dimensions is another metric.
            if page.metrics().iter().any(|metric| metric.dimensions().len() == 3) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(series: &[(Of, &[(i64, f64)])]) -> Counts {
        let query = |of: &Of| Query {
            of: of.clone(),
            metric: Metric::builder().build(),
            stat: String::new(),
        };
        let queries: Vec<Query> = series.iter().map(|(of, _)| query(of)).collect();
        let found: Vec<_> = series.iter().map(|(_, points)| points.to_vec()).collect();
        counts(&queries, &found, &[Measure::Errors])
    }

    #[test]
    fn failures_count_only_with_the_requests_they_are_a_part_of() {
        let invocations = (Of::Invocations, &[(60, 1000.0), (120, 1000.0)][..]);
        let failed = (Of::Failed, &[(60, 10.0), (120, 10.0)][..]);
        let table = [
            // The runtime's own counts are not there yet, or never come.
            (vec![], (0, 0)),
            (vec![(60, 400.0)], (0, 0)),
            (vec![(60, 990.0)], (1000, 10)),
            (vec![(60, 985.0), (120, 995.0)], (2000, 20)),
            // What crosses a minute's end is counted in the next one.
            (vec![(60, 900.0), (120, 1080.0)], (2000, 20)),
        ];
        for (answered, expected) in table {
            let counts = of(&[invocations.clone(), failed.clone(), (Of::Answered, &answered)]);
            assert_eq!(
                (counts.requests, counts.events[&Measure::Errors]),
                expected,
                "{answered:?}"
            );
        }
        // The runtime counts what failed in it, too.
        let both = of(&[invocations, failed, (Of::Answered, &[(60, 1000.0), (120, 1000.0)])]);
        assert_eq!((both.requests, both.events[&Measure::Errors]), (2000, 20));
        // And the other way round.
        let early = of(&[(Of::Answered, &[(60, 500.0)]), (Of::ServerErrors, &[(60, 50.0)])]);
        assert_eq!((early.requests, early.events[&Measure::Errors]), (0, 0));
    }
}
