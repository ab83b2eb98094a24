//! Quick runs that come at the same moment, together. They are done by the threads that read requests: one
//! that has read several runs them all at once, where that is allowed.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::queue::Job;

/// Requests that were read and not yet run.
#[derive(Default)]
pub(crate) struct Gathered(Mutex<VecDeque<Job>>);

impl Gathered {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, job: Job) {
        self.lock().push_back(job);
    }

    /// The first, and those behind it that `fits` lets run with it; none if there is none.
    pub(crate) fn take(&self, fits: impl Fn(&[Job], Option<&Job>) -> bool) -> Vec<Job> {
        let mut waiting = self.lock();
        // Whoever hung up in the meantime wants no answer.
        waiting.retain(|job| !job.reply.is_closed());
        let mut jobs: Vec<Job> = waiting.pop_front().into_iter().collect();
        while waiting.front().is_some_and(|next| fits(&jobs, Some(next))) {
            jobs.extend(waiting.pop_front());
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::sync::oneshot;

    use super::*;
    use crate::room::Room;

    #[test]
    fn what_fits_is_taken_together_and_in_its_order() {
        let gathered = Gathered::default();
        assert!(gathered.take(|_, _| true).is_empty());
        let mut answers = Vec::new();
        for _ in 0..5 {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            gathered.push(Job { inputs: Vec::new(), reply, part: Room::new(0).part() });
        }
        for job in gathered.take(|jobs, _| jobs.len() < 3) {
            job.reply.send(Ok(Vec::new())).unwrap();
        }
        let answered = answers.iter_mut().map(|answer| answer.try_recv().is_ok());
        assert_eq!(answered.collect::<Vec<_>>(), [true, true, true, false, false]);
        assert_eq!(gathered.take(|_, _| false).len(), 1);
        assert_eq!(gathered.take(|_, _| true).len(), 1);
    }
}
