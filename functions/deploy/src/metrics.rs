//! A version's counts from CloudWatch.
//!
//! Invocations and failed invocations are Lambda's own metrics, which every function has. An HTTP
//! answer with a 5xx status is a success to Lambda, so the runtime counts those itself
//! (`ServerErrors` in the namespace `slsml`); it counts nothing that Lambda counts.
//!
//! The two arrive on different ways and at different times. A request counts as evidence once both
//! know of it: without the runtime's own counts (a role that may not write logs, say) there is none.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat, StatusCode};
use aws_smithy_types::DateTime;
use slsml_release::ports::{Metrics, PortError};
use slsml_release::{Counts, Revision};

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

    fn query(
        &self,
        id: &str,
        namespace: &str,
        name: &str,
        dimensions: Vec<(&str, &str)>,
    ) -> MetricDataQuery {
        let dimensions = dimensions
            .into_iter()
            .map(|(name, value)| Dimension::builder().name(name).value(value).build());
        let metric = Metric::builder()
            .namespace(namespace)
            .metric_name(name)
            .set_dimensions(Some(dimensions.collect()))
            .build();
        let stat = MetricStat::builder().metric(metric).period(self.period).stat("Sum").build();
        MetricDataQuery::builder().id(id).metric_stat(stat).build()
    }

    async fn read(
        &self,
        version: &str,
        from: Duration,
        to: Duration,
    ) -> Result<Counts, LambdaError> {
        // CloudWatch rounds a start down to a whole period, and would count what was before it.
        let period = self.period.unsigned_abs().max(1).into();
        let from = from.as_secs().div_ceil(period) * period;
        if from > to.as_secs() {
            return Ok(Counts::default());
        }
        let resource = format!("{}:{}", self.function, self.alias);
        let lambda = || {
            vec![
                ("FunctionName", self.function.as_str()),
                ("Resource", resource.as_str()),
                ("ExecutedVersion", version),
            ]
        };
        let own = || {
            vec![
                ("FunctionName", self.function.as_str()),
                ("Resource", resource.as_str()),
                ("Version", version),
            ]
        };
        let queries = vec![
            self.query("invocations", "AWS/Lambda", "Invocations", lambda()),
            self.query("failed", "AWS/Lambda", "Errors", lambda()),
            self.query("answered", "slsml", "Requests", own()),
            self.query("server_errors", "slsml", "ServerErrors", own()),
        ];
        let time = |seconds: u64| DateTime::from_secs(seconds as i64);
        let mut pages = self
            .clients
            .cloudwatch
            .get_metric_data()
            .set_metric_data_queries(Some(queries))
            .start_time(time(from))
            .end_time(time(to.as_secs() + 1))
            .into_paginator()
            .send();
        let mut sums: HashMap<String, u64> = HashMap::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| LambdaError::of("GetMetricData", error))?;
            for series in page.metric_data_results() {
                let id = series.id().unwrap_or_default();
                if !matches!(
                    series.status_code(),
                    Some(StatusCode::Complete | StatusCode::PartialData) | None
                ) {
                    return Err(LambdaError::Failed {
                        what: format!("reading the metric {id}"),
                        reason: format!("{:?}", series.status_code()),
                    });
                }
                *sums.entry(id.into()).or_default() +=
                    series.values().iter().sum::<f64>().round() as u64;
            }
        }
        let sum = |id: &str| sums.get(id).copied().unwrap_or(0);
        Ok(Counts {
            requests: sum("invocations").min(sum("answered") + sum("failed")),
            errors: sum("failed") + sum("server_errors"),
        })
    }
}

impl Metrics for VersionMetrics {
    fn resolution(&self) -> Duration {
        Duration::from_secs(self.period.unsigned_abs().into())
    }

    async fn counts(
        &self,
        revision: &Revision,
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError> {
        Ok(self.read(&revision.0, from, to).await?)
    }
}
