//! The threads that run the model.

use std::sync::Arc;
use std::time::Duration;

use slsml_model::Model;

use crate::batch::Batches;
use crate::queue::Queue;
use crate::stats::Stats;

/// Threads that run what waits in a queue, until it is closed.
pub(crate) fn start(
    threads: usize,
    delay: Duration,
    model: &Model,
    batches: &Arc<Batches>,
    queue: &Arc<Queue>,
    stats: &Arc<Stats>,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    (0..threads)
        .map(|number| {
            let (model, batches) = (model.clone(), batches.clone());
            let (queue, stats) = (queue.clone(), stats.clone());
            std::thread::Builder::new().name(format!("model-{number}")).spawn(move || {
                work(&model, &batches, &queue, &stats, delay);
            })
        })
        .collect()
}

fn work(model: &Model, batches: &Batches, queue: &Queue, stats: &Stats, delay: Duration) {
    while let Some(jobs) = queue.take(delay, |jobs, next| batches.fits(jobs, next)) {
        stats.ran(jobs.len());
        let (inputs, replies): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.inputs, job.reply)).unzip();
        for (reply, answer) in replies.into_iter().zip(batches.run(model, inputs)) {
            // Whoever asked may have gone away.
            let _ = reply.send(answer);
        }
    }
}
