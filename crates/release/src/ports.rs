//! What the engine needs from the world. Adapters live in the providers' folders.

use std::fmt;
use std::time::Duration;

use crate::{Counts, Revision, Split};

/// Identifies the state of a target that was seen: a write carries it, so that nobody else's
/// change is overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(pub String);

/// A target as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// How traffic is divided; none if the target does not exist yet.
    pub split: Option<Split>,
    /// What to send with a write; none if the target does not exist yet.
    pub token: Option<Token>,
}

/// Why a port could not do what it was asked.
#[derive(Debug)]
pub enum PortError {
    /// The target is not as it was seen: somebody else changed it.
    Moved(String),
    /// The provider refused or could not be reached.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved(what) => f.write_str(what),
            Self::Failed(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for PortError {}

/// Where traffic is divided: an alias, a service.
#[allow(async_fn_in_trait)]
pub trait Target {
    /// What is there now.
    async fn observe(&self) -> Result<Observed, PortError>;
    /// Sets the split, if the target still is what `seen` says; returns what is there now.
    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError>;
}

/// What revisions did.
#[allow(async_fn_in_trait)]
pub trait Metrics {
    /// How fine the counts are in time: looking more often shows nothing new.
    fn resolution(&self) -> Duration;
    /// The counts of one revision between two points in time.
    async fn counts(
        &self,
        revision: &Revision,
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError>;
}

/// Time. Tests use [`crate::virtual_clock::VirtualClock`] and never wait.
#[allow(async_fn_in_trait)]
pub trait Clock {
    /// Time since the Unix epoch.
    fn now(&self) -> Duration;
    /// Returns at this time.
    async fn sleep_until(&self, until: Duration);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    async fn sleep_until(&self, until: Duration) {
        tokio::time::sleep(until.saturating_sub(self.now())).await;
    }
}
