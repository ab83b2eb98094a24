//! Running requests together: their tensors one after the other along the first dimension.
//!
//! A product of matrices may add up in another order when there are more rows, and its last digits
//! differ then. So a number of rows is trusted only after its answers were seen to be the same, bit
//! for bit, as those of requests that ran alone; until then both are run, and where they differ
//! that number is never used again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use slsml_model::{Dim, Model, RunError, Signature, Tensor};

use crate::queue::Job;

/// How often the same answers must have been seen.
const SEEN: u8 = 3;

/// What is known about a number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// So many answers were the same.
    Alike(u8),
    /// One was not, or the run failed.
    Never,
}

/// What can be run together.
pub(crate) struct Batches {
    /// The most rows; 1 where nothing can.
    most: usize,
    trust: Mutex<HashMap<usize, Trust>>,
}

type Answer = Result<Vec<Tensor>, RunError>;

impl Batches {
    pub(crate) fn of(signature: &Signature, most: usize) -> Batches {
        let most = if is_free(signature) { most } else { 1 };
        Batches { most, trust: Mutex::default() }
    }

    /// Whether one more can run with those.
    pub(crate) fn fits(&self, jobs: &[Job], next: &Job) -> bool {
        let rows = jobs.iter().map(rows).sum::<usize>() + rows(next);
        rows <= self.most && jobs.first().is_some_and(|first| alike(first, next))
    }

    /// Runs them, together where that is trusted; an answer for each, in their order. One that
    /// fails has no others fail with it.
    pub(crate) fn run(&self, model: &Model, mut jobs: Vec<Vec<Tensor>>) -> Vec<Answer> {
        if jobs.len() < 2 {
            return jobs.drain(..).map(|inputs| model.run(inputs)).collect();
        }
        let each: Vec<usize> = jobs.iter().map(|inputs| inputs[0].shape()[0]).collect();
        let rows = each.iter().sum();
        let trust = self.trust().get(&rows).copied().unwrap_or(Trust::Alike(0));
        if trust == Trust::Never {
            return jobs.into_iter().map(|inputs| model.run(inputs)).collect();
        }
        let mut together = together(model, &jobs, &each);
        if matches!(trust, Trust::Alike(SEEN..))
            && let Some(answers) = together.take()
        {
            return answers.into_iter().map(Ok).collect();
        }
        let alone: Vec<Answer> = jobs.into_iter().map(|inputs| model.run(inputs)).collect();
        let same = together.is_some_and(|together| {
            together.iter().zip(&alone).all(|(one, other)| other.as_ref().is_ok_and(|x| x == one))
        });
        // A request that fails alone says nothing about the others.
        if same || alone.iter().all(Result::is_ok) {
            let next = match (same, trust) {
                (true, Trust::Alike(seen)) => Trust::Alike(seen.saturating_add(1)),
                _ => Trust::Never,
            };
            self.trust().insert(rows, next);
        }
        alone
    }

    fn trust(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Trust>> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the first dimension of every tensor is the same named one, and no other dimension is.
fn is_free(signature: &Signature) -> bool {
    let Some(Some(Dim::Named(batch))) = signature.inputs.first().map(|spec| spec.shape.first())
    else {
        return false;
    };
    let fits = |shape: &[Dim]| {
        let is_batch = |dim: &Dim| matches!(dim, Dim::Named(name) if name == batch);
        shape.first().is_some_and(is_batch) && !shape[1..].iter().any(is_batch)
    };
    signature.inputs.iter().chain(&signature.outputs).all(|spec| fits(&spec.shape))
}

fn rows(job: &Job) -> usize {
    job.inputs.first().and_then(|tensor| tensor.shape().first()).copied().unwrap_or(1)
}

fn alike(one: &Job, other: &Job) -> bool {
    let rest = |tensor: &Tensor| tensor.shape().get(1..).map(<[usize]>::to_vec);
    one.inputs.iter().map(rest).eq(other.inputs.iter().map(rest))
}

/// The answers of one run; none if it fails or gives something else than a row for a row.
fn together(model: &Model, jobs: &[Vec<Tensor>], each: &[usize]) -> Option<Vec<Vec<Tensor>>> {
    let inputs = (0..jobs[0].len())
        .map(|at| Tensor::stack(&jobs.iter().map(|inputs| &inputs[at]).collect::<Vec<_>>()))
        .collect::<Option<Vec<Tensor>>>()?;
    let outputs = model.run(inputs).ok()?;
    let mut answers = vec![Vec::with_capacity(outputs.len()); jobs.len()];
    for output in outputs {
        for (answer, part) in answers.iter_mut().zip(output.split(each)?) {
            answer.push(part);
        }
    }
    Some(answers)
}
