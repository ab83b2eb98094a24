//! How long a client may be silent.
//!
//! hyper has a timer for headers, too. It costs every request two changes of the runtime's timers, and
//! closes connections between two requests as well: whoever keeps some, as load balancers do, may send
//! its next request at that very moment, and never knows whether it was done.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// Whether nothing came yet.
    fresh: AtomicBool,
    http2: AtomicBool,
}

impl Silence {
    pub(crate) fn new() -> Silence {
        Silence {
            accepted: Instant::now(),
            state: AtomicU64::new(Awaited::Headers as u64),
            fresh: AtomicBool::new(true),
            http2: AtomicBool::new(false),
        }
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

    /// Bytes came. HTTP/2 begins with a preface of its own, and may ask nothing for a while.
    pub(crate) fn heard(&self, bytes: &[u8]) {
        if self.fresh.swap(false, Ordering::Relaxed) && bytes.starts_with(b"PRI ") {
            self.http2.store(true, Ordering::Relaxed);
            self.set(Awaited::Request);
        } else if self.get().0 == Awaited::Request && !self.is_http2() {
            self.set(Awaited::Headers);
        }
    }

    /// A request's headers are read.
    pub(crate) fn asked(&self, version: Version) {
        self.set(Awaited::Nothing);
        if version == Version::HTTP_2 {
            self.http2.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request's headers are on their way, or may be: since less than so long.
    pub(crate) fn is_beginning(&self, moment: Duration) -> bool {
        let (awaited, since) = self.get();
        awaited == Awaited::Headers && self.accepted.elapsed().saturating_sub(since) < moment
    }

    /// Whether HTTP/2 is spoken, as far as is known.
    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// It is answered. HTTP/2 has several at once, and pings instead of a time.
    pub(crate) fn answered(&self, version: Version) {
        if version < Version::HTTP_2 {
            self.set(Awaited::Request);
        }
    }

    /// Whether the client took too long. Where there are too many, nobody is kept who asks nothing.
    pub(crate) fn is_too_long(&self, crowded: bool) -> bool {
        self.is_too_long_after(self.accepted.elapsed(), if crowded { HEADERS } else { IDLE })
    }

    fn is_too_long_after(&self, now: Duration, idle: Duration) -> bool {
        let (awaited, since) = self.get();
        let silent = now.saturating_sub(since);
        match awaited {
            Awaited::Headers => silent > HEADERS,
            Awaited::Nothing => false,
            Awaited::Request => silent > idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn after(silence: &Silence, now: Duration) -> bool {
        silence.is_too_long_after(now, IDLE)
    }

    #[test]
    fn headers_have_their_time_and_a_connection_between_requests_has_more() {
        let silence = Silence::new();
        assert!(!silence.is_too_long(false));
        assert!(after(&silence, MINUTE), "nothing ever came");
        silence.heard(b"POST /");
        assert!(after(&silence, MINUTE), "half of the headers came");
        silence.asked(Version::HTTP_11);
        assert!(!after(&silence, 60 * MINUTE), "the body has limits of its own");
        silence.heard(b"PRI ");
        assert!(!after(&silence, 60 * MINUTE), "it came for the body");
        silence.answered(Version::HTTP_11);
        assert!(!after(&silence, 10 * MINUTE));
        assert!(after(&silence, 11 * MINUTE));
        assert!(silence.is_too_long_after(MINUTE, HEADERS), "others want to come in");
        silence.heard(b"PRI ");
        assert!(after(&silence, MINUTE), "half of the next headers came");
    }

    #[test]
    fn whoever_speaks_http2_may_ask_later() {
        let silence = Silence::new();
        silence.heard(b"PRI * HTTP/2.0\r\n");
        silence.heard(b"a ping");
        assert!(silence.is_http2() && !after(&silence, 10 * MINUTE));
        assert!(after(&silence, 11 * MINUTE));
        silence.asked(Version::HTTP_2);
        silence.answered(Version::HTTP_2);
        assert!(!after(&silence, 60 * MINUTE), "pings say whether it is there");
    }
}
