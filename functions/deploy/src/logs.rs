//! What a function's processes printed, from CloudWatch Logs.

use std::collections::VecDeque;
use std::time::Duration;

use slsml_release::ports::LogLine;

use crate::{AliasTarget, LambdaError};

impl AliasTarget {
    /// The newest lines of any version since a point in time, at most so many, the oldest first.
    pub async fn logs(&self, from: Duration, most: usize) -> Result<Vec<LogLine>, LambdaError> {
        let group = self.log_group().await?;
        let from = i64::try_from(from.as_millis()).unwrap_or(i64::MAX);
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
                let time = u64::try_from(event.timestamp().unwrap_or_default()).unwrap_or_default();
                if lines.len() == most {
                    lines.pop_front();
                }
                lines.push_back(LogLine {
                    id: event.event_id().unwrap_or_default().into(),
                    time: Duration::from_millis(time),
                    revision: version(event.log_stream_name().unwrap_or_default()).into(),
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
        Ok(group.map_or_else(|| format!("/aws/lambda/{}", self.function), str::to_owned))
    }
}

/// The version in a stream's name, as in `2026/11/23/[7]0123456789abcdef`.
fn version(stream: &str) -> &str {
    let version = stream.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    version.map_or("", |(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_streams_name_says_its_version() {
        assert_eq!(version("2026/11/23/[7]0123456789abcdef"), "7");
        assert_eq!(version("2026/11/23/[$LATEST]0123"), "$LATEST");
        assert_eq!(version("another"), "");
    }
}
