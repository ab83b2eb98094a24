//! Running the model, and the threads that do so for requests that wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use slsml_model::{Model, RunError, Tensor};

use crate::batch::Batches;
use crate::pace::Pace;
use crate::queue::{Job, Queue, elements};
use crate::stats::Stats;

/// The model, what of it may run together, and what is known of its runs.
pub(crate) struct Runner {
    pub(crate) model: Model,
    pub(crate) batches: Batches,
    pub(crate) stats: Arc<Stats>,
    pub(crate) pace: Arc<Pace>,
}

impl Runner {
    /// Runs requests, one or those that fit together; an answer for each, in their order.
    pub(crate) fn run(&self, requests: Vec<Vec<Tensor>>) -> Vec<Result<Vec<Tensor>, RunError>> {
        let elements: usize = requests.iter().map(|inputs| elements(inputs)).sum();
        let began = Instant::now();
        let (answers, runs) = self.batches.run(&self.model, requests);
        // Of each run: what is the same for all is done as often.
        let (each, count) = (elements / runs.max(1), u32::try_from(runs).unwrap_or(u32::MAX));
        self.pace.took(began.elapsed() / count.max(1), each);
        self.stats.ran(answers.len(), runs);
        answers
    }

    /// Runs requests and answers them.
    pub(crate) fn answer(&self, jobs: Vec<Job>) {
        let mut parts = Vec::with_capacity(jobs.len());
        let take = |Job { inputs, reply, part }| {
            parts.push(part);
            (inputs, reply)
        };
        let (inputs, replies): (Vec<_>, Vec<_>) = jobs.into_iter().map(take).unzip();
        for (reply, answer) in replies.into_iter().zip(self.run(inputs)) {
            // Whoever asked may have gone away.
            let _ = reply.send(answer);
        }
    }
}

/// Does something, and how long it takes and how much of a processor this thread gets meanwhile, from 0 to 1.
fn measured(what: impl FnOnce()) -> (Duration, f64) {
    let used = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let (before, began) = (used(), Instant::now());
    // What it was to answer is told that nobody does; the thread is for others, too.
    let _ = catch_unwind(AssertUnwindSafe(what));
    let took = began.elapsed();
    let share = if took.is_zero() { 1.0 } else { (used() - before) / took.as_secs_f64() };
    (took, share.min(1.0))
}

/// Starts threads that run what waits in a queue, until it is closed. The first of several that fit together
/// waits for the others as long as `delay`.
pub(crate) fn start(
    threads: usize,
    runner: &Arc<Runner>,
    queue: &Arc<Queue>,
    delay: Duration,
) -> std::io::Result<()> {
    for number in 0..threads {
        let (runner, queue) = (runner.clone(), queue.clone());
        let work = move || {
            while let Some(jobs) = queue.take(delay, |jobs, next| runner.batches.fits(jobs, next)) {
                let (took, share) = measured(|| runner.answer(jobs));
                queue.ran(took, share);
            }
        };
        std::thread::Builder::new().name(format!("model-{number}")).spawn(work)?;
    }
    Ok(())
}
