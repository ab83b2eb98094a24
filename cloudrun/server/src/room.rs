//! Memory for requests: how much all of them may take together while they come, wait and run. The queue
//! bounds their number; without this, a few hundred large ones at once would end the process.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use slsml_model::give_back_memory;
use thiserror::Error;

/// What is worth being given back to the system when it is refused.
const LARGE: usize = 1 << 20;

/// There is no room for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there is no room for the request")]
pub(crate) enum NoRoom {
    /// As others are there.
    Now,
    /// Nor if it were alone.
    Ever {
        /// All the bytes there are.
        whole: usize,
    },
}

/// Bytes that requests share.
#[derive(Debug)]
pub(crate) struct Room {
    whole: usize,
    left: AtomicUsize,
}

impl Room {
    pub(crate) fn new(bytes: usize) -> Arc<Room> {
        Arc::new(Room { whole: bytes, left: bytes.into() })
    }

    /// A request's part of it, nothing at first.
    pub(crate) fn part(self: &Arc<Room>) -> Arc<Part> {
        let (held, received, had_no_room) = Default::default();
        Arc::new(Part { room: self.clone(), held, received, had_no_room })
    }
}

/// What one request takes. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    room: Arc<Room>,
    held: AtomicUsize,
    received: AtomicUsize,
    had_no_room: AtomicBool,
}

impl Part {
    /// How many bytes of the request came.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// So many bytes came, and are kept.
    fn receive(&self, bytes: usize) -> Result<(), NoRoom> {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.hold(self.held.load(Ordering::Relaxed) + bytes)
    }

    /// The request takes so many bytes from now on. One thread at a time works on a request, so this need
    /// not be one step.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), NoRoom> {
        let Room { whole, left } = &*self.room;
        let held = self.held.load(Ordering::Relaxed);
        if bytes > held {
            let less = |left: usize| left.checked_sub(bytes - held);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).map_err(|_| {
                self.had_no_room.store(true, Ordering::Relaxed);
                if bytes > *whole { NoRoom::Ever { whole: *whole } } else { NoRoom::Now }
            })?;
        } else {
            left.fetch_add(held - bytes, Ordering::Relaxed);
        }
        self.held.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Part {
    /// The request takes nothing any more, as it is refused.
    pub(crate) fn let_go(&self) {
        // Requests that are refused for want of room are many at once, each in memory of its own: others
        // shall not need more beside it.
        if self.had_no_room.swap(false, Ordering::Relaxed) && self.received() >= LARGE {
            give_back_memory();
        }
        self.room.left.fetch_add(self.held.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A request's body that takes its part of the room as it comes.
pub(crate) struct Received {
    pub(crate) body: Incoming,
    pub(crate) part: Arc<Part>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)?) else {
            return Poll::Ready(None);
        };
        self.part.receive(frame.data_ref().map_or(0, Bytes::len))?;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn requests_share_the_room_and_give_back_what_they_no_longer_take() {
        let room = Room::new(100);
        let (one, other) = (room.part(), room.part());
        one.receive(40).unwrap();
        one.receive(20).unwrap();
        assert_eq!(other.receive(50), Err(NoRoom::Now));
        assert_eq!(other.hold(101), Err(NoRoom::Ever { whole: 100 }));
        one.hold(30).unwrap();
        other.receive(50).unwrap();
        assert_eq!(one.hold(51), Err(NoRoom::Now), "what it has it keeps");
        one.hold(50).unwrap();
        assert_eq!((one.received(), other.received()), (60, 100));
        drop(other);
        one.hold(100).unwrap();
        drop(one);
        room.part().receive(100).unwrap();
    }
}
