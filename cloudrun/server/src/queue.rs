//! Requests that wait for a run. Their number is bounded: when more come than can be answered, most
//! are refused at once, and those that are not are answered about as fast as ever.
//!
//! A burst may wait, as long as it can be answered in a twentieth of a second; a crowd may not: once
//! the queue has been long for a while it is cut to one request for each thread, until all threads have
//! had nothing to do for a moment. The idea is that of K. Nichols and V. Jacobson, "Controlling Queue
//! Delay", ACM Queue 10(5), 2012: a queue that never empties serves nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slsml_model::{RunError, Tensor};
use tokio::sync::oneshot;

use crate::pace::Pace;
use crate::room::Part;

/// How many requests may wait in a burst, however short their runs are.
const BURST: usize = 256;

/// How long the queue may be long, and how long a burst may take to be answered.
const LONG: Duration = Duration::from_millis(50);

/// How long the threads must have been without work before bursts are taken again.
const REST: Duration = LONG;

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

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    /// How many elements they have.
    elements: usize,
    closed: bool,
    /// Since when more wait than there are threads.
    long_since: Option<Instant>,
    /// Whether bursts are refused.
    cut: bool,
    /// How many threads wait for work.
    idle: usize,
    /// Since when all of them do.
    idle_since: Option<Instant>,
}

impl Queue {
    pub(crate) fn new(threads: usize, pace: Arc<Pace>) -> Queue {
        Queue { threads, pace, inner: Mutex::default(), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Whether one more would be refused now.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().fills(self.threads, &self.pace)
    }

    /// Puts a request at the end.
    pub(crate) fn push(&self, job: Job) -> Result<(), Full> {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.rested(now);
        inner.measure(self.threads, now);
        if inner.fills(self.threads, &self.pace) {
            return Err(Full);
        }
        inner.push(job);
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// The next request, and those behind it that `fits` lets run with it, for which it waits so
    /// long; none once the queue is closed and empty. `fits` is asked of the next one, or whether any
    /// could.
    pub(crate) fn take(
        &self,
        delay: Duration,
        mut fits: impl FnMut(&[Job], Option<&Job>) -> bool,
    ) -> Option<Vec<Job>> {
        let mut inner = self.lock();
        let first = loop {
            if inner.next().is_some()
                && let Some(job) = inner.pop()
            {
                break job;
            }
            if inner.closed {
                return None;
            }
            inner.long_since = None;
            inner.idle += 1;
            if inner.idle == self.threads {
                inner.idle_since = Some(Instant::now());
            }
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.idle -= 1;
        };
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
        inner.measure(self.threads, Instant::now());
        let more = !inner.jobs.is_empty();
        drop(inner);
        // Somebody else may have been woken for what is still here.
        if more {
            self.filled.notify_one();
        }
        Some(jobs)
    }

    /// Lets threads end once nothing waits any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

impl Inner {
    fn is_full(&self, threads: usize, pace: &Pace) -> bool {
        let soon = LONG * u32::try_from(threads).unwrap_or(u32::MAX);
        match self.jobs.len() {
            few if few < threads => false,
            many => self.cut || many >= BURST || pace.takes(many, self.elements) >= soon,
        }
    }

    /// Whether it is full of requests whose askers still wait.
    fn fills(&mut self, threads: usize, pace: &Pace) -> bool {
        if self.is_full(threads, pace) {
            self.jobs.retain(|job| !job.reply.is_closed());
            self.elements = self.jobs.iter().map(|job| elements(&job.inputs)).sum();
        }
        self.is_full(threads, pace)
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

    /// Ends the cut if nobody had anything to do for a moment. That one thread had not says nothing: others
    /// may be quicker to take what comes.
    fn rested(&mut self, now: Instant) {
        if self.idle_since.take().is_some_and(|since| now.duration_since(since) >= REST) {
            self.cut = false;
        }
    }

    fn measure(&mut self, threads: usize, now: Instant) {
        if self.jobs.len() <= threads {
            self.long_since = None;
        } else if now.duration_since(*self.long_since.get_or_insert(now)) > LONG {
            self.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
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
        (0..BURST).for_each(|_| queue.push(job()).unwrap());
        assert_eq!(queue.push(job()), Err(Full));
        queue.lock().long_since = Some(Instant::now() - 2 * LONG);
        queue.take(Duration::ZERO, |_, _| false).unwrap();
        assert!(queue.lock().cut);
        while queue.len() > 2 {
            queue.take(Duration::ZERO, |_, _| false).unwrap();
        }
        assert_eq!(queue.push(job()), Err(Full), "one for each thread");
        queue.take(Duration::ZERO, |_, _| true).unwrap();
        let rest = |threads: usize| {
            std::thread::scope(|scope| {
                let take = || queue.take(Duration::ZERO, |_, _| false).unwrap();
                let waiting: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
                while queue.lock().idle < threads {
                    std::thread::yield_now();
                }
                std::thread::sleep(3 * REST);
                waiting.iter().for_each(|_| queue.push(job()).unwrap());
            });
        };
        rest(1);
        assert!(queue.lock().cut, "the other thread may have worked all the time");
        rest(2);
        (0..10).for_each(|_| queue.push(job()).unwrap());
    }

    #[test]
    fn a_burst_is_no_longer_than_what_can_be_answered_soon() {
        for (run, expected) in [(300, BURST), (1_000, 100), (10_000, 10), (500_000, 2)] {
            let queue = queue(2, Duration::from_micros(run));
            let taken = (0..2 * BURST).take_while(|_| queue.push(job()).is_ok()).count();
            assert_eq!(taken, expected, "runs of {run} us");
        }
    }

    #[test]
    fn what_takes_long_fills_the_queue_and_who_hung_up_does_not() {
        let queue = queue(2, Duration::from_micros(1));
        let rows = Tensor::new(vec![99_999], slsml_model::Data::Fp32(vec![0.0; 99_999])).unwrap();
        let (large, answer) = asked();
        queue.push(Job { inputs: vec![rows], ..large }).unwrap();
        queue.push(job()).unwrap();
        assert_eq!(queue.push(job()), Err(Full), "a tenth of a second waits");
        drop(answer);
        queue.push(job()).unwrap();
        let (gone, _) = asked();
        queue.push(gone).unwrap();
        for _ in 0..2 {
            assert_eq!(queue.take(Duration::ZERO, |_, _| false).unwrap().len(), 1);
        }
        queue.close();
        assert!(queue.take(Duration::ZERO, |_, _| false).is_none(), "nobody waits for it");
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let queue = queue(1, Duration::from_micros(300));
        queue.push(job()).unwrap();
        queue.close();
        assert_eq!(queue.take(Duration::from_secs(9), |_, _| false).unwrap().len(), 1);
        assert!(queue.take(Duration::ZERO, |_, _| false).is_none());
    }

    #[test]
    fn what_fits_runs_together_and_waits_no_longer_than_it_is_told() {
        let queue = queue(1, Duration::from_micros(300));
        (0..5).for_each(|_| queue.push(job()).unwrap());
        let took = queue.take(Duration::ZERO, |jobs, _| jobs.len() < 3).unwrap();
        assert_eq!((took.len(), queue.len()), (3, 2));
        let began = Instant::now();
        queue.take(Duration::from_millis(20), |_, _| true).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(20));
        let began = Instant::now();
        queue.push(job()).unwrap();
        queue.take(Duration::from_secs(60), |_, next| next.is_some()).unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "nothing more would fit");
    }
}
