//! What was counted.

use serde::{Deserialize, Serialize};

/// Requests of one revision within one window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All requests.
    pub requests: u64,
    /// Those that failed: failed invocations and answers with a 5xx status.
    pub errors: u64,
}

/// What both revisions did since the step began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The stable revision, over the same window.
    pub stable: Counts,
    /// The candidate.
    pub candidate: Counts,
}

impl Counts {
    /// The share of requests that failed; 0 without requests.
    pub fn error_rate(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}
