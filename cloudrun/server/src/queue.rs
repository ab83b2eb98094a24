//! Requests that wait for a run. Their number is bounded: when more come than can be answered, most
//! are refused at once, and those that are not are answered about as fast as ever.
//!
//! A burst may wait, as long as it can be answered in a twentieth of a second; a crowd may not (`crowd`).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slsml_model::{RunError, Tensor};
use tokio::sync::oneshot;

use crate::crowd::{Crowd, LONG, Place};
use crate::pace::Pace;
use crate::room::Part;

/// How many requests may wait in a burst, however short their runs are.
const BURST: usize = 256;

/// How long is waited at the end of a queue that is not long: what callers that wait for their answers fill it with
/// is no crowd.
const SHORT: Duration = Duration::from_micros(12_500);

/// A request that waits for its run.
pub(crate) struct Job {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) reply: oneshot::Sender<Result<Vec<Tensor>, RunError>>,
    /// The room its inputs take, also once whoever asked has gone away.
    pub(crate) part: Arc<Part>,
}

/// How many elements inputs have, at least one.
pub(crate) fn elements(inputs: &[Tensor]) -> usize {
    inputs.iter().map(|tensor| tensor.data().len()).sum::<usize>().max(1)
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

pub(crate) struct Queue {
    threads: usize,
    pace: Arc<Pace>,
    inner: Mutex<Inner>,
    filled: Condvar,
}

struct Inner {
    jobs: VecDeque<Job>,
    /// How many elements they have.
    elements: usize,
    closed: bool,
    /// Whether one was refused since the queue was short.
    was_full: bool,
    crowd: Crowd,
    /// How many threads wait for work.
    idle: usize,
}

impl Queue {
    pub(crate) fn new(threads: usize, pace: Arc<Pace>) -> Queue {
        let (jobs, crowd) = (VecDeque::new(), Crowd::new(threads));
        let (elements, closed, was_full, idle) = Default::default();
        let inner = Inner { jobs, elements, closed, was_full, crowd, idle };
        Queue { threads, pace, inner: Mutex::new(inner), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// A place for a request that is yet to come, in a crowd; else none is needed.
    pub(crate) fn place(&self) -> Result<Option<Place>, Full> {
        let mut inner = self.lock();
        if inner.crowd.ends(Instant::now()) {
            self.filled.notify_all();
        }
        // Only here: `push` is for who is here already, and nobody's place is before that.
        let others = inner.crowd.places();
        let is_full = inner.fills(others, self.threads, &self.pace);
        inner.crowd.asked(is_full);
        if is_full { Err(Full) } else { Ok(inner.crowd.place()) }
    }

    /// Puts a request at the end, or where a place was kept for it.
    pub(crate) fn push(&self, job: Job, place: Option<Place>) -> Result<(), Full> {
        let mut inner = self.lock();
        drop(place);
        let now = Instant::now();
        inner.look(self.threads, &self.pace, now);
        if inner.fills(0, self.threads, &self.pace) {
            inner.crowd.is_too_late();
            return Err(Full);
        }
        inner.push(job);
        inner.crowd.works();
        let may_run = inner.crowd.may_run();
        drop(inner);
        match may_run {
            true => self.filled.notify_one(),
            // Only one that runs something may want it beside that.
            false => self.filled.notify_all(),
        }
        Ok(())
    }

    /// The next request, and those behind it that `fits` lets run with it, for which it waits so
    /// long; none once the queue is closed and empty. `fits` is asked of the next one, or whether any
    /// could. Whoever takes them says when they were run.
    pub(crate) fn take(
        &self,
        delay: Duration,
        mut fits: impl FnMut(&[Job], Option<&Job>) -> bool,
    ) -> Option<Vec<Job>> {
        let mut inner = self.lock();
        let first = loop {
            let waits = inner.next().is_some();
            if waits
                && inner.crowd.may_run()
                && let Some(job) = inner.pop()
            {
                break job;
            }
            if !waits && inner.closed {
                return None;
            }
            inner.look(self.threads, &self.pace, Instant::now());
            inner.idle += 1;
            if inner.idle == self.threads {
                inner.crowd.rests(Instant::now());
            }
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.idle -= 1;
        };
        inner.crowd.runs();
        let mut jobs = vec![first];
        let end = Instant::now() + delay;
        loop {
            while inner.next().is_some_and(|next| fits(&jobs, Some(next))) {
                jobs.extend(inner.pop());
            }
            let left = end.saturating_duration_since(Instant::now());
            let goes = !inner.jobs.is_empty() || inner.closed || !fits(&jobs, None);
            if left.is_zero() || goes {
                break;
            }
            let waited = self.filled.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.look(self.threads, &self.pace, Instant::now());
        let left = inner.jobs.len();
        drop(inner);
        // Somebody else may have been woken for what is still here.
        if left > 0 {
            self.filled.notify_one();
        }
        Some(jobs)
    }

    /// What was taken was run, for so long, on so much of a processor.
    pub(crate) fn ran(&self, took: Duration, share: f64) {
        let mut inner = self.lock();
        let more_may = inner.crowd.ran(took, share, Instant::now());
        // The caller comes back for the next itself.
        if more_may || inner.closed {
            self.filled.notify_all();
        }
    }

    /// Lets threads end once nothing waits any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

impl Inner {
    /// Tells the crowd whether the queue is long.
    fn look(&mut self, threads: usize, pace: &Pace, now: Instant) {
        let many = self.jobs.len();
        let short = SHORT * u32::try_from(threads).unwrap_or(u32::MAX);
        let takes_long = many > 0 && pace.takes(many, self.elements) > short;
        self.was_full &= takes_long;
        // Where runs are slow no more than there are threads are let in.
        let is_long = takes_long && (many > threads || self.was_full);
        self.crowd.waits(is_long, now);
    }

    fn is_full(&self, others: usize, threads: usize, pace: &Pace) -> bool {
        let many = self.jobs.len();
        if self.crowd.is_there() {
            return self.crowd.fills(many + others);
        }
        let soon = LONG * u32::try_from(threads).unwrap_or(u32::MAX);
        many >= threads && (many >= BURST || pace.takes(many, self.elements) >= soon)
    }

    /// Whether it is full of requests whose askers still wait, and of so many others.
    fn fills(&mut self, others: usize, threads: usize, pace: &Pace) -> bool {
        if self.is_full(others, threads, pace) {
            self.jobs.retain(|job| !job.reply.is_closed());
            self.elements = self.jobs.iter().map(|job| elements(&job.inputs)).sum();
        }
        let is_full = self.is_full(others, threads, pace);
        self.was_full |= is_full;
        is_full
    }

    fn push(&mut self, job: Job) {
        self.elements += elements(&job.inputs);
        self.jobs.push_back(job);
    }

    fn pop(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.elements -= elements(&job.inputs);
        Some(job)
    }

    /// The next one whose asker still waits.
    fn next(&mut self) -> Option<&Job> {
        while self.jobs.front().is_some_and(|job| job.reply.is_closed()) {
            self.pop();
        }
        self.jobs.front()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::fewer::KNOWN;
    use crate::room::Room;

    fn queue(threads: usize, run: Duration) -> Queue {
        let pace = Pace::new();
        pace.took(run, 1);
        Queue::new(threads, Arc::new(pace))
    }

    type Answer = oneshot::Receiver<Result<Vec<Tensor>, RunError>>;

    fn asked() -> (Job, Answer) {
        let (reply, answer) = oneshot::channel();
        (Job { inputs: Vec::new(), reply, part: Room::new(0).part() }, answer)
    }

    /// A request whose asker waits for ever.
    fn job() -> Job {
        let (job, answer) = asked();
        std::mem::forget(answer);
        job
    }

    #[test]
    fn a_burst_waits_and_a_crowd_is_refused_until_there_is_rest() {
        let queue = queue(2, Duration::from_micros(300));
        (0..BURST).for_each(|_| queue.push(job(), None).unwrap());
        assert_eq!(queue.push(job(), None), Err(Full));
        queue.lock().crowd.waits(true, Instant::now() + 2 * LONG);
        queue.take(Duration::ZERO, |_, _| false).unwrap();
        assert!(queue.lock().crowd.is_there());
        while queue.len() > 1 {
            queue.ran(LONG, 1.0);
            queue.take(Duration::ZERO, |_, _| false).unwrap();
        }
        queue.push(job(), None).unwrap();
        assert_eq!(queue.push(job(), None), Err(Full), "one runs and two wait");
        queue.ran(LONG, 1.0);
        queue.take(Duration::ZERO, |_, _| true).unwrap();
        queue.ran(LONG, 1.0);
        let rest = |threads: usize| {
            std::thread::scope(|scope| {
                let take = || queue.take(Duration::ZERO, |_, _| false).unwrap();
                let waiting: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
                while queue.lock().idle < threads {
                    std::thread::yield_now();
                }
                std::thread::sleep(3 * LONG);
                let _place = queue.place();
                waiting.iter().for_each(|_| queue.push(job(), None).unwrap());
                waiting.into_iter().for_each(|thread| drop(thread.join().unwrap()));
                (0..threads).for_each(|_| queue.ran(LONG, 1.0));
            });
        };
        rest(1);
        assert!(queue.lock().crowd.is_there(), "the other thread may have worked all the time");
        rest(2);
        (0..10).for_each(|_| queue.push(job(), None).unwrap());
    }

    #[test]
    fn what_waits_for_a_moment_is_no_crowd_however_long_that_goes_on() {
        for (run, waiting, comes) in
            [(300, 80, false), (3_000, 8, false), (3_000, 9, true), (40_000, 2, false)]
        {
            let queue = queue(2, Duration::from_micros(run));
            (0..waiting).for_each(|_| queue.push(job(), None).unwrap());
            let mut inner = queue.lock();
            for later in 0..9 {
                inner.look(2, &queue.pace, Instant::now() + later * LONG);
            }
            assert_eq!(inner.crowd.is_there(), comes, "{waiting} runs of {run} us");
        }
    }

    #[test]
    fn slow_runs_make_a_crowd_when_some_are_refused() {
        let queue = queue(2, Duration::from_millis(100));
        let begin = Instant::now();
        for (at, waits, comes) in [(0, 2, false), (1, 1, true)] {
            while queue.len() < waits {
                queue.push(job(), None).unwrap();
            }
            if at == 0 {
                assert_eq!(queue.place().unwrap_err(), Full);
            }
            let mut inner = queue.lock();
            while inner.jobs.len() > waits {
                inner.pop();
            }
            inner.look(2, &queue.pace, begin + at * 2 * LONG);
            assert_eq!(inner.crowd.is_there(), comes, "{at}");
        }
    }

    #[test]
    fn a_burst_is_no_longer_than_what_can_be_answered_soon() {
        for (run, expected) in [(300, BURST), (1_000, 100), (10_000, 10), (500_000, 2)] {
            let queue = queue(2, Duration::from_micros(run));
            let taken = (0..2 * BURST).take_while(|_| queue.push(job(), None).is_ok()).count();
            assert_eq!(taken, expected, "runs of {run} us");
        }
    }

    #[test]
    fn what_takes_long_fills_the_queue_and_who_hung_up_does_not() {
        let queue = queue(2, Duration::from_micros(1));
        let rows = Tensor::new(vec![99_999], slsml_model::Data::Fp32(vec![0.0; 99_999])).unwrap();
        let (large, answer) = asked();
        queue.push(Job { inputs: vec![rows], ..large }, None).unwrap();
        queue.push(job(), None).unwrap();
        assert_eq!(queue.push(job(), None), Err(Full), "a tenth of a second waits");
        drop(answer);
        queue.push(job(), None).unwrap();
        let (gone, _) = asked();
        queue.push(gone, None).unwrap();
        for _ in 0..2 {
            assert_eq!(queue.take(Duration::ZERO, |_, _| false).unwrap().len(), 1);
        }
        queue.close();
        assert!(queue.take(Duration::ZERO, |_, _| false).is_none(), "nobody waits for it");
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let queue = queue(1, Duration::from_micros(300));
        queue.push(job(), None).unwrap();
        queue.close();
        assert_eq!(queue.take(Duration::from_secs(9), |_, _| false).unwrap().len(), 1);
        assert!(queue.take(Duration::ZERO, |_, _| false).is_none());
    }

    #[test]
    fn what_fits_runs_together_and_waits_no_longer_than_it_is_told() {
        let queue = queue(1, Duration::from_micros(300));
        (0..5).for_each(|_| queue.push(job(), None).unwrap());
        let took = queue.take(Duration::ZERO, |jobs, _| jobs.len() < 3).unwrap();
        assert_eq!((took.len(), queue.len()), (3, 2));
        let began = Instant::now();
        queue.take(Duration::from_millis(20), |_, _| true).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(20));
        let began = Instant::now();
        queue.push(job(), None).unwrap();
        queue.take(Duration::from_secs(60), |_, next| next.is_some()).unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "nothing more would fit");
    }
    #[test]
    fn in_a_crowd_a_place_is_kept_until_the_request_has_come_or_a_thread_may_want_another() {
        let queue = queue(2, Duration::from_micros(300));
        assert!(queue.place().unwrap().is_none(), "nobody waits");
        queue.lock().crowd = Crowd::there(2, Duration::from_secs(60));
        let places: Vec<_> = (0..3).map(|_| queue.place().unwrap()).collect();
        assert_eq!(queue.place().unwrap_err(), Full);
        queue.push(job(), None).unwrap();
        assert_eq!(queue.place().unwrap_err(), Full);
        let left = places.into_iter().fold(Vec::new(), |mut left, place| {
            match queue.push(job(), place) {
                Ok(()) => left.push(true),
                Err(Full) => left.push(false),
            }
            left
        });
        assert_eq!(left, [true, true, false], "who is here comes before who has a place only");
        queue.lock().crowd = Crowd::there(9, Duration::ZERO);
        let late: Vec<_> = (0..99).map(|_| queue.place().unwrap()).collect();
        assert!(late.iter().all(Option::is_some), "no place is kept for longer than a run");
    }

    #[test]
    fn a_crowd_is_over_for_who_comes_after_a_rest() {
        let queue = queue(1, Duration::from_micros(300));
        queue.lock().crowd = Crowd::there(1, Duration::from_secs(60));
        std::thread::scope(|scope| {
            scope.spawn(|| queue.take(Duration::ZERO, |_, _| false));
            while queue.lock().idle == 0 {
                std::thread::yield_now();
            }
            queue.lock().crowd.rests(Instant::now() - 2 * LONG);
            let place = queue.place();
            // Before anything may fail: the thread would wait for ever.
            queue.close();
            assert!(place.unwrap().is_none(), "none is needed any more");
        });
    }

    #[test]
    fn a_thread_that_may_not_run_waits_for_one_that_does() {
        let queue = queue(2, Duration::from_micros(300));
        queue.lock().crowd = Crowd::there(2, LONG);
        for _ in 0..KNOWN {
            queue.push(job(), None).unwrap();
            queue.take(Duration::ZERO, |_, _| false).unwrap();
            queue.ran(LONG, 0.5);
        }
        std::thread::scope(|scope| {
            queue.push(job(), None).unwrap();
            queue.take(Duration::ZERO, |_, _| false).unwrap();
            queue.push(job(), None).unwrap();
            let next = scope.spawn(|| queue.take(Duration::ZERO, |_, _| false).unwrap());
            let began = Instant::now();
            while queue.lock().idle == 0 && began.elapsed() < Duration::from_secs(30) {
                std::thread::yield_now();
            }
            let waiting = queue.len();
            // Before anything may fail: the other thread would wait for ever.
            queue.close();
            queue.ran(LONG, 0.5);
            next.join().unwrap();
            assert_eq!(waiting, 1, "only one may run");
        });
    }
}
