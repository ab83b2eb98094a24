//! The middle and the ends of many measurements.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    /// The spread of at least one measurement.
    pub(crate) fn of(mut all: Vec<Duration>) -> Spread {
        all.sort();
        let millis = |at: usize| all.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
        Spread {
            median: millis(all.len() / 2),
            lowest: millis(0),
            highest: millis(all.len().saturating_sub(1)),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms [{:.2} to {:.2}]", self.median, self.lowest, self.highest)
    }
}
