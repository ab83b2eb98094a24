//! What is done when more requests come than can be answered for longer than a moment.
//!
//! Once the queue has been long for a while, there is a crowd: beside those that run one may
//! wait for two threads, the others are refused, until all threads have had nothing to do for a moment, or hardly
//! anybody is refused any more; and once in a while it is seen whether it comes again. The idea is that of K. Nichols and V. Jacobson, "Controlling Queue Delay", ACM Queue
//! 10(5), 2012: a queue that never empties serves nobody.
//!
//! A place is given away before a request's body is read: reading many only to refuse all but a few of them takes
//! the processors from those that run.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::fewer::Fewer;

/// How long the queue may be long, and how long a burst may take to be answered.
pub(crate) const LONG: Duration = Duration::from_millis(50);

/// How long the threads must have been without work before bursts are taken again.
const REST: Duration = LONG;

/// How often is asked whether many are refused, and how many that are: one of so many.
const ASKED: Duration = Duration::from_secs(1);
const MANY: u32 = 8;

/// After how long a crowd is taken to be over, as who asks again at once looks like more than there are.
const LATEST: Duration = Duration::from_secs(30);

/// The share of the last run in the mean is one of so many.
const MEMORY: u32 = 8;

/// A place for a request that is yet to come, as long as this lives; but not for longer than until a thread is
/// likely to have nothing else to do.
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "the crowd looks at it")] Arc<Instant>);

#[derive(Debug)]
pub(crate) struct Crowd {
    threads: usize,
    is_there: bool,
    since: Instant,
    /// Since when the queue is long.
    long_since: Option<Instant>,
    /// Since when no thread has work.
    idle_since: Option<Instant>,
    /// Since when places are kept.
    places: Vec<Weak<Instant>>,
    /// How many threads run something.
    running: usize,
    /// How many may.
    fewer: Fewer,
    /// How long a run takes, a moving mean.
    run: Duration,
    /// How many wanted a place and how many of them got none, since then.
    asked: u32,
    refused: u32,
    asked_since: Instant,
}

impl Crowd {
    /// None yet.
    pub(crate) fn new(threads: usize) -> Crowd {
        let (is_there, long_since, idle_since, places, running, run, asked, refused) =
            Default::default();
        Crowd {
            threads,
            is_there,
            since: Instant::now(),
            long_since,
            idle_since,
            places,
            running,
            fewer: Fewer::new(threads),
            run,
            asked,
            refused,
            asked_since: Instant::now(),
        }
    }

    #[cfg(test)]
    pub(crate) fn there(threads: usize, run: Duration) -> Crowd {
        Crowd { is_there: true, run, ..Crowd::new(threads) }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.is_there
    }

    /// The queue is long now, or not.
    pub(crate) fn waits(&mut self, is_long: bool, now: Instant) {
        if !is_long {
            self.long_since = None;
        } else if now.duration_since(*self.long_since.get_or_insert(now)) > LONG && !self.is_there {
            (self.is_there, self.since) = (true, now);
            self.counts_from(now);
        }
    }

    fn counts_from(&mut self, now: Instant) {
        (self.asked, self.refused, self.asked_since) = (0, 0, now);
    }

    /// No thread has work.
    pub(crate) fn rests(&mut self, now: Instant) {
        self.idle_since = Some(now);
    }

    /// One of them has. That one had none says nothing, as others may be quicker to take what comes.
    pub(crate) fn works(&mut self) {
        self.idle_since = None;
    }

    /// Ends it if that is how it is by now; whether it did.
    pub(crate) fn ends(&mut self, now: Instant) -> bool {
        let rested = self.idle_since.is_some_and(|since| now.duration_since(since) >= REST);
        let is_counted = now.duration_since(self.asked_since) >= ASKED;
        let are_few = is_counted && self.refused.saturating_mul(MANY) < self.asked;
        if is_counted {
            self.counts_from(now);
        }
        let is_late = now.duration_since(self.since) >= LATEST;
        let ends = self.is_there && (rested || are_few || is_late);
        self.is_there &= !ends;
        if ends {
            self.long_since = None;
        }
        ends
    }

    /// One wanted a place, and got it or not.
    pub(crate) fn asked(&mut self, is_refused: bool) {
        self.asked += 1;
        self.refused += u32::from(is_refused);
    }

    /// One that had got a place came too late.
    pub(crate) fn is_too_late(&mut self) {
        self.refused += 1;
    }

    /// A place for a request that is yet to come, which only needs one in a crowd.
    pub(crate) fn place(&mut self) -> Option<Place> {
        self.is_there.then(|| {
            let place = Arc::new(Instant::now());
            self.places.push(Arc::downgrade(&place));
            Place(place)
        })
    }

    /// For how many others places are kept.
    pub(crate) fn places(&mut self) -> usize {
        // In which as many runs end as there may wait requests.
        let longest = self.run.mul_f64(self.may_wait() as f64 / self.fewer.allowed() as f64);
        self.places.retain(|place| place.upgrade().is_some_and(|at| at.elapsed() < longest));
        self.places.len()
    }

    /// A thread that is done finds one; by the time the next is done another has come.
    fn may_wait(&self) -> usize {
        self.fewer.allowed().div_ceil(2)
    }

    /// Whether so many are as many as may wait.
    pub(crate) fn fills(&self, waiting: usize) -> bool {
        self.running + waiting >= self.fewer.allowed() + self.may_wait()
    }

    /// Whether one more thread may run something.
    pub(crate) fn may_run(&self) -> bool {
        !self.is_there || self.running < self.fewer.allowed()
    }

    /// It does.
    pub(crate) fn runs(&mut self) {
        self.running += 1;
    }

    /// It did, for so long, on so much of a processor; whether more threads may from now on.
    pub(crate) fn ran(&mut self, took: Duration, share: f64, now: Instant) -> bool {
        self.running -= 1;
        self.run = match self.run.is_zero() {
            true => took,
            false => self.run - self.run / MEMORY + took / MEMORY,
        };
        let before = self.fewer.allowed();
        match self.is_there {
            true => self.fewer.ran(share, now),
            false => self.fewer = Fewer::new(self.threads),
        }
        self.fewer.allowed() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_comes_when_many_have_waited_for_a_while_and_goes_when_nobody_had_work() {
        let begin = Instant::now();
        let mut crowd = Crowd::new(2);
        crowd.waits(true, begin);
        crowd.waits(false, begin + LONG);
        crowd.waits(true, begin + 2 * LONG);
        assert!(!crowd.is_there(), "it was short in between");
        crowd.waits(true, begin + 4 * LONG);
        assert!(crowd.is_there());
        crowd.rests(begin + 5 * LONG);
        assert!(!crowd.ends(begin + 5 * LONG + REST / 2));
        crowd.works();
        assert!(!crowd.ends(begin + 9 * LONG), "there was work in between");
        crowd.rests(begin + 10 * LONG);
        assert!(crowd.ends(begin + 10 * LONG + REST) && !crowd.is_there());
    }

    #[test]
    fn a_crowd_goes_when_hardly_anybody_is_refused() {
        for (refused, asked, ends) in
            [(12, 104, true), (13, 104, false), (0, 1, true), (0, 0, false)]
        {
            let mut crowd = Crowd::there(2, LONG);
            (0..asked).for_each(|number| crowd.asked(number < refused));
            let begin = crowd.asked_since;
            assert!(!crowd.ends(begin + ASKED / 2), "too early to say");
            assert_eq!(crowd.ends(begin + ASKED), ends, "{refused} of {asked}");
        }
    }

    #[test]
    fn once_in_a_while_it_is_seen_whether_a_crowd_comes_again() {
        let mut crowd = Crowd::there(2, LONG);
        let begin = crowd.since;
        for second in 1..30 {
            (0..9).for_each(|_| crowd.asked(true));
            assert!(!crowd.ends(begin + second * ASKED));
        }
        assert!(crowd.ends(begin + LATEST));
    }

    #[test]
    fn as_many_are_let_in_as_threads_can_run_and_one_more_for_two() {
        for (threads, running, most) in [(1, 0, 2), (1, 1, 1), (2, 1, 2), (2, 2, 1), (8, 8, 4)] {
            let mut crowd = Crowd::there(threads, LONG);
            (0..running).for_each(|_| crowd.runs());
            let many = (0..99).take_while(|many| !crowd.fills(*many)).count();
            assert_eq!(many, most, "{running} of {threads} run");
        }
    }
}
