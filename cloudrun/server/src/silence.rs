//! How long a client may be silent.
//!
//! hyper has a timer for headers, too. It costs every request two changes of the runtime's timers, and
//! closes connections between two requests as well: whoever keeps some, as load balancers do, may send
//! its next request at that very moment, and never knows whether it was done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Version;

/// How long a client may take to send a request's headers, and its first byte after it connected.
const HEADERS: Duration = Duration::from_secs(10);

/// How long a connection is kept that nothing is asked on. Google's load balancers keep theirs for 600 s
/// and want the server to be the more patient one:
/// <https://cloud.google.com/load-balancing/docs/https#timeout-keepalive-backends>
const IDLE: Duration = Duration::from_secs(620);

/// How often it is looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(2);

/// What is waited for on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The rest of a request's headers, or the first byte of all.
    Headers,
    /// Nothing: a request is being answered.
    Nothing,
    /// The next request.
    Request,
}

impl Awaited {
    const ALL: [Awaited; 3] = [Awaited::Headers, Awaited::Nothing, Awaited::Request];
}

/// A connection's.
pub(crate) struct Silence {
    accepted: Instant,
    /// Milliseconds from then to its last change, times four, and what is awaited.
    state: AtomicU64,
}

impl Silence {
    pub(crate) fn new() -> Silence {
        Silence { accepted: Instant::now(), state: AtomicU64::new(Awaited::Headers as u64) }
    }

    fn set(&self, awaited: Awaited) {
        let since = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        self.state.store(since << 2 | awaited as u64, Ordering::Relaxed);
    }

    fn get(&self) -> (Awaited, Duration) {
        let state = self.state.load(Ordering::Relaxed);
        let awaited = Awaited::ALL[(state & 3) as usize % Awaited::ALL.len()];
        (awaited, Duration::from_millis(state >> 2))
    }

    /// Bytes came.
    pub(crate) fn heard(&self) {
        if self.get().0 == Awaited::Request {
            self.set(Awaited::Headers);
        }
    }

    /// A request's headers are read.
    pub(crate) fn asked(&self) {
        self.set(Awaited::Nothing);
    }

    /// It is answered. HTTP/2 has several at once, and pings instead of a time.
    pub(crate) fn answered(&self, version: Version) {
        if version < Version::HTTP_2 {
            self.set(Awaited::Request);
        }
    }

    /// Whether the client took too long.
    pub(crate) fn is_too_long(&self) -> bool {
        self.is_too_long_after(self.accepted.elapsed())
    }

    fn is_too_long_after(&self, now: Duration) -> bool {
        let (awaited, since) = self.get();
        let silent = now.saturating_sub(since);
        match awaited {
            Awaited::Headers => silent > HEADERS,
            Awaited::Nothing => false,
            Awaited::Request => silent > IDLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn headers_have_their_time_and_a_connection_between_requests_has_more() {
        let silence = Silence::new();
        assert!(!silence.is_too_long());
        assert!(silence.is_too_long_after(MINUTE), "nothing ever came");
        silence.heard();
        assert!(silence.is_too_long_after(MINUTE), "half of the headers came");
        silence.asked();
        assert!(!silence.is_too_long_after(60 * MINUTE), "the body has limits of its own");
        silence.heard();
        assert!(!silence.is_too_long_after(60 * MINUTE), "it came for the body");
        silence.answered(Version::HTTP_11);
        assert!(!silence.is_too_long_after(10 * MINUTE));
        assert!(silence.is_too_long_after(11 * MINUTE));
        silence.heard();
        assert!(silence.is_too_long_after(MINUTE), "half of the next headers came");
        silence.asked();
        silence.answered(Version::HTTP_2);
        assert!(!silence.is_too_long_after(60 * MINUTE));
    }
}
