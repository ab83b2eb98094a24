//! A version's counts from CloudWatch.
//!
//! Invocations, failed invocations and throttled ones are Lambda's own metrics, which every function
//! has. An HTTP answer with a 5xx status is a success to Lambda, so the runtime counts those itself
//! (`ServerErrors` in the namespace `slsml`); it counts nothing that Lambda counts. What the model
//! answered is the runtime's, too.
//!
//! The two arrive on different ways and at different times. A request counts as evidence once both
//! know of it: without the runtime's own counts (a role that may not write logs, say) there is none.

use std::time::Duration;

use aws_sdk_cloudwatch::types::{
    Dimension, DimensionFilter, Metric, MetricDataQuery, MetricStat, StatusCode,
};
use aws_smithy_types::DateTime;
use slsml_release::ports::{Metrics, PortError};
use slsml_release::{Counts, Latency, Measure, Revision};

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

    /// What to ask for, under the names the sums are known by afterwards.
    fn queries(&self, version: &str, measures: &[Measure]) -> Vec<Query> {
        let resource = format!("{}:{}", self.function, self.alias);
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
            // A metric of the user's own may be in a namespace of its own.
            let (namespace, name) = name.rsplit_once('/').unwrap_or((NAMESPACE, name));
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
                Measure::Outputs => queries.extend((0..OUTPUT_BINS).map(|bin| {
                    let (low, high) = (0.75 * 2f64.powi(bin), 1.5 * 2f64.powi(bin));
                    let stat = format!("TC({low}:{high})");
                    Query { of: Of::Output(bin.unsigned_abs()), metric: own("Prediction"), stat }
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
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); queries.len()];
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
                    values.extend(series.values());
                }
            }
        }
        Ok(counts(&queries, &found, measures))
    }
}

/// The namespace of the runtime's metrics.
const NAMESPACE: &str = "slsml";

/// How many classes or ranges of the outputs there are at most.
const OUTPUT_BINS: i32 = 16;

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
    Output(u32),
}

fn dimension(name: &str, value: &str) -> Dimension {
    Dimension::builder().name(name).value(value).build()
}

fn counts(queries: &[Query], found: &[Vec<f64>], measures: &[Measure]) -> Counts {
    let values = |of: &Of| {
        let series = queries.iter().zip(found).filter(|(query, _)| query.of == *of);
        series.flat_map(|(_, values)| values.iter().copied()).collect::<Vec<f64>>()
    };
    let sum = |of: &Of| values(of).iter().sum::<f64>().round() as u64;
    // The newest comes first, as CloudWatch sorts them.
    let newest = |percent| values(&Of::Percentile(percent)).first().copied();
    let latency = match (newest(50), newest(95), newest(99)) {
        (Some(p50_ms), Some(p95_ms), Some(p99_ms)) => Some(Latency { p50_ms, p95_ms, p99_ms }),
        _ => None,
    };
    let failed = sum(&Of::Failed);
    let events = measures.iter().filter(|measure| **measure != Measure::Outputs).map(|measure| {
        let events = match measure {
            Measure::Errors => failed + sum(&Of::ServerErrors),
            other => sum(&Of::Measure(other.clone())),
        };
        (measure.clone(), events)
    });
    let mut outputs = Vec::new();
    if measures.contains(&Measure::Outputs) {
        let bins = 0..OUTPUT_BINS.unsigned_abs();
        outputs = bins.map(|bin| sum(&Of::Output(bin))).collect();
        let used = outputs.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        outputs.truncate(used);
    }
    Counts {
        requests: sum(&Of::Invocations).min(sum(&Of::Answered) + failed),
        events: events.collect(),
        outputs,
        latency,
    }
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
        let (namespace, name) = name.rsplit_once('/').unwrap_or((NAMESPACE, name));
        let function =
            DimensionFilter::builder().name("FunctionName").value(&self.function).build();
        let call = self.clients.cloudwatch.list_metrics().namespace(namespace).metric_name(name);
        let listed = call.dimensions(function).send().await;
        let listed = listed.map_err(|error| LambdaError::of("ListMetrics", error))?;
        Ok(!listed.metrics().is_empty())
    }
}
