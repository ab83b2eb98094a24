//! The decision: synchronous, without I/O, without a clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::{Judgement, Verdict};
use crate::journal::{Ask, Next, Probed};
use crate::{OnInconclusive, Split, Stage, State, Strategy};

/// A point in time: how long since the Unix epoch.
pub type Instant = Duration;

/// How long a candidate may have traffic while nothing can be read of it.
pub const BLIND_LIMIT: Duration = Duration::from_secs(300);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send the candidate so many requests of our own.
    Probe {
        /// How many.
        requests: u32,
    },
    /// Move on, or back.
    Go {
        /// Where to.
        to: Next,
        /// The split to set; none if traffic stays as it is.
        split: Option<Split>,
    },
    /// Look again at this time or earlier.
    Wait {
        /// When something else would be decided on the same evidence.
        until: Instant,
        /// What for.
        why: Waiting,
    },
    /// It is over.
    End(Outcome),
}

/// What a release waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// The stage's time.
    Bake,
    /// Evidence, though the stage's time is over.
    Evidence,
    /// A person to say go on.
    Person,
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The candidate has all traffic.
    Promoted {
        /// Who asked for it before its time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The stable revision has all traffic again, or still.
    RolledBack(Reason),
    /// It failed, and there is nothing to go back to: traffic stays as it is.
    Failed(Reason),
    /// Somebody else moved the target; it was left as it was found.
    Foreign {
        /// What was found.
        found: String,
    },
}

/// Why a release is rolled back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A check failed.
    CheckFailed(Box<Judgement>),
    /// The evidence never was enough.
    Inconclusive(Box<Judgement>),
    /// The candidate did not answer requests of our own.
    ProbeFailed(Probed),
    /// Nothing could be read for too long.
    Blind,
    /// It took too long.
    Deadline,
    /// Somebody asked for it.
    Asked {
        /// Who.
        by: String,
    },
}

/// The next action of a release. `judgements` is what its checks say of what was counted so far.
pub fn decide(
    strategy: &Strategy,
    state: &State,
    judgements: &[Judgement],
    now: Instant,
) -> Action {
    if let Some(outcome) = &state.ended {
        return Action::End(outcome.clone());
    }
    match &state.wish {
        Some((Ask::Abort | Ask::RollBack, by)) => {
            return roll_back(state, Reason::Asked { by: by.clone() });
        }
        Some((Ask::Promote, by)) => {
            let split = Some(Split::all_to(state.candidate.clone()));
            return Action::Go { to: Next::Promote { by: by.clone() }, split };
        }
        _ => {}
    }
    if let Some(failed) = first(judgements, Verdict::Fail) {
        return roll_back(state, Reason::CheckFailed(failed));
    }
    let blind = state.blind_since.is_some_and(|since| now.saturating_sub(since) >= BLIND_LIMIT);
    if blind && state.is_watched() {
        return roll_back(state, Reason::Blind);
    }
    let deadline = state.began.saturating_add(strategy.deadline);
    // At the very end there is nothing left to be late for, or to wait with.
    let last = state.stage.filter(|at| at + 1 == strategy.stages.len());
    let done = last.is_some_and(|at| is_over(strategy, state, at, judgements, now));
    if now >= deadline && !done {
        return roll_back(state, Reason::Deadline);
    }
    if state.paused && now < deadline {
        return Action::Wait { until: deadline, why: Waiting::Person };
    }
    let Some(at) = state.stage else { return enter(strategy, state, 0) };
    match strategy.stages.get(at) {
        None => Action::End(Outcome::Promoted { by: None }),
        Some(Stage::WarmUp { requests }) => match &state.probed {
            None if *requests > 0 => Action::Probe { requests: *requests },
            Some(probed) if probed.failed > 0 => {
                roll_back(state, Reason::ProbeFailed(probed.clone()))
            }
            _ => enter(strategy, state, at + 1),
        },
        Some(Stage::Pause) if state.resumed => enter(strategy, state, at + 1),
        Some(Stage::Pause) => Action::Wait { until: deadline, why: Waiting::Person },
        Some(Stage::Watch { bake, .. }) => {
            let bake_over = bake_over(strategy, state, at, *bake);
            // While somebody keeps it paused, nobody waits for evidence.
            let hold_over = bake_over.max(state.resumed_at).saturating_add(strategy.hold);
            // Without time to watch there is nothing to say: the move was the stage.
            let unsure = match *bake > Duration::ZERO {
                true => first(judgements, Verdict::Inconclusive),
                false => None,
            };
            match (unsure, strategy.on_inconclusive) {
                _ if now < bake_over => {
                    Action::Wait { until: bake_over.min(deadline), why: Waiting::Bake }
                }
                (None, _) | (_, OnInconclusive::Promote) => enter(strategy, state, at + 1),
                (_, OnInconclusive::Hold) if now < hold_over => {
                    Action::Wait { until: hold_over.min(deadline), why: Waiting::Evidence }
                }
                (Some(judgement), _) => roll_back(state, Reason::Inconclusive(judgement)),
            }
        }
    }
}

/// Whether the stage in force has done what it is for.
fn is_over(
    strategy: &Strategy,
    state: &State,
    at: usize,
    judgements: &[Judgement],
    now: Instant,
) -> bool {
    let Some(Stage::Watch { bake, .. }) = strategy.stages.get(at) else { return false };
    let sure = *bake == Duration::ZERO || first(judgements, Verdict::Inconclusive).is_none();
    now >= bake_over(strategy, state, at, *bake) && sure
}

/// When a stage has been watched for its time. Nobody looks after the last one, so it lasts until
/// the latest of its requests are counted.
fn bake_over(strategy: &Strategy, state: &State, at: usize, bake: Duration) -> Instant {
    let settle = match bake > Duration::ZERO && strategy.is_last_watched(at) {
        true => state.settle,
        false => Duration::ZERO,
    };
    state.stage_began.saturating_add(bake).saturating_add(settle)
}

fn first(judgements: &[Judgement], verdict: Verdict) -> Option<Box<Judgement>> {
    judgements.iter().find(|judgement| judgement.verdict == verdict).cloned().map(Box::new)
}

/// Into a stage, or out of the last one.
fn enter(strategy: &Strategy, state: &State, stage: usize) -> Action {
    if stage >= strategy.stages.len() {
        return Action::End(Outcome::Promoted { by: None });
    }
    let split = state.split_of(stage).filter(|split| state.observed.split.as_ref() != Some(split));
    Action::Go { to: Next::Stage(stage), split }
}

fn roll_back(state: &State, reason: Reason) -> Action {
    let back = state.stable.clone().map(Split::all_to);
    match back {
        Some(back) if state.observed.split.as_ref() != Some(&back) => {
            Action::Go { to: Next::RollBack(reason), split: Some(back) }
        }
        // Whoever gave up a first release got what was asked for.
        None if state.observed.split.is_some() || !matches!(reason, Reason::Asked { .. }) => {
            Action::End(Outcome::Failed(reason))
        }
        // Nothing was moved yet.
        _ => Action::End(Outcome::RolledBack(reason)),
    }
}
