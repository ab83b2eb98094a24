//! What the engine needs from the world. Adapters live in the providers' folders.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::{Counts, Measure};
use crate::journal::Probed;
use crate::{Revision, Split};

/// Identifies the state of a target that was seen: a write carries it, so that nobody else's
/// change is overwritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

/// A target as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// How traffic is divided; none if the target does not exist yet.
    pub split: Option<Split>,
    /// What to send with a write; none if the target does not exist yet.
    pub token: Option<Token>,
}

/// Which lines are wanted.
#[derive(Clone, Copy, Debug)]
pub struct LogQuery<'a> {
    /// Since when, since the Unix epoch.
    pub from: Duration,
    /// The newest, at most so many.
    pub most: usize,
    /// Of this revision only.
    pub revision: Option<&'a str>,
}

/// A line a revision printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its id, where it is kept.
    pub id: String,
    /// When, since the Unix epoch.
    pub time: Duration,
    /// Who printed it.
    pub revision: String,
    /// How severe it is, where that is known.
    pub severity: Option<String>,
    /// What it says.
    pub text: String,
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

/// An error and its causes on one line. What a message has of its cause already is not said twice.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Where traffic is divided: an alias, a service.
#[allow(async_fn_in_trait)]
pub trait Target {
    /// What is there now. Traffic that is divided as no release divides it was moved by somebody else.
    async fn observe(&self) -> Result<Observed, PortError>;
    /// Sets the split, if the target still is what `seen` says; returns what is there now.
    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError>;
    /// Whether a revision is there and can be given traffic.
    async fn exists(&self, revision: &Revision) -> Result<bool, PortError>;
    /// Sends a revision requests of our own, at its own address.
    async fn probe(&self, revision: &Revision, requests: u32) -> Result<Probed, PortError>;
}

/// What revisions did.
#[allow(async_fn_in_trait)]
pub trait Metrics {
    /// How fine the counts are in time: looking more often shows nothing new.
    fn resolution(&self) -> Duration;
    /// How late a request may be counted.
    fn delay(&self) -> Duration;
    /// Whether what is to be counted is counted at all: a name that was mistyped would look like
    /// a clean record.
    async fn knows(&self, measure: &Measure) -> Result<bool, PortError>;
    /// What one revision did between two points in time, as far as it is known.
    async fn counts(
        &self,
        revision: &Revision,
        measures: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError>;
}

/// Identifies the bytes of an object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(pub String);

/// Where journals and leases lie: small objects that any machine finds, written on conditions.
#[allow(async_fn_in_trait)]
pub trait Store {
    /// An object and its tag.
    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, PortError>;
    /// Writes an object that is not there yet; none if it is.
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Tag>, PortError>;
    /// Replaces an object if it still is what was read; none if it is not.
    async fn replace(&self, key: &str, bytes: &[u8], seen: &Tag) -> Result<Option<Tag>, PortError>;
    /// The keys that begin so, sorted.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, PortError>;
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
