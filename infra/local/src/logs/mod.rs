//! What processes printed, line by line: CloudWatch Logs answers from it, and so does Cloud Logging.

pub(crate) mod api;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids;

/// How many lines of a group are kept, and how many bytes of them. The files in the local cloud's
/// folder have all of them.
const LINES: usize = 20_000;
const BYTES: usize = 16 << 20;

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Higher than that of every line before it, in any group.
    pub(crate) id: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) millis: u64,
    /// Who of the group printed it.
    pub(crate) stream: String,
    pub(crate) text: String,
}

#[derive(Debug, Default)]
struct Group {
    lines: VecDeque<Line>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    groups: HashMap<String, Group>,
    last: u64,
}

/// The lines of every group, since the local cloud was started.
#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<Inner>);

impl Logs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line.
    pub(crate) fn append(&self, group: &str, stream: &str, line: &[u8]) -> Line {
        let mut inner = self.inner();
        inner.last += 1;
        let line = Line {
            id: inner.last,
            millis: ids::now_millis(),
            stream: stream.into(),
            text: String::from_utf8_lossy(line).into_owned(),
        };
        let group = inner.groups.entry(group.into()).or_default();
        group.bytes += line.text.len();
        group.lines.push_back(line.clone());
        while group.lines.len() > LINES || group.bytes > BYTES {
            group.bytes -= group.lines.pop_front().map_or(0, |line| line.text.len());
        }
        line
    }

    /// The lines of a group, the oldest first; none if nothing was ever printed there.
    pub(crate) fn lines(&self, group: &str) -> Option<Vec<Line>> {
        Some(self.inner().groups.get(group)?.lines.iter().cloned().collect())
    }

    /// The groups there are.
    pub(crate) fn groups(&self) -> Vec<String> {
        self.inner().groups.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_newest_lines_stay() {
        let logs = Logs::default();
        for at in 0..LINES + 5 {
            logs.append("a", "s", at.to_string().as_bytes());
        }
        logs.append("b", "s", &vec![b'x'; BYTES + 1]);
        let lines = logs.lines("a").unwrap();
        assert_eq!((lines.len(), lines[0].text.as_str()), (LINES, "5"));
        assert!(logs.lines("b").unwrap().is_empty() && logs.lines("c").is_none());
    }
}
