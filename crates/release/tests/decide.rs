//! `decide` as a table: strategy, state, evidence and time in, action out.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use proptest::prelude::*;
use slsml_release::{
    Action, Check, Counts, Evidence, Limit, OnInconclusive, Reason, Revision, Split, State, Step,
    Strategy, StrategyError, Weight, decide,
};

const BAKE: Duration = Duration::from_secs(60);
const HOLD: Duration = Duration::from_secs(600);
const BEGAN: Duration = Duration::from_secs(1_000);

fn weight(percent: f64) -> Weight {
    Weight::percent(percent).unwrap()
}

fn revision(name: &str) -> Revision {
    Revision(name.into())
}

fn check() -> Check {
    Check { limit: Limit::ErrorRate(0.02), min_requests: 100 }
}

fn canary(percents: &[f64]) -> slsml_release::Strategy {
    let steps = percents.iter().map(|&p| Step { weight: weight(p), bake: BAKE }).collect();
    Strategy::canary(steps, vec![check()], HOLD).unwrap()
}

/// A release of version 2 over version 1, at this share.
fn at(percent: f64) -> State {
    let split = match percent {
        0.0 => Split::all_to(revision("1")),
        percent => Split::between(revision("1"), revision("2"), weight(percent)),
    };
    State {
        stable: Some(revision("1")),
        candidate: revision("2"),
        split: Some(split),
        step_began: BEGAN,
    }
}

fn seen(requests: u64, errors: u64) -> Evidence {
    let stable = Counts { requests: 1000, errors: 0 };
    Evidence { stable, candidate: Counts { requests, errors } }
}

fn shift(step: usize, percent: f64) -> Action {
    Action::Shift { step, split: Split::between(revision("1"), revision("2"), weight(percent)) }
}

fn promote() -> Action {
    Action::Promote { split: Split::all_to(revision("2")) }
}

fn back() -> Split {
    Split::all_to(revision("1"))
}

fn wait(until: Duration, held: bool) -> Action {
    Action::Wait { until, held }
}

#[test]
fn a_canary_goes_step_by_step() {
    let end = BEGAN + BAKE;
    let failed = |evidence| Action::RollBack {
        split: back(),
        reason: Reason::CheckFailed { check: check(), evidence },
    };
    let inconclusive = |evidence| Action::RollBack {
        split: back(),
        reason: Reason::Inconclusive { check: check(), evidence },
    };
    let table = [
        ("before the first step", 0.0, seen(0, 0), BEGAN, shift(0, 10.0)),
        ("while the step bakes", 10.0, seen(500, 0), BEGAN, wait(end, false)),
        ("while it bakes without traffic", 10.0, seen(0, 0), BEGAN, wait(end, false)),
        ("a failure ends the bake early", 10.0, seen(100, 3), BEGAN, failed(seen(100, 3))),
        ("at the limit is not above it", 10.0, seen(100, 2), end, shift(1, 50.0)),
        ("one request short says nothing", 10.0, seen(99, 2), BEGAN, wait(end, false)),
        ("the rest of the sample cannot mend it", 10.0, seen(4, 3), BEGAN, failed(seen(4, 3))),
        ("after the bake with evidence", 10.0, seen(100, 0), end, shift(1, 50.0)),
        ("after the bake without evidence", 10.0, seen(99, 0), end, wait(end + HOLD, true)),
        ("evidence during the hold", 10.0, seen(100, 0), end + HOLD / 2, shift(1, 50.0)),
        ("a failure during the hold", 10.0, seen(100, 50), end + HOLD / 2, failed(seen(100, 50))),
        ("after the hold without evidence", 10.0, seen(0, 0), end + HOLD, inconclusive(seen(0, 0))),
        ("after the last step", 50.0, seen(100, 0), end, promote()),
        ("between two steps' weights", 20.0, seen(100, 0), end, shift(1, 50.0)),
    ];
    for (what, percent, evidence, now, expected) in table {
        assert_eq!(
            decide(&canary(&[10.0, 50.0]), &at(percent), &evidence, now),
            expected,
            "{what}"
        );
    }
}

#[test]
fn inconclusive_aborts_at_once_where_that_is_asked_for() {
    let strategy = Strategy { on_inconclusive: OnInconclusive::Abort, ..canary(&[10.0]) };
    let action = decide(&strategy, &at(10.0), &seen(3, 0), BEGAN + BAKE);
    assert!(
        matches!(action, Action::RollBack { reason: Reason::Inconclusive { .. }, .. }),
        "{action:?}"
    );
}

#[test]
fn all_at_once_promotes_and_is_then_done() {
    let strategy = Strategy::all_at_once();
    assert_eq!(decide(&strategy, &at(0.0), &Evidence::default(), BEGAN), promote());
    let first = State { stable: None, split: None, ..at(0.0) };
    assert_eq!(decide(&strategy, &first, &Evidence::default(), BEGAN), promote());
    for stable in [None, Some(revision("1")), Some(revision("2"))] {
        let split = Some(Split::all_to(revision("2")));
        let done = State { stable, split, ..at(0.0) };
        assert_eq!(decide(&strategy, &done, &Evidence::default(), BEGAN), Action::Done);
        assert_eq!(decide(&canary(&[5.0]), &done, &Evidence::default(), BEGAN), Action::Done);
    }
}

#[test]
fn strategies_that_make_no_sense_are_refused() {
    let step = |percent| Step { weight: weight(percent), bake: BAKE };
    let strategy = |steps, checks| Strategy::canary(steps, checks, HOLD).unwrap_err();
    let bad_rate = Check { limit: Limit::ErrorRate(1.5), ..check() };
    let no_sample = Check { min_requests: 0, ..check() };
    assert_eq!(
        strategy(vec![step(50.0), step(10.0)], vec![check()]),
        StrategyError::Decreasing { step: 2, weight: weight(10.0) }
    );
    assert_eq!(
        strategy(vec![step(100.0)], vec![check()]),
        StrategyError::Weight { step: 1, weight: Weight::ALL }
    );
    assert_eq!(strategy(vec![], vec![check()]), StrategyError::NoSteps);
    assert_eq!(strategy(vec![step(10.0)], vec![]), StrategyError::NoCheck);
    assert_eq!(strategy(vec![step(10.0)], vec![bad_rate]), StrategyError::Rate(1.5));
    assert_eq!(strategy(vec![step(10.0)], vec![no_sample]), StrategyError::NoSample);
}

proptest! {
    #[test]
    fn traffic_never_grows_without_a_pass(
        steps in proptest::collection::btree_set(1u16..10_000, 1..6),
        percent in 0u16..10_000,
        requests in 0u64..300,
        failed in 0u64..300,
        elapsed in 0u64..2_000,
    ) {
        let steps: Vec<f64> = steps.into_iter().map(|w| f64::from(w) / 100.0).collect();
        let percent = f64::from(percent) / 100.0;
        let evidence = seen(requests, failed.min(requests));
        let state = at(percent);
        let action = decide(&canary(&steps), &state, &evidence, BEGAN + Duration::from_secs(elapsed));
        let began = percent >= steps[0];
        let passed = check().verdict(&evidence) == slsml_release::Verdict::Pass;
        match action {
            Action::Shift { step, split } => {
                let (candidate, share) = split.candidate.unwrap();
                prop_assert_eq!(candidate, revision("2"));
                prop_assert_eq!(share, weight(steps[step]));
                prop_assert!(share > weight(percent) || !began);
                prop_assert!(!began || passed && elapsed >= BAKE.as_secs());
            }
            Action::Promote { split } => {
                prop_assert_eq!(split, Split::all_to(revision("2")));
                prop_assert!(passed && elapsed >= BAKE.as_secs());
            }
            Action::RollBack { split, .. } => prop_assert_eq!(split, back()),
            Action::Wait { until, .. } => prop_assert!(until > BEGAN + Duration::from_secs(elapsed)),
            Action::Done => prop_assert!(false, "not done at {} %", percent),
        }
    }
}
