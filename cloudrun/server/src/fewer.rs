//! How many threads run the model where others take so much of the processors that all threads get hardly more of
//! them than one thread fewer would: nearly as many answers, and each sooner.

use std::time::{Duration, Instant};

/// How long fewer threads run before all are tried again.
const WHILE: Duration = Duration::from_secs(5);

/// After so many runs it is known how much of a processor each gets.
pub(crate) const KNOWN: u32 = 16;

/// So much more of a processor than all threads but one could get is not worth it.
const WORTH: f64 = 0.15;

/// The least part of what all got together that fewer must get.
const KEPT: f64 = 0.75;

#[derive(Debug)]
pub(crate) struct Fewer {
    threads: usize,
    allowed: usize,
    /// How much of a processor each got in so many runs, a moving mean.
    share: f64,
    runs: u32,
    /// What all got together before one was left out.
    all: Option<f64>,
    /// Whether it is not yet known what is got since the last was left out.
    is_tried: bool,
    /// Whether leaving out one more did not help.
    is_settled: bool,
    /// When one was left out last.
    since: Option<Instant>,
}

impl Fewer {
    /// None is left out.
    pub(crate) fn new(threads: usize) -> Fewer {
        let (share, runs, all, is_tried, is_settled, since) = Default::default();
        Fewer { threads, allowed: threads, share, runs, all, is_tried, is_settled, since }
    }

    /// How many may run.
    pub(crate) fn allowed(&self) -> usize {
        self.allowed
    }

    /// A run had so much of a processor.
    pub(crate) fn ran(&mut self, share: f64, now: Instant) {
        let is_over = self.since.is_some_and(|since| now.duration_since(since) >= WHILE);
        if is_over && !self.is_tried {
            *self = Fewer::new(self.threads);
        }
        self.runs += 1;
        self.share += (share - self.share) / f64::from(self.runs.min(KNOWN / 2));
        if self.runs < KNOWN {
            return;
        }
        let together = self.share * self.allowed as f64;
        let was_tried = std::mem::take(&mut self.is_tried);
        if was_tried && self.all.is_some_and(|all| together < all * KEPT) {
            self.change(self.allowed + 1);
            self.is_settled = true;
        } else if !self.is_settled
            && self.allowed > 1
            && together < self.allowed as f64 - 1.0 + WORTH
        {
            self.change(self.allowed - 1);
            self.all.get_or_insert(together);
            (self.is_tried, self.since) = (true, Some(now));
        }
    }

    fn change(&mut self, allowed: usize) {
        (self.allowed, self.share, self.runs) = (allowed, 0.0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_get_no_more_than_fewer_would_are_fewer_for_a_while() {
        let begin = Instant::now();
        let table = [
            (3, 0.8, 3, "more than two could get"),
            (3, 0.6, 2, "two would get nearly as much"),
            (2, 0.9, 2, "more than one could get"),
            (2, 0.5, 1, "one would get as much"),
            (1, 0.1, 1, "one must"),
        ];
        for (threads, share, allowed, why) in table {
            let mut fewer = Fewer::new(threads);
            (0..KNOWN).for_each(|_| fewer.ran(share, begin));
            assert_eq!(fewer.allowed(), allowed, "{share} for each of {threads}: {why}");
            (0..KNOWN).for_each(|_| fewer.ran(0.95, begin));
            assert_eq!(fewer.allowed(), allowed, "not before a while is over");
            fewer.ran(0.95, begin + WHILE);
            assert_eq!(fewer.allowed(), threads, "all are tried again");
        }
    }

    #[test]
    fn what_one_thread_fewer_gets_is_known_before_all_are_tried_again() {
        let begin = Instant::now();
        let mut fewer = Fewer::new(2);
        (0..KNOWN).for_each(|_| fewer.ran(0.5, begin));
        (0..KNOWN - 1).for_each(|_| fewer.ran(0.7, begin + WHILE));
        assert_eq!(fewer.allowed(), 1);
        (0..9 * KNOWN).for_each(|_| fewer.ran(0.5, begin + WHILE - Duration::from_millis(1)));
        assert_eq!(fewer.allowed(), 2, "it was for nothing");
    }

    #[test]
    fn a_thread_that_was_left_out_for_nothing_runs_again() {
        let begin = Instant::now();
        let mut fewer = Fewer::new(2);
        (0..KNOWN).for_each(|_| fewer.ran(0.5, begin));
        assert_eq!(fewer.allowed(), 1);
        (0..KNOWN).for_each(|_| fewer.ran(0.7, begin));
        assert_eq!(fewer.allowed(), 2, "others took what it left");
        (0..9 * KNOWN).for_each(|_| fewer.ran(0.5, begin));
        assert_eq!(fewer.allowed(), 2, "once is enough");
        (0..=KNOWN).for_each(|_| fewer.ran(0.5, begin + WHILE));
        assert_eq!(fewer.allowed(), 1, "for a while");
    }

    #[test]
    fn many_threads_are_no_fewer_than_get_most_of_what_all_got() {
        let begin = Instant::now();
        let mut fewer = Fewer::new(8);
        // As if as many others always ran.
        for _ in 0..20 * KNOWN {
            let allowed = fewer.allowed() as f64;
            fewer.ran(8.0 / (allowed + 8.0), begin);
        }
        assert_eq!(fewer.allowed(), 5, "5 get 3.1 of 4 processors, 4 would get 2.7");
    }

    #[test]
    fn a_few_slow_runs_say_nothing() {
        let begin = Instant::now();
        let mut fewer = Fewer::new(8);
        (1..KNOWN).for_each(|_| fewer.ran(0.1, begin));
        assert_eq!(fewer.allowed(), 8);
    }
}
