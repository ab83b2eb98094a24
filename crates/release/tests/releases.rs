//! Whole releases in virtual time.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use slsml_release::journal::{Ask, Fact};
use slsml_release::ports::Clock;
use slsml_release::*;

fn promoted(room: &Room, strategy: &Strategy) {
    let ended = room.release(strategy).unwrap().unwrap();
    assert_eq!(ended, Outcome::Promoted { by: None }, "{:?}", room.splits());
    assert_eq!(room.alias.split(), Some(Split::all_to(revision("2"))));
}

#[test]
fn a_healthy_candidate_is_promoted_by_every_strategy() {
    let table: [(Strategy, &[&str]); 4] = [
        (all_at_once(), &["2 100 %"]),
        (blue_green(), &["2 100 %"]),
        (canary(), &["1 90 %, 2 10 %", "1 50 %, 2 50 %", "2 100 %"]),
        (
            linear(),
            &["1 80 %, 2 20 %", "1 60 %, 2 40 %", "1 40 %, 2 60 %", "1 20 %, 2 80 %", "2 100 %"],
        ),
    ];
    for (strategy, splits) in table {
        let room = Room::new(Some("1"), 100, healthy);
        promoted(room, &strategy);
        assert_eq!(room.splits(), splits, "{}", strategy.name);
    }
}

#[test]
fn a_step_is_held_until_there_is_evidence_and_no_longer() {
    let room = Room::new(Some("1"), 10, healthy);
    promoted(room, &canary());
    // 1 request a second reaches the candidate; a clean record of 2 % takes a few hundred.
    assert!((180..500).contains(&room.took()), "{}", room.took());
}

#[test]
fn a_failing_candidate_is_rolled_back_long_before_its_step_is_over() {
    for strategy in [canary(), linear(), blue_green()] {
        let room = Room::new(Some("1"), 100, |revision, _| if revision == "2" { 0.2 } else { 0.0 });
        let ended = room.release(&strategy).unwrap().unwrap();
        let Outcome::RolledBack(Reason::CheckFailed(judgement)) = ended else {
            panic!("{ended:?}")
        };
        assert!(judgement.candidate.low > 0.02, "{judgement:?}");
        assert_eq!(room.alias.split(), Some(Split::all_to(revision("1"))));
        assert!(room.took() <= 15, "{} took {} s", strategy.name, room.took());
    }
}

#[test]
fn a_candidate_that_fails_only_under_more_traffic_is_rolled_back() {
    let room =
        Room::new(
            Some("1"),
            100,
            |revision, since| {
                if revision == "2" && since > secs(61) { 0.2 } else { 0.0 }
            },
        );
    let ended = room.release(&canary()).unwrap().unwrap();
    assert!(matches!(ended, Outcome::RolledBack(Reason::CheckFailed(_))), "{ended:?}");
    assert_eq!(room.splits(), ["1 90 %, 2 10 %", "1 50 %, 2 50 %", "1 100 %"]);
    assert!(room.took() <= 75, "{}", room.took());
}

#[test]
fn what_fails_both_is_not_blamed_on_the_candidate() {
    let room =
        Room::new(
            Some("1"),
            100,
            |_, since| {
                if (20..40).contains(&since.as_secs()) { 0.5 } else { 0.0 }
            },
        );
    promoted(room, &canary());
}

#[test]
fn without_traffic_nothing_that_is_watched_is_promoted() {
    for strategy in [canary(), linear(), blue_green()] {
        let room = Room::new(Some("1"), 0, healthy);
        let ended = room.release(&strategy).unwrap().unwrap();
        assert!(matches!(ended, Outcome::RolledBack(Reason::Inconclusive(_))), "{ended:?}");
        assert_eq!(room.alias.split(), Some(Split::all_to(revision("1"))));
    }
}

#[test]
fn a_candidate_that_does_not_answer_our_own_requests_gets_no_traffic() {
    for strategy in [canary(), blue_green(), all_at_once()] {
        let room = Room::new(Some("1"), 100, healthy);
        room.alias.failing.borrow_mut().push(revision("2"));
        let ended = room.release(&strategy).unwrap().unwrap();
        assert!(matches!(ended, Outcome::RolledBack(Reason::ProbeFailed(_))), "{ended:?}");
        assert!(room.splits().is_empty());
    }
}

#[test]
fn a_first_release_creates_the_target_and_steps_need_a_stable_one() {
    let room = Room::new(None, 0, healthy);
    promoted(room, &all_at_once());
    let room = Room::new(None, 0, healthy);
    assert!(matches!(room.release(&canary()), Some(Err(DriveError::NoStable))));
}

#[test]
fn unreadable_metrics_stop_a_release_before_it_moves_anything() {
    let room = Room::new(Some("1"), 100, healthy);
    room.traffic.unreadable.set(true);
    assert!(matches!(room.release(&canary()), Some(Err(DriveError::NoMetrics(_)))));
    assert!(room.splits().is_empty());
}

#[test]
fn a_gate_waits_for_a_person_and_checks_on() {
    let room = Room::new(Some("1"), 100, healthy);
    let ended = room.release(&gated()).unwrap().unwrap();
    assert_eq!(ended, Outcome::RolledBack(Reason::Deadline), "nobody came");
    assert_eq!(room.took(), 24 * 3600);
    let room =
        Room::new(
            Some("1"),
            100,
            |revision, since| {
                if revision == "2" && since > secs(3600) { 0.3 } else { 0.0 }
            },
        );
    let ended = room.release(&gated()).unwrap().unwrap();
    assert!(matches!(ended, Outcome::RolledBack(Reason::CheckFailed(_))), "{ended:?}");
    assert!(room.took() < 3700, "{}", room.took());
}

#[test]
fn a_person_ends_a_release_from_elsewhere() {
    for (ask, split) in [(Ask::Promote, "2 100 %"), (Ask::Abort, "1 100 %")] {
        let room = Room::new(Some("1"), 100, healthy);
        // Dead in the middle of the first step, so that there is a time to ask.
        room.fault.set(Some((60, Fault::KillBefore)));
        assert!(room.release(&canary()).is_none());
        room.ask(ask);
        let ended = room.resume().unwrap().unwrap();
        assert_eq!(room.splits().last().unwrap(), split, "{ended:?}");
        let journal = room.log();
        let asked = |fact: &Fact| matches!(fact, Fact::Asked { what } if *what == ask);
        assert!(journal.entries.iter().any(|entry| asked(&entry.fact)));
    }
}

#[test]
fn a_pause_keeps_the_step_and_resume_ends_the_pause() {
    let room = Room::new(Some("1"), 100, healthy);
    room.fault.set(Some((60, Fault::KillBefore)));
    assert!(room.release(&canary()).is_none());
    room.ask(Ask::Pause);
    room.fault.set(Some((room.calls.get() + 2000, Fault::KillBefore)));
    assert!(room.resume().is_none(), "it waits");
    assert_eq!(room.splits(), ["1 90 %, 2 10 %"]);
    assert!(room.took() > 300, "{}", room.took());
    room.ask(Ask::Resume);
    room.fault.set(None);
    assert_eq!(room.resume().unwrap().unwrap(), Outcome::Promoted { by: None });
}

#[test]
fn a_plan_says_what_the_release_then_does() {
    for strategy in [all_at_once(), blue_green(), canary(), linear(), gated()] {
        let room = Room::new(Some("1"), 1000, healthy);
        room.fault.set(Some((12, Fault::KillBefore)));
        assert!(room.release(&strategy).is_none() || strategy.name == StrategyName::AllAtOnce);
        let began = match &room.log().entries[0].fact {
            Fact::Began(began) => State::begin(began, "me", EPOCH),
            other => panic!("{other:?}"),
        };
        let plan = unfold(&strategy, &began, EPOCH);
        let planned: Vec<String> =
            plan.iter().filter_map(|step| step.split.as_ref()).map(Split::to_string).collect();
        let other = Room::new(Some("1"), 1000, healthy);
        if strategy == gated() {
            assert!(plan.iter().any(|step| step.person));
            continue;
        }
        promoted(other, &strategy);
        assert_eq!(planned, other.splits());
        let waits: u64 = plan.iter().map(|step| step.wait.as_secs()).sum();
        assert_eq!(waits, other.took(), "{}", strategy.name);
    }
}

#[test]
fn two_releases_of_one_target_do_not_meet() {
    let room = Room::new(Some("1"), 100, healthy);
    room.fault.set(Some((60, Fault::KillBefore)));
    assert!(room.release(&canary()).is_none());
    assert!(matches!(room.release(&canary()), Some(Err(DriveError::UnderWay { .. }))));
}

#[test]
fn of_two_that_begin_at_the_same_time_one_goes_on() {
    // The other begins just before any call the first makes until it has the lease.
    let mut refused = 0;
    for call in 1..8 {
        let room = Room::new(Some("1"), 100, healthy);
        room.fault.set(Some((call, Fault::OtherBegins)));
        match room.release(&all_at_once()).unwrap() {
            // It had the lease, and the other has none.
            Ok(Outcome::Promoted { .. }) => assert!(room.splits() == ["2 100 %"], "call {call}"),
            Err(DriveError::Lease(lease::LeaseError::Held { by, release, .. })) => {
                assert_eq!((by.as_str(), release.as_str()), ("other@test", "r2"), "call {call}");
                assert!(room.splits().is_empty(), "call {call}");
                refused += 1;
            }
            other => panic!("call {call}: {other:?}"),
        }
    }
    assert!(refused >= 3, "{refused}");
}

/// A release that died after it had written down its first move and before it made it.
fn dead_before_its_first_move(strategy: &Strategy) -> &'static Room {
    let usual = Room::new(Some("1"), 100, healthy);
    usual.release(strategy);
    for call in 1..usual.calls.get() {
        let room = Room::new(Some("1"), 100, healthy);
        room.fault.set(Some((call, Fault::KillBefore)));
        assert!(room.release(strategy).is_none());
        room.fault.set(None);
        if room.try_log().is_some_and(|log| log.state.intended.is_some()) {
            assert!(room.splits().is_empty());
            return room;
        }
    }
    panic!("it never intends to move");
}

#[test]
fn what_was_only_intended_is_not_done_once_somebody_wants_to_abort() {
    for strategy in [canary(), blue_green(), all_at_once()] {
        let room = dead_before_its_first_move(&strategy);
        room.ask(Ask::Abort);
        let ended = room.resume().unwrap().unwrap();
        assert!(matches!(ended, Outcome::RolledBack(Reason::Asked { .. })), "{ended:?}");
        assert!(room.splits().is_empty(), "{:?}", room.splits());
    }
}

#[test]
fn what_was_intended_long_ago_is_not_done_past_the_deadline() {
    let room = dead_before_its_first_move(&canary());
    room.clock.set(EPOCH + secs(3 * 86_400));
    let ended = room.resume().unwrap().unwrap();
    assert_eq!(ended, Outcome::RolledBack(Reason::Deadline));
    assert!(room.splits().is_empty(), "{:?}", room.splits());
}

#[test]
fn a_move_that_is_refused_for_good_can_be_aborted() {
    let room = dead_before_its_first_move(&canary());
    room.alias.deleted.borrow_mut().push(revision("2"));
    assert!(matches!(room.resume(), Some(Err(DriveError::Stuck { .. }))));
    room.ask(Ask::Abort);
    let ended = room.resume().unwrap().unwrap();
    assert!(matches!(ended, Outcome::RolledBack(Reason::Asked { .. })), "{ended:?}");
}

#[test]
fn a_stable_revision_that_is_gone_leaves_nothing_to_go_back_to() {
    let room =
        Room::new(
            Some("1"),
            100,
            |revision, since| {
                if revision == "2" && since > secs(60) { 0.5 } else { 0.0 }
            },
        );
    room.alias.deleted.borrow_mut().push(revision("1"));
    let ended = room.release(&blue_green()).unwrap().unwrap();
    assert!(matches!(ended, Outcome::Failed(Reason::CheckFailed(_))), "{ended:?}");
    assert_eq!(room.splits(), ["2 100 %"]);
}

#[test]
fn a_first_release_that_fails_says_that_there_is_nothing_to_go_back_to() {
    let room = Room::new(None, 100, |_, _| 0.5);
    let ended = room.release(&blue_green()).unwrap().unwrap();
    assert!(matches!(ended, Outcome::Failed(Reason::CheckFailed(_))), "{ended:?}");
    assert_eq!(room.splits(), ["2 100 %"]);
}

#[test]
fn a_candidate_that_has_all_traffic_is_not_released_again() {
    let room = Room::new(Some("2"), 100, healthy);
    for strategy in [canary(), all_at_once()] {
        assert!(matches!(room.release(&strategy), Some(Err(DriveError::Already { .. }))));
    }
    assert!(room.try_log().is_none());
}

#[test]
fn a_fault_in_the_last_minutes_of_the_last_step_is_seen_though_it_is_counted_late() {
    // The last step is over after 120 s; requests are counted 30 s late.
    let room =
        Room::new(
            Some("1"),
            100,
            |revision, since| {
                if revision == "2" && since > secs(100) { 0.5 } else { 0.0 }
            },
        );
    room.traffic.late.set(secs(30));
    let ended = room.release(&canary()).unwrap().unwrap();
    assert!(matches!(ended, Outcome::RolledBack(Reason::CheckFailed(_))), "{ended:?}");
}

#[test]
fn a_clock_that_went_back_is_no_evidence_and_ends_the_release_after_a_while() {
    let room = Room::new(Some("1"), 100, healthy);
    room.fault.set(Some((60, Fault::KillBefore)));
    assert!(room.release(&canary()).is_none());
    room.fault.set(None);
    room.clock.set(EPOCH - secs(3600));
    let ended = room.resume().unwrap().unwrap();
    assert_eq!(ended, Outcome::RolledBack(Reason::Blind));
    assert!(room.clock.now() < EPOCH - secs(3000), "it did not wait for its clock");
}

#[test]
fn somebody_who_wakes_up_after_others_took_over_moves_nothing() {
    // Whatever call it hangs in, others abort the release meanwhile.
    let usual = Room::new(Some("1"), 100, healthy);
    usual.release(&canary());
    let mut overtaken = 0;
    for call in 6..usual.calls.get() {
        let room = Room::new(Some("1"), 100, healthy);
        room.fault.set(Some((call, Fault::Overtaken)));
        let ended = room.release(&canary()).unwrap();
        let end = room.alias.split();
        if room
            .try_log()
            .is_some_and(|log| log.entries.iter().any(|entry| entry.fact == Fact::TakenOver))
        {
            overtaken += 1;
            assert_eq!(end, Some(Split::all_to(revision("1"))), "call {call}: {ended:?}");
        }
    }
    assert!(overtaken > 50, "{overtaken}");
}
