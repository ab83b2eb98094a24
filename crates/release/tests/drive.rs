//! Whole releases in virtual time, against a target and metrics in memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use slsml_release::ports::{Clock, Metrics, Observed, PortError, Target, Token};
use slsml_release::virtual_clock::VirtualClock;
use slsml_release::{
    Check, Counts, DriveError, Ended, Event, Limit, Reason, Release, Revision, Split, Step,
    Strategy, Weight, drive,
};

/// An alias in memory. Somebody else moves it before the nth look, if asked to.
#[derive(Default)]
struct Alias {
    split: RefCell<Option<Split>>,
    token: Cell<u32>,
    looks: Cell<u32>,
    foreign_before_look: Option<u32>,
    writes: RefCell<Vec<String>>,
}

impl Alias {
    fn serving(version: &str) -> Alias {
        Alias {
            split: RefCell::new(Some(Split::all_to(Revision(version.into())))),
            ..Alias::default()
        }
    }

    fn see(&self) -> Observed {
        let split = self.split.borrow().clone();
        let token = split.as_ref().map(|_| Token(self.token.get().to_string()));
        Observed { split, token }
    }
}

impl Target for Alias {
    async fn observe(&self) -> Result<Observed, PortError> {
        self.looks.set(self.looks.get() + 1);
        if self.foreign_before_look == Some(self.looks.get()) {
            *self.split.borrow_mut() = Some(Split::all_to(Revision("foreign".into())));
            self.token.set(self.token.get() + 1);
        }
        Ok(self.see())
    }

    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError> {
        if self.see().token.as_ref() != seen {
            return Err(PortError::Moved("somebody else changed the alias".into()));
        }
        self.writes.borrow_mut().push(split.to_string());
        *self.split.borrow_mut() = Some(split.clone());
        self.token.set(self.token.get() + 1);
        Ok(self.see())
    }
}

/// So many requests a second for each version, of which a share fails.
struct Traffic<'a> {
    clock: &'a VirtualClock,
    per_second: u64,
    failing: f64,
    unreadable: bool,
}

impl Metrics for Traffic<'_> {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn counts(
        &self,
        revision: &Revision,
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError> {
        assert!(to <= self.clock.now());
        if self.unreadable {
            return Err(PortError::Failed("the metrics cannot be read".into()));
        }
        let requests = (to - from).as_secs() * self.per_second;
        let failing = if revision.0 == "2" { self.failing } else { 0.0 };
        Ok(Counts { requests, errors: (requests as f64 * failing) as u64 })
    }
}

fn canary() -> Release {
    let step =
        |percent| Step { weight: Weight::percent(percent).unwrap(), bake: Duration::from_secs(60) };
    let check = Check { limit: Limit::ErrorRate(0.02), min_requests: 100 };
    let strategy =
        Strategy::canary(vec![step(10.0), step(50.0)], vec![check], Duration::from_secs(600))
            .unwrap();
    Release { candidate: Revision("2".into()), strategy }
}

fn all_at_once() -> Release {
    Release { candidate: Revision("2".into()), strategy: Strategy::all_at_once() }
}

struct Run {
    ended: Result<Ended, DriveError>,
    took: Duration,
    events: Vec<Event>,
}

fn run(release: &Release, alias: &Alias, per_second: u64, failing: f64) -> Run {
    let began = Duration::from_secs(1_000_000);
    let clock = VirtualClock::at(began);
    let unreadable = failing.is_nan();
    let traffic = Traffic { clock: &clock, per_second, failing, unreadable };
    let mut events = Vec::new();
    let work = drive(release, alias, &traffic, &clock, |event| events.push(event));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ended = runtime.block_on(work);
    Run { ended, took: clock.now() - began, events }
}

#[test]
fn a_healthy_candidate_is_promoted_step_by_step() {
    let alias = Alias::serving("1");
    let run = run(&canary(), &alias, 10, 0.0);
    assert_eq!(run.ended.unwrap(), Ended::Promoted);
    assert_eq!(*alias.writes.borrow(), ["1 90 %, 2 10 %", "1 50 %, 2 50 %", "2 100 %"]);
    assert_eq!(run.took, Duration::from_secs(120));
    let moves = run.events.iter().filter(|event| matches!(event, Event::Moved { .. })).count();
    assert_eq!(moves, 3);
}

#[test]
fn a_failing_candidate_is_rolled_back_as_soon_as_it_is_known() {
    let alias = Alias::serving("1");
    let run = run(&canary(), &alias, 10, 0.2);
    assert!(matches!(run.ended, Ok(Ended::RolledBack(Reason::CheckFailed { .. }))));
    assert_eq!(*alias.writes.borrow(), ["1 90 %, 2 10 %", "1 100 %"]);
    assert_eq!(run.took, Duration::from_secs(2), "3 failures break 2 % of the smallest sample");
}

#[test]
fn without_traffic_nothing_is_promoted() {
    let alias = Alias::serving("1");
    let run = run(&canary(), &alias, 0, 0.0);
    assert!(matches!(run.ended, Ok(Ended::RolledBack(Reason::Inconclusive { .. }))));
    assert_eq!(alias.see().split, Some(Split::all_to(Revision("1".into()))));
    assert_eq!(run.took, Duration::from_secs(60 + 600));
}

#[test]
fn metrics_that_cannot_be_read_promote_nothing_and_abandon_nothing() {
    let alias = Alias::serving("1");
    let run = run(&canary(), &alias, 10, f64::NAN);
    assert!(
        matches!(run.ended, Ok(Ended::RolledBack(Reason::Inconclusive { .. }))),
        "{:?}",
        run.ended
    );
    assert_eq!(alias.see().split, Some(Split::all_to(Revision("1".into()))));
    assert!(run.events.iter().any(|event| matches!(event, Event::LookFailed { .. })));
    assert_eq!(run.took, Duration::from_secs(300), "five minutes are waited, not the whole hold");
}

#[test]
fn a_first_release_creates_the_alias_once() {
    let alias = Alias::default();
    assert_eq!(run(&all_at_once(), &alias, 0, 0.0).ended.unwrap(), Ended::Promoted);
    assert_eq!(*alias.writes.borrow(), ["2 100 %"]);
}

#[test]
fn releasing_what_is_released_writes_nothing() {
    for release in [all_at_once(), canary()] {
        let alias = Alias::serving("2");
        assert_eq!(run(&release, &alias, 10, 0.0).ended.unwrap(), Ended::Unchanged);
        assert!(alias.writes.borrow().is_empty());
    }
}

#[test]
fn a_canary_without_a_stable_version_is_refused_before_any_write() {
    let alias = Alias::default();
    assert!(matches!(run(&canary(), &alias, 10, 0.0).ended, Err(DriveError::NoStable)));
    assert!(alias.writes.borrow().is_empty());
}

#[test]
fn a_release_under_way_is_not_overrun() {
    let alias = Alias::default();
    let weight = Weight::percent(5.0).unwrap();
    let split = Split::between(Revision("1".into()), Revision("3".into()), weight);
    *alias.split.borrow_mut() = Some(split);
    assert!(matches!(run(&canary(), &alias, 10, 0.0).ended, Err(DriveError::UnderWay { .. })));
    assert!(alias.writes.borrow().is_empty());
}

#[test]
fn a_foreign_move_at_any_look_stops_the_release_and_stays() {
    let undisturbed = Alias::serving("1");
    run(&canary(), &undisturbed, 10, 0.0).ended.unwrap();
    // The first look is where the release begins: a move before it is simply what is there.
    for look in 2..=undisturbed.looks.get() {
        let alias = Alias { foreign_before_look: Some(look), ..Alias::serving("1") };
        let run = run(&canary(), &alias, 10, 0.0);
        assert!(matches!(run.ended, Err(DriveError::Moved(_))), "look {look}: {:?}", run.ended);
        assert_eq!(
            alias.see().split,
            Some(Split::all_to(Revision("foreign".into()))),
            "look {look}"
        );
    }
}
