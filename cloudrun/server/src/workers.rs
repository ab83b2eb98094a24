//! The threads that run the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slsml_model::Model;

use crate::batch::Batches;
use crate::pace::Pace;
use crate::queue::{Job, Queue};
use crate::stats::Stats;

/// Threads that run what waits in a queue, until it is closed.
pub(crate) fn start(
    threads: usize,
    delay: Duration,
    model: &Model,
    batches: &Arc<Batches>,
    queue: &Arc<Queue>,
    stats: &Arc<Stats>,
    pace: &Arc<Pace>,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    (0..threads)
        .map(|number| {
            let (model, batches) = (model.clone(), batches.clone());
            let (queue, stats, pace) = (queue.clone(), stats.clone(), pace.clone());
            std::thread::Builder::new().name(format!("model-{number}")).spawn(move || {
                work(&model, &batches, &queue, &stats, &pace, delay);
            })
        })
        .collect()
}

fn work(
    model: &Model,
    batches: &Batches,
    queue: &Queue,
    stats: &Stats,
    pace: &Pace,
    delay: Duration,
) {
    while let Some(jobs) = queue.take(delay, |jobs, next| batches.fits(jobs, next)) {
        run(model, batches, stats, pace, jobs);
    }
}

/// Runs requests and answers them.
pub(crate) fn run(model: &Model, batches: &Batches, stats: &Stats, pace: &Pace, jobs: Vec<Job>) {
    stats.ran(jobs.len());
    let (inputs, replies): (Vec<_>, Vec<_>) =
        jobs.into_iter().map(|job| (job.inputs, job.reply)).unzip();
    let began = Instant::now();
    let answers = batches.run(model, inputs);
    // Of each: a run of many answers many.
    pace.took(began.elapsed() / u32::try_from(answers.len()).unwrap_or(u32::MAX).max(1));
    for (reply, answer) in replies.into_iter().zip(answers) {
        // Whoever asked may have gone away.
        let _ = reply.send(answer);
    }
}
