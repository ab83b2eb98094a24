//! Running requests together: their tensors one after the other along the first dimension.
//!
//! Only models are batched of which it was shown, when they were packaged, that every row is computed
//! by itself and has the same bits among others as alone. That rests on what is known of the loops that
//! run, and those depend on the processor. So the first runs of so many rows are done both ways and
//! compared, and now and then one later. Where they differ once, in a bit, that is never done again,
//! and the log says so.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use slsml_model::{Model, RunError, Tensor};

use crate::log;
use crate::queue::Job;

/// How many answers must have been seen to be the same.
const SEEN: u16 = 32;

/// Of trusted runs one in so many is looked at anew.
const LOOK: u32 = 1024;

/// Rows of a request, and rows of the run it is a part of.
type Pair = (usize, usize);

/// What is to be done with requests that could run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Alone,
    Both,
    Together,
}

/// What was seen of each pair.
#[derive(Debug, Default)]
struct Trust {
    /// How many answers were the same; none if one was not.
    alike: HashMap<Pair, Option<u16>>,
    /// Trusted runs.
    runs: u32,
}

impl Trust {
    /// Whether one of them was once not the same.
    fn is_broken(&self, mut pairs: impl Iterator<Item = Pair>) -> bool {
        pairs.any(|pair| self.alike.get(&pair) == Some(&None))
    }

    fn way(&mut self, pairs: &[Pair]) -> Way {
        let alike = |pair: &Pair| self.alike.get(pair).copied().unwrap_or(Some(0));
        match pairs.iter().map(alike).min().flatten() {
            None => Way::Alone,
            Some(seen) if seen < SEEN => Way::Both,
            Some(_) => {
                self.runs = self.runs.wrapping_add(1);
                if self.runs.is_multiple_of(LOOK) { Way::Both } else { Way::Together }
            }
        }
    }

    fn saw(&mut self, pair: Pair, same: bool) {
        let alike = self.alike.entry(pair).or_insert(Some(0));
        *alike = alike.filter(|_| same).map(|seen| seen.saturating_add(1));
    }
}

/// What can be run together.
pub(crate) struct Batches {
    /// The most rows; 1 where nothing can.
    most: usize,
    trust: Mutex<Trust>,
}

type Answer = Result<Vec<Tensor>, RunError>;

impl Batches {
    pub(crate) fn of(model: &Model, most: usize) -> Batches {
        let most = if model.has_independent_rows() { most } else { 1 };
        Batches { most, trust: Mutex::default() }
    }

    /// Whether requests may run together at all.
    pub(crate) fn are_allowed(&self) -> bool {
        self.most > 1
    }

    /// Whether the next one can run with those, or any could.
    pub(crate) fn fits(&self, jobs: &[Job], next: Option<&Job>) -> bool {
        let own: usize = jobs.iter().map(rows).sum();
        let Some(next) = next else { return own < self.most };
        let all = own + rows(next);
        all <= self.most
            && jobs.first().is_some_and(|first| alike(first, next))
            && !self.trust().is_broken(jobs.iter().chain([next]).map(|job| (rows(job), all)))
    }

    /// Runs them, together where that is trusted; an answer for each, in their order, and how many runs
    /// it took. One that fails has no others fail with it.
    pub(crate) fn run(&self, model: &Model, jobs: Vec<Vec<Tensor>>) -> (Vec<Answer>, usize) {
        let count = jobs.len();
        let each_alone = |jobs: Vec<Vec<Tensor>>| -> Vec<Answer> {
            jobs.into_iter().map(|inputs| model.run(inputs)).collect()
        };
        if count < 2 {
            return (each_alone(jobs), count);
        }
        let each: Vec<usize> = jobs.iter().map(|inputs| inputs[0].shape()[0]).collect();
        let rows = each.iter().sum();
        let pairs: Vec<Pair> = each.iter().map(|own| (*own, rows)).collect();
        let way = self.trust().way(&pairs);
        if way == Way::Alone {
            return (each_alone(jobs), count);
        }
        let mut together = together(model, &jobs, &each);
        if way == Way::Together
            && let Some(answers) = together.take()
        {
            return (answers.into_iter().map(Ok).collect(), 1);
        }
        let alone = each_alone(jobs);
        // A request that fails alone says nothing about the others.
        if alone.iter().all(Result::is_ok) {
            let mut trust = self.trust();
            for (at, (pair, answer)) in pairs.into_iter().zip(&alone).enumerate() {
                let same = together
                    .as_ref()
                    .zip(answer.as_ref().ok())
                    .is_some_and(|(all, alone)| are_identical(&all[at], alone));
                if !same && trust.alike.get(&pair) != Some(&None) {
                    let (own, all) = pair;
                    log::error(
                        "a request among others was not answered as alone: it runs alone from now on. \
                         Please report this processor and model to slsml",
                        &format!("{own} of {all} rows"),
                    );
                }
                trust.saw(pair, same);
            }
        }
        (alone, count + 1)
    }

    fn trust(&self) -> std::sync::MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn are_identical(some: &[Tensor], others: &[Tensor]) -> bool {
    some.len() == others.len()
        && some.iter().zip(others).all(|(one, other)| one.is_identical(other))
}

fn rows(job: &Job) -> usize {
    job.inputs.first().and_then(|tensor| tensor.shape().first()).copied().unwrap_or(1)
}

fn alike(one: &Job, other: &Job) -> bool {
    let pairs = one.inputs.iter().zip(&other.inputs);
    pairs.into_iter().all(|(one, other)| one.shape().get(1..) == other.shape().get(1..))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_trusted_after_many_answers_that_were_the_same_and_never_after_one_that_was_not() {
        let mut trust = Trust::default();
        for _ in 0..SEEN {
            assert_eq!(trust.way(&[(1, 2), (1, 2)]), Way::Both);
            trust.saw((1, 2), true);
        }
        let ways: Vec<Way> = (0..LOOK).map(|_| trust.way(&[(1, 2), (1, 2)])).collect();
        assert_eq!(ways.iter().filter(|way| **way == Way::Both).count(), 1, "it is looked at anew");
        // Two rows in a run of three are something else than one row.
        assert_eq!(trust.way(&[(2, 3), (1, 3)]), Way::Both);
        trust.saw((1, 2), false);
        trust.saw((1, 2), true);
        assert_eq!(trust.way(&[(1, 2), (1, 2)]), Way::Alone);
    }
}
