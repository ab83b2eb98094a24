//! The middle and the ends of many measurements, and of ratios of them.

use std::time::Duration;

use serde::Serialize;

/// A measurement repeated in every round of a run; milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(pub(crate) Vec<f64>);

/// The middle and the ends.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Series {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    pub(crate) fn spread(&self) -> Spread {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Spread {
            median: median(&sorted),
            lowest: at(0),
            highest: at(sorted.len().saturating_sub(1)),
        }
    }

    /// The ratios of what was measured in the same rounds: the machine's speed drifts, and what
    /// lies close together in time drifts together.
    pub(crate) fn over(&self, other: &Series) -> Series {
        Series(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }
}

/// The middle of sorted values; of an even number, the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// The median of durations, in milliseconds.
pub(crate) fn median_ms(times: &[Duration]) -> f64 {
    let mut series = Series::default();
    times.iter().for_each(|time| series.push(*time));
    series.spread().median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let (a, b) = (Series(vec![1.0, 20.0, 3.0]), Series(vec![10.0, 100.0, 30.0]));
        let ratios = a.over(&b).spread();
        assert_eq!((ratios.median, ratios.lowest, ratios.highest), (0.1, 0.1, 0.2));
        assert_eq!(Series(vec![4.0, 1.0]).spread().median, 2.5);
    }
}
