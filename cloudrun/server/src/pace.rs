//! How long the model takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a run takes, as far as is known.
#[derive(Debug)]
pub(crate) struct Pace {
    /// A moving mean, in nanoseconds.
    mean: AtomicU64,
}

/// A run shorter than this holds up nobody who shares its thread.
const QUICK: Duration = Duration::from_micros(200);

/// The share of the last run in the mean is one of so many.
const MEMORY: u64 = 8;

impl Pace {
    pub(crate) fn new() -> Pace {
        // Slow until it is known to be quick.
        Pace { mean: AtomicU64::new(u64::try_from((4 * QUICK).as_nanos()).unwrap_or(u64::MAX)) }
    }

    /// A run took so long.
    pub(crate) fn took(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Two at once may lose one of them, which changes nothing.
        let mean = self.mean.load(Ordering::Relaxed);
        let next = mean - mean / MEMORY + nanos / MEMORY;
        self.mean.store(next, Ordering::Relaxed);
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.mean() < QUICK
    }

    /// How long a run takes.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean.load(Ordering::Relaxed))
    }
}
