//! How long the model takes: for each element of its inputs, as requests may have many rows or few.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a run takes, as far as is known.
#[derive(Debug)]
pub(crate) struct Pace {
    /// A moving mean, in picoseconds for an element; 0 until there was a run.
    mean: AtomicU64,
}

/// A run shorter than this holds up nobody who shares its thread.
const QUICK: Duration = Duration::from_micros(200);

/// How long the first run is taken to need: slow until it is known to be quick.
const UNKNOWN: Duration = Duration::from_micros(800);

/// The share of the last run in the mean is one of so many.
const MEMORY: u64 = 8;

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace { mean: AtomicU64::new(0) }
    }

    /// Runs with so many elements took so long.
    pub(crate) fn took(&self, time: Duration, elements: usize) {
        let picos = time.as_nanos() * 1000 / elements.max(1) as u128;
        let picos = u64::try_from(picos).unwrap_or(u64::MAX).max(1);
        // Two at once may lose one of them, which changes nothing.
        let next = match self.mean.load(Ordering::Relaxed) {
            0 => picos,
            mean => (mean - mean / MEMORY).saturating_add(picos / MEMORY).max(1),
        };
        self.mean.store(next, Ordering::Relaxed);
    }

    /// How long runs with so many elements take.
    pub(crate) fn takes(&self, elements: usize) -> Duration {
        match self.mean.load(Ordering::Relaxed) {
            0 => UNKNOWN,
            mean => Duration::from_nanos(mean.saturating_mul(elements as u64) / 1000),
        }
    }

    pub(crate) fn is_quick(&self, elements: usize) -> bool {
        self.takes(elements) < QUICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_take_longer_than_one_and_say_nothing_against_it() {
        let pace = Pace::new();
        assert!(!pace.is_quick(64), "nobody knows yet");
        pace.took(Duration::from_micros(50), 64);
        assert!(pace.is_quick(64) && !pace.is_quick(640_000));
        pace.took(Duration::from_millis(500), 640_000);
        assert!(pace.is_quick(64), "{:?}", pace.takes(64));
    }
}
