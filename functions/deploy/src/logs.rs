//! What a function's processes printed, from CloudWatch Logs.

use std::collections::VecDeque;
use std::time::Duration;

use slsml_release::ports::{LogLine, LogQuery};

use crate::{AliasTarget, LambdaError};

impl AliasTarget {
    /// Lines of versions, the oldest first.
    pub async fn logs(&self, query: &LogQuery<'_>) -> Result<Vec<LogLine>, LambdaError> {
        let group = self.log_group().await?;
        let is_shared = group != self.own_log_group();
        let from = i64::try_from(query.from.as_millis()).unwrap_or(i64::MAX);
        let call = self.clients.logs.filter_log_events().log_group_name(group).start_time(from);
        let mut pages = call.into_paginator().send();
        let mut lines = VecDeque::new();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(|error| LambdaError::of("FilterLogEvents", error)) {
                // The group comes with the first line.
                Err(error) if error.is_not_found() => break,
                other => other?,
            };
            for event in page.events() {
                let stream = event.log_stream_name().unwrap_or_default();
                let revision = version(stream);
                let is_of_another = is_shared && !is_of(&self.function, stream);
                if is_of_another || query.revision.is_some_and(|wanted| wanted != revision) {
                    continue;
                }
                let time = u64::try_from(event.timestamp().unwrap_or_default()).unwrap_or_default();
                if lines.len() == query.most {
                    lines.pop_front();
                }
                lines.push_back(LogLine {
                    id: event.event_id().unwrap_or_default().into(),
                    time: Duration::from_millis(time),
                    revision: revision.into(),
                    severity: None,
                    text: event.message().unwrap_or_default().trim_end().into(),
                });
            }
        }
        Ok(lines.into())
    }

    /// Where the function's log goes: a function may have another group than the one of its name.
    async fn log_group(&self) -> Result<String, LambdaError> {
        let call = self.clients.lambda.get_function_configuration();
        let found = call.function_name(&self.function).send().await;
        let found =
            found.map_err(|error| match LambdaError::of("GetFunctionConfiguration", error) {
                error if error.is_not_found() => {
                    LambdaError::NoFunction { function: self.function.clone() }
                }
                error => error,
            })?;
        let group = found.logging_config().and_then(|logging| logging.log_group());
        Ok(group.map_or_else(|| self.own_log_group(), str::to_owned))
    }

    fn own_log_group(&self) -> String {
        format!("/aws/lambda/{}", self.function)
    }
}

/// Whether a stream of a group that functions share is this one's, as in `2026/11/23/digits[7]0123`.
/// <https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-loggroups.html>
fn is_of(function: &str, stream: &str) -> bool {
    let before = stream.split_once('[').map_or(stream, |(before, _)| before);
    before.rsplit('/').next() == Some(function)
}

/// The version in a stream's name, as in `2026/11/23/[7]0123456789abcdef`.
fn version(stream: &str) -> &str {
    let version = stream.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    version.map_or("", |(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::{is_of, version};

    #[test]
    fn a_streams_name_says_its_version() {
        assert_eq!(version("2026/11/23/[7]0123456789abcdef"), "7");
        assert_eq!(version("2026/11/23/[$LATEST]0123"), "$LATEST");
        assert_eq!(version("another"), "");
        assert_eq!(version("2026/11/23/digits[7]0123"), "7");
    }

    #[test]
    fn a_stream_of_a_shared_group_says_its_function() {
        assert!(is_of("digits", "2026/11/23/digits[7]0123456789abcdef"));
        assert!(!is_of("digits", "2026/11/23/other-digits[7]0123456789abcdef"));
        assert!(!is_of("digits", "2026/11/23/[7]0123456789abcdef"));
    }
}
