//! `decide`, case by case, and what holds in every case.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::*;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy as AnyOf;
use slsml_release::journal::{Ask, Began, Entry, FORMAT, Fact, Intent, Next, Probed};
use slsml_release::ports::Observed;
use slsml_release::*;

/// A release of revision 2 over revision 1.
struct Case {
    state: State,
}

impl Case {
    fn of(strategy: &Strategy) -> Case {
        let split = Some(Split::all_to(revision("1")));
        let began = Began {
            format: FORMAT,
            slsml: "test".into(),
            release: "r".into(),
            target: TARGET.into(),
            observed: Observed { split, token: None },
            before: Counts::default(),
            candidate: revision("2"),
            strategy: strategy.clone(),
            settle: secs(5),
        };
        Case { state: State::begin(&began, "me", EPOCH) }
    }

    fn then(mut self, after: u64, fact: Fact) -> Case {
        self.state.apply(&Entry { at: EPOCH + secs(after), by: "somebody".into(), fact });
        self
    }

    /// In a stage since so many seconds after the beginning.
    fn in_stage(self, stage: usize, since: u64) -> Case {
        let weight = self.state.strategy.weight(stage);
        let (one, two) = (revision("1"), revision("2"));
        let split = match weight {
            Weight::ALL => Split::all_to(two),
            weight => Split::between(one, two, weight),
        };
        let seen = self.state.observed.clone();
        let observed = Observed { split: Some(split.clone()), token: None };
        let intent =
            Intent { to: Next::Stage(stage), split: Some(split), seen, judgements: vec![] };
        self.then(since, Fact::Intended(Box::new(intent))).then(since, Fact::Moved { observed })
    }

    fn decide(&self, after: u64, verdict: Verdict) -> Action {
        let mut judgements = self.state.judgements();
        judgements.iter_mut().for_each(|judgement| judgement.verdict = verdict);
        decide(&self.state.strategy, &self.state, &judgements, EPOCH + secs(after))
    }
}

/// An action in a few words.
fn words(action: &Action) -> String {
    match action {
        Action::Probe { requests } => format!("probe {requests}"),
        Action::Go { to, split } => {
            let to = match to {
                Next::Stage(stage) => format!("stage {stage}"),
                Next::Promote { .. } => "promote".into(),
                Next::RollBack(reason) => format!("back, {}", why(reason)),
            };
            match split {
                Some(split) => format!("{to}: {split}"),
                None => to,
            }
        }
        Action::Wait { until, why } => {
            format!("wait until {} for {why:?}", (*until - EPOCH).as_secs())
        }
        Action::End(Outcome::RolledBack(reason)) => format!("end, {}", why(reason)),
        Action::End(Outcome::Failed(reason)) => format!("end, nowhere to go, {}", why(reason)),
        Action::End(Outcome::Promoted { .. }) => "end, promoted".into(),
        Action::End(Outcome::Foreign { .. }) => "end, foreign".into(),
    }
}

fn why(reason: &Reason) -> &'static str {
    match reason {
        Reason::CheckFailed(_) => "check failed",
        Reason::Inconclusive(_) => "inconclusive",
        Reason::ProbeFailed(_) => "probe failed",
        Reason::Blind => "blind",
        Reason::Deadline => "deadline",
        Reason::Asked { .. } => "asked",
    }
}

#[test]
fn each_state_has_its_action() {
    use Verdict::{Fail, Inconclusive, Pass};
    let probed = |failed| Fact::Probed(Probed { answered: 3 - failed, failed, error: None });
    let asked = |what| Fact::Asked { what };
    let begun = || Case::of(&canary());
    let warm = || {
        let observed = begun().state.observed;
        let intent = Intent { to: Next::Stage(0), split: None, seen: observed, judgements: vec![] };
        begun().then(0, Fact::Intended(Box::new(intent)))
    };
    let step = || begun().in_stage(1, 10);
    let first = || {
        let mut case = Case::of(&blue_green());
        case.state.stable = None;
        case.in_stage(1, 0)
    };
    let mut aborts = canary();
    aborts.on_inconclusive = OnInconclusive::Abort;
    let mut promotes = canary();
    promotes.on_inconclusive = OnInconclusive::Promote;
    let table: Vec<(Case, u64, Verdict, &str)> = vec![
        (begun(), 0, Pass, "stage 0"),
        (begun().then(0, asked(Ask::Abort)), 0, Pass, "end, asked"),
        (begun().then(0, asked(Ask::Pause)), 0, Pass, "wait until 86400 for Person"),
        (warm(), 0, Pass, "probe 3"),
        (warm().then(1, probed(1)), 1, Pass, "end, probe failed"),
        (warm().then(1, probed(0)), 1, Pass, "stage 1: 1 90 %, 2 10 %"),
        (step(), 10, Pass, "wait until 70 for Bake"),
        (step(), 69, Inconclusive, "wait until 70 for Bake"),
        (step(), 11, Fail, "back, check failed: 1 100 %"),
        (step(), 70, Pass, "stage 2: 1 50 %, 2 50 %"),
        (step(), 70, Inconclusive, "wait until 670 for Evidence"),
        (step(), 670, Inconclusive, "back, inconclusive: 1 100 %"),
        (Case::of(&aborts).in_stage(1, 10), 70, Inconclusive, "back, inconclusive: 1 100 %"),
        (Case::of(&promotes).in_stage(1, 10), 70, Inconclusive, "stage 2: 1 50 %, 2 50 %"),
        (Case::of(&promotes).in_stage(1, 10), 70, Fail, "back, check failed: 1 100 %"),
        (step().then(20, asked(Ask::Pause)), 500, Pass, "wait until 86400 for Person"),
        (step().then(20, asked(Ask::Pause)), 500, Fail, "back, check failed: 1 100 %"),
        (
            step().then(20, asked(Ask::Pause)).then(30, asked(Ask::Resume)),
            70,
            Pass,
            "stage 2: 1 50 %, 2 50 %",
        ),
        (step().then(20, asked(Ask::Promote)), 20, Inconclusive, "promote: 2 100 %"),
        (step().then(20, asked(Ask::Abort)), 20, Pass, "back, asked: 1 100 %"),
        (step(), 86_400, Inconclusive, "back, deadline: 1 100 %"),
        // Nobody looks after the last step that is watched: its latest requests are waited for.
        (begun().in_stage(2, 80), 140, Pass, "wait until 145 for Bake"),
        (begun().in_stage(2, 80), 145, Pass, "stage 3: 2 100 %"),
        (step().then(20, asked(Ask::Pause)), 70, Pass, "wait until 86400 for Person"),
        (
            step().then(20, asked(Ask::Pause)).then(5000, asked(Ask::Resume)),
            5001,
            Inconclusive,
            "wait until 5600 for Evidence",
        ),
        (begun().in_stage(3, 150), 150, Pass, "end, promoted"),
        (Case::of(&gated()).in_stage(0, 0), 65, Pass, "stage 1"),
        (Case::of(&blue_green()).in_stage(1, 0), 0, Pass, "wait until 125 for Bake"),
        (
            Case::of(&blue_green()).in_stage(1, 0).then(60, asked(Ask::Pause)),
            200,
            Pass,
            "wait until 86400 for Person",
        ),
        (Case::of(&blue_green()).in_stage(1, 0), 5, Fail, "back, check failed: 1 100 %"),
        (Case::of(&blue_green()).in_stage(1, 0), 125, Pass, "end, promoted"),
        (Case::of(&blue_green()).in_stage(1, 0), 125, Inconclusive, "wait until 725 for Evidence"),
        (Case::of(&blue_green()).in_stage(1, 0), 725, Inconclusive, "back, inconclusive: 1 100 %"),
        (first(), 5, Fail, "end, nowhere to go, check failed"),
        (Case::of(&all_at_once()).in_stage(1, 0), 0, Pass, "end, promoted"),
    ];
    for (at, (case, after, verdict, expected)) in table.into_iter().enumerate() {
        assert_eq!(words(&case.decide(after, verdict)), expected, "case {at}");
    }
}

#[test]
fn strategies_that_make_no_sense_are_refused() {
    let with = |stages: Vec<Stage>, checks: Vec<Check>| Strategy { stages, checks, ..canary() };
    let relative = || vec![errors_against_stable(0.01)];
    let table = [
        (
            with(vec![watch(50.0, 9), watch(10.0, 9), watch(100.0, 0)], relative()),
            "more than the one before",
        ),
        (
            with(vec![watch(50.0, 9), watch(50.0, 9), watch(100.0, 0)], relative()),
            "more than the one before",
        ),
        (with(vec![watch(100.0, 9), watch(100.0, 0)], relative()), "has weight 100"),
        (with(vec![watch(50.0, 9)], relative()), "without steps"),
        (with(vec![Stage::Pause, watch(50.0, 9), watch(100.0, 0)], relative()), "too early"),
        (with(vec![watch(50.0, 9), watch(100.0, 0)], vec![]), "needs a check"),
        (with(vec![watch(100.0, 9)], relative()), "no stable revision to compare with"),
        (with(vec![watch(50.0, 90_000), watch(100.0, 0)], relative()), "deadline"),
        (
            with(vec![watch(50.0, 9), watch(100.0, 0)], vec![errors_below(1.5)]),
            "limit of errors is 1.5",
        ),
        (
            with(vec![watch(50.0, 9), watch(100.0, 0)], vec![errors_against_stable(-0.1)]),
            "tolerance",
        ),
        (
            with(vec![watch(50.0, 9), watch(100.0, 0)], vec![errors_against_stable(0.0)]),
            "nothing can show",
        ),
        (Strategy { alpha: 0.0, ..canary() }, "alpha is 0"),
    ];
    for (strategy, expected) in table {
        let error = strategy.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}, not {expected}");
    }
    let error = canary().validate_delay(secs(180)).unwrap_err().to_string();
    assert!(error.contains("metrics arrive up to 180s late"), "{error}");
}

fn any_strategy() -> impl AnyOf<Value = Strategy> {
    let steps = proptest::collection::btree_set(1u16..10_000, 1..6);
    (steps, 0u64..100, 0u64..300, proptest::bool::ANY).prop_map(|(steps, bake, hold, pause)| {
        let mut stages = vec![Stage::WarmUp { requests: 1 }];
        for hundredths in steps {
            stages.push(watch(f64::from(hundredths) / 100.0, bake + 1));
            if pause {
                stages.push(Stage::Pause);
            }
        }
        stages.push(watch(100.0, 0));
        Strategy { stages, hold: secs(hold), ..canary() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the checks say and people ask, in whatever order and at whatever time.
    #[test]
    fn weights_grow_only_on_a_pass_and_every_path_ends(
        strategy in any_strategy(),
        turns in proptest::collection::vec((0u8..8, 0u64..200), 1..60),
    ) {
        strategy.validate().unwrap();
        let mut case = Case::of(&strategy);
        let mut now = 0;
        let mut before = Weight::NONE;
        let mut turns = turns.into_iter().chain(std::iter::repeat((9, 10_000)));
        for _ in 0..400 {
            let (turn, passes) = turns.next().unwrap();
            let verdict = match turn {
                0..=3 => Verdict::Pass,
                4 => Verdict::Fail,
                _ => Verdict::Inconclusive,
            };
            if turn == 6 {
                case = case.then(now, Fact::Asked { what: Ask::Pause });
            } else if turn == 7 {
                case = case.then(now, Fact::Asked { what: Ask::Resume });
            }
            // Clocks jump, too, and not only forward.
            now = if turn == 5 { now.saturating_sub(passes) } else { now + passes };
            match case.decide(now, verdict) {
                Action::End(outcome) => {
                    let promoted = matches!(outcome, Outcome::Promoted { .. });
                    prop_assert_eq!(promoted, before == Weight::ALL);
                    return Ok(());
                }
                Action::Probe { .. } => {
                    let probed = Probed { answered: 1, failed: 0, error: None };
                    case = case.then(now, Fact::Probed(probed));
                }
                Action::Wait { .. } => {}
                Action::Go { to, split } => {
                    let seen = case.state.observed.clone();
                    if let Some(split) = &split {
                        let weight = match &split.candidate {
                            Some((_, weight)) => *weight,
                            None if split.stable == revision("2") => Weight::ALL,
                            None => Weight::NONE,
                        };
                        if weight > before && before > Weight::NONE {
                            let gate_opened = turn == 7;
                            prop_assert!(verdict == Verdict::Pass || gate_opened);
                        }
                        before = weight;
                    }
                    let observed = Observed { split: split.clone(), token: None };
                    let moved = split.is_some();
                    let intent = Intent { to, split, seen, judgements: vec![] };
                    case = case.then(now, Fact::Intended(Box::new(intent)));
                    if moved {
                        case = case.then(now, Fact::Moved { observed });
                    }
                }
            }
        }
        prop_assert!(false, "it never ends: {:?}", case.state);
    }

    #[test]
    fn a_journal_reads_back_as_the_state_it_was_written_from(
        counts in proptest::collection::vec((0u64..50, 0u64..50, 0u64..500, 0u64..500), 0..30),
    ) {
        let mut case = Case::of(&canary()).in_stage(1, 10);
        let mut entries = Vec::new();
        for (at, (bad, worse, good, better)) in counts.into_iter().enumerate() {
            let count = |errors: u64, others: u64| Counts {
                requests: errors + others,
                events: [(Measure::Errors, errors)].into(),
                ..Counts::default()
            };
            let from = EPOCH + Duration::from_millis(1500 * at as u64);
            let block = Block { from, to: from + secs(1), stable: count(bad, good), candidate: count(worse, better) };
            let entry = Entry { at: from, by: "me".into(), fact: Fact::Looked { block } };
            case.state.apply(&entry);
            entries.push(entry);
        }
        let text = serde_json::to_string(&entries).unwrap();
        let read: Vec<Entry> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &entries);
        let mut again = Case::of(&canary()).in_stage(1, 10);
        read.iter().for_each(|entry| again.state.apply(entry));
        prop_assert_eq!(again.state, case.state);
    }
}
