//! The decision: synchronous, without I/O, without a clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Check, Evidence, Limit, OnInconclusive, Revision, Split, Strategy, Weight};

/// A point in time: how long since the Unix epoch.
pub type Instant = Duration;

/// Where a release stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Who served before the release; none at a first one.
    pub stable: Option<Revision>,
    /// Who is being released.
    pub candidate: Revision,
    /// The split as it was observed; none before the first one.
    pub split: Option<Split>,
    /// When the step in force began.
    pub step_began: Instant,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Give the candidate this share: step number (from 0) and split.
    Shift {
        /// Which step begins.
        step: usize,
        /// The split to set.
        split: Split,
    },
    /// Look again at this time or earlier.
    Wait {
        /// When the bake or the hold is over.
        until: Instant,
        /// Whether the bake is over and evidence is missing.
        held: bool,
    },
    /// All traffic to the candidate.
    Promote {
        /// The split to set.
        split: Split,
    },
    /// All traffic back to the stable revision.
    RollBack {
        /// The split to set.
        split: Split,
        /// Why.
        reason: Reason,
    },
    /// The candidate has all traffic: nothing is left to do.
    Done,
}

/// Why a release is rolled back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A check failed on this evidence.
    CheckFailed {
        /// The check.
        check: Check,
        /// What it saw.
        evidence: Evidence,
    },
    /// The evidence never was enough.
    Inconclusive {
        /// The check.
        check: Check,
        /// What it saw.
        evidence: Evidence,
    },
}

/// What a check says of the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It is broken.
    Fail,
    /// Too little is known.
    Inconclusive,
}

impl Check {
    /// What this check says of the evidence.
    pub fn verdict(&self, evidence: &Evidence) -> Verdict {
        let Limit::ErrorRate(limit) = self.limit;
        let candidate = evidence.candidate;
        // The smallest sample guards promotion. Failures that would break the limit even if all of
        // the rest of it went well need not be waited for.
        let sample = candidate.requests.max(self.min_requests);
        if candidate.errors as f64 > limit * sample as f64 {
            Verdict::Fail
        } else if candidate.requests < self.min_requests {
            Verdict::Inconclusive
        } else {
            Verdict::Pass
        }
    }
}

/// The next action of a release. `evidence` is what was counted since the step began; before the
/// first step it is empty.
pub fn decide(strategy: &Strategy, state: &State, evidence: &Evidence, now: Instant) -> Action {
    let candidate = &state.candidate;
    let everything = Split::all_to(candidate.clone());
    if state.split.as_ref() == Some(&everything) {
        return Action::Done;
    }
    // Nobody serves yet: there is nothing to compare with, and nobody to protect.
    let (Some(split), Some(stable)) = (&state.split, &state.stable) else {
        return Action::Promote { split: everything };
    };
    let Some(step) = current_step(strategy, split, candidate) else {
        return shift(strategy, 0, stable, candidate);
    };
    let roll_back = |reason| Action::RollBack { split: Split::all_to(stable.clone()), reason };
    let mut waiting_for = None;
    for check in &strategy.checks {
        match check.verdict(evidence) {
            Verdict::Pass => {}
            Verdict::Fail => {
                return roll_back(Reason::CheckFailed { check: *check, evidence: *evidence });
            }
            Verdict::Inconclusive => waiting_for = waiting_for.or(Some(*check)),
        }
    }
    let bake_over = state.step_began.saturating_add(strategy.steps[step].bake);
    let hold_over = bake_over.saturating_add(strategy.hold);
    if now < bake_over {
        return Action::Wait { until: bake_over, held: false };
    }
    match (waiting_for, strategy.on_inconclusive) {
        (None, _) => shift(strategy, step + 1, stable, candidate),
        (Some(_), OnInconclusive::Hold) if now < hold_over => {
            Action::Wait { until: hold_over, held: true }
        }
        (Some(check), _) => roll_back(Reason::Inconclusive { check, evidence: *evidence }),
    }
}

/// The step whose weight the candidate has: the last one not above it.
fn current_step(strategy: &Strategy, split: &Split, candidate: &Revision) -> Option<usize> {
    let (revision, weight) = split.candidate.as_ref()?;
    if revision != candidate || *weight == Weight::NONE {
        return None;
    }
    strategy.steps.iter().rposition(|step| step.weight <= *weight)
}

fn shift(strategy: &Strategy, step: usize, stable: &Revision, candidate: &Revision) -> Action {
    match strategy.steps.get(step) {
        Some(next) => Action::Shift {
            step,
            split: Split::between(stable.clone(), candidate.clone(), next.weight),
        },
        None => Action::Promote { split: Split::all_to(candidate.clone()) },
    }
}
