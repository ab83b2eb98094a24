//! Time that passes only when somebody sleeps.

use std::sync::Mutex;
use std::time::Duration;

use crate::ports::Clock;

/// A clock for tests: sleeping sets it forward at once.
#[derive(Debug, Default)]
pub struct VirtualClock {
    now: Mutex<Duration>,
}

impl VirtualClock {
    /// A clock that shows this time.
    pub fn at(now: Duration) -> Self {
        Self { now: Mutex::new(now) }
    }

    /// Sets it, forward or back, as clocks are set.
    pub fn set(&self, now: Duration) {
        *self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn sleep_until(&self, until: Duration) {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = until.max(*now);
    }
}
