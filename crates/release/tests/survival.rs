//! A release is killed, refused and interfered with at each call it makes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use slsml_release::*;

fn good(_: &str, _: std::time::Duration) -> f64 {
    0.0
}

fn bad(revision: &str, _: std::time::Duration) -> f64 {
    if revision == "2" { 0.2 } else { 0.0 }
}

/// Every strategy with a good and a bad candidate, and how the release ends undisturbed.
fn cases() -> Vec<(Strategy, Failing)> {
    let mut cases = Vec::new();
    for strategy in [all_at_once(), blue_green(), canary(), linear()] {
        cases.push((strategy.clone(), good as Failing));
        cases.push((strategy, bad));
    }
    cases
}

struct Undisturbed {
    outcome: std::mem::Discriminant<Outcome>,
    split: Option<Split>,
    splits: Vec<String>,
    calls: u64,
}

fn undisturbed(strategy: &Strategy, failing: Failing) -> Undisturbed {
    let room = Room::new(Some("1"), 100, failing);
    let outcome = room.release(strategy).unwrap().unwrap();
    Undisturbed {
        outcome: std::mem::discriminant(&outcome),
        split: room.alias.split(),
        splits: room.splits(),
        calls: room.calls.get(),
    }
}

/// Runs every case with a fault at every call and says how many there were.
fn at_every_call(faults: &[Fault]) -> u64 {
    let mut tried = 0;
    for (strategy, failing) in cases() {
        let usual = undisturbed(&strategy, failing);
        for &fault in faults {
            for call in 1..=usual.calls {
                let room = Room::new(Some("1"), 100, failing);
                room.fault.set(Some((call, fault)));
                let ended = match fault {
                    Fault::KillBefore | Fault::KillAfter => room.release_through_deaths(&strategy),
                    // Once it is begun it goes on by itself.
                    _ => match room.release(&strategy).unwrap() {
                        Ok(outcome) => Ok(outcome),
                        Err(_) => match room.resume().unwrap() {
                            Err(DriveError::Journal(journal::JournalError::Missing(_))) => {
                                room.release(&strategy).unwrap()
                            }
                            ended => {
                                let second = &room.log().entries[1].fact;
                                assert_eq!(*second, journal::Fact::TakenOver, "call {call}");
                                ended
                            }
                        },
                    },
                };
                let name = strategy.name;
                let ended =
                    ended.unwrap_or_else(|error| panic!("{name} {fault:?} {call}: {error}"));
                assert_eq!(
                    std::mem::discriminant(&ended),
                    usual.outcome,
                    "{name}, {fault:?} at call {call} of {}: {ended:?}",
                    usual.calls
                );
                assert_eq!(room.alias.split(), usual.split, "{name}, {fault:?} at call {call}");
                // No move is made twice.
                assert_eq!(room.splits(), usual.splits, "{name}, {fault:?} at call {call}");
                tried += 1;
            }
        }
    }
    tried
}

#[test]
fn killed_at_any_instant_a_release_goes_on_to_the_same_end() {
    let kills = at_every_call(&[Fault::KillBefore, Fault::KillAfter]);
    assert!(kills >= 2000, "{kills}");
}

#[test]
fn a_call_that_fails_changes_nothing_about_the_end() {
    let faults = at_every_call(&[Fault::FailBefore, Fault::FailAfter]);
    assert!(faults >= 2000, "{faults}");
}

#[test]
fn a_foreign_move_at_any_instant_stops_the_release_and_stays() {
    for (strategy, failing) in cases() {
        let usual = undisturbed(&strategy, failing);
        for call in 1..=usual.calls {
            let room = Room::new(Some("1"), 100, failing);
            room.fault.set(Some((call, Fault::Foreign)));
            let ended = room.release(&strategy).unwrap();
            let foreign = Some(Split::all_to(revision("foreign")));
            let moved_at_the_end = ended.as_ref().is_ok_and(|outcome| {
                // Nobody looks any more once the last move is made.
                !matches!(outcome, Outcome::Foreign { .. }) && room.alias.split() == foreign
            });
            let from_the_start =
                room.splits().first().is_some_and(|split| split == "foreign 100 %")
                    && room.splits().len() == 1;
            let name = strategy.name;
            if moved_at_the_end || matches!(ended, Ok(Outcome::Foreign { .. })) {
                assert_eq!(room.alias.split(), foreign, "{name} at call {call}");
            } else {
                // Before the first look, it is simply what was there.
                assert_eq!(room.splits()[0], "foreign 100 %", "{name} at call {call}: {ended:?}");
                assert!(call <= 2 || from_the_start, "{name} at call {call}: {ended:?}");
            }
        }
    }
}

#[test]
fn a_third_revision_with_a_share_ends_a_release_and_stays() {
    for (strategy, failing) in cases() {
        let usual = undisturbed(&strategy, failing);
        for call in 1..=usual.calls {
            let room = Room::new(Some("1"), 100, failing);
            room.fault.set(Some((call, Fault::Third)));
            let ended = room.release(&strategy).unwrap();
            let at = format!("{} at call {call}: {ended:?}", strategy.name);
            let changes = room
                .alias
                .history
                .borrow()
                .iter()
                .map(|(_, split)| split.clone())
                .collect::<Vec<_>>();
            match &ended {
                Ok(Outcome::Foreign { found }) => assert_eq!(found, "33 % each", "{at}"),
                // Nobody looks any more once the last move is made.
                Ok(outcome) => assert_eq!(std::mem::discriminant(outcome), usual.outcome, "{at}"),
                Err(DriveError::Port(ports::PortError::Moved(_))) => assert!(call <= 3, "{at}"),
                Err(_) => panic!("{at}"),
            }
            let after = changes.windows(2).position(|pair| pair[0] == pair[1]);
            assert_eq!(after, changes.len().checked_sub(2), "something was moved after it: {at}");
        }
    }
}

#[test]
fn a_store_that_fails_for_half_a_minute_does_not_end_a_release() {
    for (strategy, failing) in cases() {
        let usual = undisturbed(&strategy, failing);
        for call in [20, 30, 31, 32] {
            let room = Room::new(Some("1"), 100, failing);
            room.out.set(call..call + 5);
            let ended = room.release(&strategy).unwrap().unwrap();
            assert_eq!(std::mem::discriminant(&ended), usual.outcome, "{} {call}", strategy.name);
            assert_eq!(room.splits(), usual.splits, "{} {call}", strategy.name);
        }
    }
}

#[test]
fn what_fails_for_long_leaves_the_release_to_go_on_with() {
    let room = Room::new(Some("1"), 100, good);
    room.out.set(40..u64::MAX);
    assert!(matches!(room.release(&canary()), Some(Err(error)) if error.may_pass()));
    room.out.take();
    assert_eq!(room.resume().unwrap().unwrap(), Outcome::Promoted { by: None });
}
