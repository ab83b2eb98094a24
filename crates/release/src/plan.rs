//! What a release would do: `decide`, unfolded.

use std::time::Duration;

use serde::Serialize;

use crate::check::{Check, Judgement, Verdict};
use crate::decide::{Action, Instant, Waiting, decide};
use crate::journal::{Ask, Entry, Fact, Intent, Probed};
use crate::ports::Observed;
use crate::sequential::{Bound, Evidence, Share};
use crate::{Against, Split, State, Strategy, Weight, millis};

/// One thing a release would do, if all goes well, and what it then waits for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Planned {
    /// Requests of our own to the candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<u32>,
    /// How traffic is divided then; none if it stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// How long it then waits.
    #[serde(with = "millis", rename = "wait_ms")]
    pub wait: Duration,
    /// Whether it then waits for a person.
    pub person: bool,
    /// What must pass before it goes on.
    pub needs: Vec<Need>,
}

/// What a check needs to pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Need {
    /// The check.
    pub check: Check,
    /// So many requests to the candidate, if none of them counts against it.
    pub requests: u64,
}

/// What the release in this state would do from now on.
pub fn unfold(strategy: &Strategy, state: &State, now: Instant) -> Vec<Planned> {
    let (mut state, mut now) = (state.clone(), now);
    let mut plan: Vec<Planned> = Vec::new();
    // Every turn but a wait leads on, and each stage waits at most twice.
    for _ in 0..(4 * strategy.stages.len() + 8) {
        let judgements = passed(state.judgements());
        match decide(strategy, &state, &judgements, now) {
            Action::End(_) => break,
            Action::Probe { requests } => {
                plan.push(Planned { probe: Some(requests), ..Planned::nothing() });
                let probed = Probed { answered: requests, failed: 0, error: None };
                state.apply(&entry(now, Fact::Probed(probed)));
            }
            Action::Go { to, split } => {
                let seen = state.observed.clone();
                let moved = split.clone();
                let intent = Intent { to, split, seen, judgements };
                state.apply(&entry(now, Fact::Intended(Box::new(intent))));
                if let Some(split) = moved {
                    plan.push(Planned { split: Some(split.clone()), ..Planned::nothing() });
                    let observed = Observed { split: Some(split), token: None };
                    state.apply(&entry(now, Fact::Moved { observed }));
                }
            }
            Action::Wait { until, why } => {
                let last = match plan.last_mut() {
                    Some(last) => last,
                    None => plan.push_mut(Planned::nothing()),
                };
                if why == Waiting::Person {
                    last.person = true;
                    state.apply(&entry(now, Fact::Asked { what: Ask::Resume }));
                } else {
                    last.wait += until.saturating_sub(now);
                    last.needs = needs(strategy, state.weight());
                    now = until;
                }
            }
        }
    }
    plan
}

impl Planned {
    fn nothing() -> Planned {
        Planned { probe: None, split: None, wait: Duration::ZERO, person: false, needs: Vec::new() }
    }
}

fn entry(at: Instant, fact: Fact) -> Entry {
    Entry { at, by: String::new(), fact }
}

fn passed(mut judgements: Vec<Judgement>) -> Vec<Judgement> {
    for judgement in &mut judgements {
        judgement.verdict = Verdict::Pass;
    }
    judgements
}

fn needs(strategy: &Strategy, weight: Weight) -> Vec<Need> {
    let applying = strategy.checks.iter().filter(|check| check.applies_at(weight));
    let need = |check: &Check| Need {
        check: check.clone(),
        requests: requests_to_pass(strategy, check, weight).max(check.min_requests),
    };
    applying.map(need).collect()
}

/// How many requests to the candidate a check needs to pass if none counts against either revision.
pub fn requests_to_pass(strategy: &Strategy, check: &Check, weight: Weight) -> u64 {
    let bound = match check.against {
        Against::Stable { tolerance } => Bound::AboveStable(tolerance),
        Against::Limit(limit) => Bound::Fixed(limit),
    };
    let share = weight.as_fraction().clamp(0.01, 0.99);
    let enough = (1.0 / strategy.alpha).ln();
    let passes = |requests: u64| {
        let mut evidence = Evidence::new(bound, strategy.stages_of(check));
        evidence.begin_stage();
        let stable = (requests as f64 * (1.0 - share) / share) as u64;
        // In blocks, as it will be seen; the first ones teach what is usual.
        for _ in 0..10 {
            evidence.add(Share::new(0, requests / 10), Share::new(0, stable / 10));
        }
        evidence.ln_health() >= enough
    };
    let (mut low, mut high) = (0, 10);
    while !passes(high) {
        if high > 1 << 40 {
            return u64::MAX;
        }
        (low, high) = (high, 2 * high);
    }
    while high - low > high / 50 + 1 {
        let middle = low.midpoint(high);
        if passes(middle) { high = middle } else { low = middle }
    }
    high
}
