//! How long the model takes: for each element of its inputs, as requests may have many rows or few, and no
//! less than the shortest run, as some of the work may be the same for all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a run takes, as far as is known.
#[derive(Debug)]
pub(crate) struct Pace {
    /// A moving mean, in picoseconds for an element; 0 until there was a run.
    mean: AtomicU64,
    /// The shortest run, in nanoseconds.
    shortest: AtomicU64,
}

/// A run shorter than this holds up nobody who shares its thread.
const QUICK: Duration = Duration::from_micros(200);

/// How long the first run is taken to need: slow until it is known to be quick.
const UNKNOWN: Duration = Duration::from_micros(800);

/// The share of the last run in the mean is one of so many.
const MEMORY: u64 = 8;

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace { mean: AtomicU64::new(0), shortest: AtomicU64::new(u64::MAX) }
    }

    /// A run with so many elements took so long.
    pub(crate) fn took(&self, time: Duration, elements: usize) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.shortest.fetch_min(nanos, Ordering::Relaxed);
        let picos = time.as_nanos() * 1000 / elements.max(1) as u128;
        let picos = u64::try_from(picos).unwrap_or(u64::MAX).max(1);
        // Two at once may lose one of them, which changes nothing.
        let next = match self.mean.load(Ordering::Relaxed) {
            0 => picos,
            mean => (mean - mean / MEMORY).saturating_add(picos / MEMORY).max(1),
        };
        self.mean.store(next, Ordering::Relaxed);
    }

    /// How long so many runs with so many elements altogether take.
    pub(crate) fn takes(&self, runs: usize, elements: usize) -> Duration {
        let count = u32::try_from(runs).unwrap_or(u32::MAX);
        match self.mean.load(Ordering::Relaxed) {
            0 => UNKNOWN * count,
            mean => {
                let shortest = Duration::from_nanos(self.shortest.load(Ordering::Relaxed));
                let all = Duration::from_nanos(mean.saturating_mul(elements as u64) / 1000);
                all.max(shortest * count)
            }
        }
    }

    pub(crate) fn is_quick(&self, elements: usize) -> bool {
        self.takes(1, elements) < QUICK
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
        assert!(pace.is_quick(64), "{:?}", pace.takes(1, 64));
    }

    #[test]
    fn what_is_the_same_for_all_runs_is_no_less_for_a_small_one() {
        let pace = Pace::new();
        assert_eq!(pace.takes(9, 9), 9 * UNKNOWN);
        pace.took(Duration::from_millis(5), 64);
        assert!(!pace.is_quick(1));
        assert_eq!(pace.takes(3, 3), Duration::from_millis(15));
    }
}
