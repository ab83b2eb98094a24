//! A world in memory in virtual time, and traffic that does what a test says.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use slsml_release::journal::{Log, Probed};
use slsml_release::lease::Holder;
use slsml_release::memory::{Alias, Objects};
use slsml_release::ports::{Clock, Metrics, Observed, PortError, Store, Tag, Target, Token};
use slsml_release::virtual_clock::VirtualClock;
use slsml_release::*;

pub const EPOCH: Duration = Duration::from_secs(1_000_000);
pub const TARGET: &str = "test/f/live";

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn revision(name: &str) -> Revision {
    Revision(name.into())
}

pub fn weight(percent: f64) -> Weight {
    Weight::percent(percent).unwrap()
}

pub fn watch(percent: f64, bake: u64) -> Stage {
    Stage::Watch { weight: weight(percent), bake: secs(bake) }
}

pub fn errors_against_stable(tolerance: f64) -> Check {
    let against = Against::Stable { tolerance };
    Check { metric: Measure::Errors, against, min_requests: 50 }
}

pub fn errors_below(limit: f64) -> Check {
    Check { metric: Measure::Errors, against: Against::Limit(limit), min_requests: 50 }
}

fn strategy(name: StrategyName, stages: Vec<Stage>, checks: Vec<Check>) -> Strategy {
    let strategy = Strategy { name, stages, checks, hold: secs(600), ..Strategy::all_at_once(0) };
    strategy.validate().unwrap();
    strategy
}

pub fn canary() -> Strategy {
    let stages =
        vec![Stage::WarmUp { requests: 3 }, watch(10.0, 60), watch(50.0, 60), watch(100.0, 0)];
    strategy(StrategyName::Canary, stages, vec![errors_against_stable(0.02)])
}

pub fn linear() -> Strategy {
    let mut stages: Vec<Stage> = (1..5).map(|step| watch(f64::from(step) * 20.0, 30)).collect();
    stages.push(watch(100.0, 0));
    strategy(StrategyName::Linear, stages, vec![errors_against_stable(0.02)])
}

pub fn blue_green() -> Strategy {
    let stages = vec![Stage::WarmUp { requests: 3 }, watch(100.0, 120)];
    strategy(StrategyName::BlueGreen, stages, vec![errors_below(0.02)])
}

pub fn all_at_once() -> Strategy {
    Strategy::all_at_once(3)
}

pub fn gated() -> Strategy {
    let stages = vec![watch(10.0, 60), Stage::Pause, watch(100.0, 0)];
    strategy(StrategyName::Canary, stages, vec![errors_against_stable(0.02)])
}

/// The share of requests a revision fails, by its name and the time since the beginning.
pub type Failing = fn(&str, Duration) -> f64;

/// So many requests a second for the alias, of which each revision fails a share.
pub struct Traffic {
    pub per_second: u64,
    pub failing: Failing,
    pub unreadable: Cell<bool>,
    /// How late requests are counted.
    pub late: Cell<Duration>,
}

pub fn healthy(_: &str, _: Duration) -> f64 {
    0.0
}

/// Everything a release works with, with a hook at each call of a port. It lives as long as the
/// test, so that parts of it can refer to others.
pub struct Room {
    pub clock: &'static VirtualClock,
    pub alias: Alias<'static, VirtualClock>,
    pub objects: Objects,
    pub traffic: Traffic,
    pub calls: Cell<u64>,
    /// What happens at which call, counted from 1.
    pub fault: Cell<Option<(u64, Fault)>>,
    /// During which calls everything fails.
    pub out: Cell<std::ops::Range<u64>>,
    /// Whether somebody gave a third revision a share.
    pub third: Cell<bool>,
    dead: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed before the call is made.
    KillBefore,
    /// It is killed when the call was made and the answer not read.
    KillAfter,
    /// The call fails and did nothing.
    FailBefore,
    /// The call did what it was to do, and its answer is lost.
    FailAfter,
    /// Somebody else moves the alias before the call.
    Foreign,
    /// Somebody else gives a third revision a share before the call.
    Third,
    /// Others take over in the meantime, abort the release and end it.
    Overtaken,
    /// Somebody else takes the lease before the call, if it is free.
    OtherBegins,
}

pub type Ended = Result<Outcome, DriveError>;

impl Room {
    pub fn new(
        serving: Option<&str>,
        per_second: u64,
        failing: fn(&str, Duration) -> f64,
    ) -> &'static Room {
        let clock: &'static VirtualClock = Box::leak(Box::new(VirtualClock::at(EPOCH)));
        Box::leak(Box::new(Room {
            clock,
            alias: Alias::new(clock, serving),
            objects: Objects::default(),
            traffic: Traffic {
                per_second,
                failing,
                unreadable: Cell::new(false),
                late: Cell::default(),
            },
            calls: Cell::new(0),
            fault: Cell::new(None),
            out: Cell::default(),
            third: Cell::default(),
            dead: Cell::new(false),
        }))
    }

    /// Makes one call of a port, unless it is the one with the fault.
    async fn call<R>(
        &self,
        made: impl Future<Output = Result<R, PortError>>,
    ) -> Result<R, PortError> {
        self.calls.set(self.calls.get() + 1);
        let out = self.out.take();
        self.out.set(out.clone());
        if out.contains(&self.calls.get()) {
            return Err(PortError::Failed("nothing can be reached".into()));
        }
        let fault = self.fault.get().filter(|(at, _)| *at == self.calls.get());
        match fault.map(|(_, fault)| fault) {
            None => made.await,
            Some(Fault::KillBefore) => self.die().await,
            Some(Fault::KillAfter) => {
                made.await?;
                self.die().await
            }
            Some(Fault::FailBefore) => Err(PortError::Failed("refused".into())),
            Some(Fault::FailAfter) => {
                made.await?;
                Err(PortError::Failed("the answer was lost".into()))
            }
            Some(Fault::Foreign) => {
                self.alias.change(Some(Split::all_to(revision("foreign"))));
                made.await
            }
            Some(Fault::Third) => {
                self.third.set(true);
                // Every write of others changes the token.
                self.alias.change(self.alias.split());
                made.await
            }
            Some(Fault::Overtaken) => {
                if let Some(mut log) = self.try_log().filter(|log| log.state.ended.is_none()) {
                    let (at, by) = (self.clock.now(), "other".into());
                    let fact = journal::Fact::Asked { what: journal::Ask::Abort };
                    log.append(journal::Entry { at, by, fact }).await.unwrap();
                    let holder = holder("other");
                    let world = World {
                        target: &self.alias,
                        metrics: self,
                        store: &self.objects,
                        clock: self.clock,
                        holder: &holder,
                        is_gone: |_| true,
                    };
                    Box::pin(resume(&world, TARGET, "r1", |_| {})).await.unwrap();
                }
                made.await
            }
            Some(Fault::OtherBegins) => {
                let (store, now) = (&self.objects, self.clock.now());
                let last = lease::read(store, TARGET).await.unwrap();
                if last.as_ref().is_none_or(|(lease, _)| !lease.is_live(now, is_gone)) {
                    let other = holder("other");
                    let lease = lease::Lease::new("r2", None, &other, now);
                    let taken = lease::Held::take(store, TARGET, lease, last, now, is_gone);
                    taken.await.unwrap();
                }
                made.await
            }
        }
    }

    async fn die<R>(&self) -> R {
        self.dead.set(true);
        std::future::pending().await
    }

    /// Runs it until it ends or is killed.
    fn run(&self, work: impl Future<Output = Ended>) -> Option<Ended> {
        self.dead.set(false);
        let ended = at_once(work);
        assert!(ended.is_some() || self.dead.get(), "something waits for real time");
        ended
    }

    fn world<'a>(&'a self, holder: &'a Holder) -> World<'a, Room, Room, Room, VirtualClock> {
        World { target: self, metrics: self, store: self, clock: self.clock, holder, is_gone }
    }

    /// A release from its beginning.
    pub fn release(&self, strategy: &Strategy) -> Option<Ended> {
        let (ended, _) = self.release_telling(strategy);
        ended
    }

    /// A release and what it told.
    pub fn release_telling(&self, strategy: &Strategy) -> (Option<Ended>, Vec<String>) {
        let release = Release {
            name: "r1".into(),
            target: TARGET.into(),
            candidate: revision("2"),
            strategy: strategy.clone(),
            slsml: "test".into(),
        };
        let holder = holder("first");
        let told = RefCell::new(Vec::new());
        let ended = self.run(begin(&self.world(&holder), &release, |event| {
            told.borrow_mut().push(format!("{event:?}"));
        }));
        (ended, told.into_inner())
    }

    /// Goes on with it, as somebody else would.
    pub fn resume(&self) -> Option<Ended> {
        let holder = holder("second");
        self.run(resume(&self.world(&holder), TARGET, "r1", |_| {}))
    }

    /// Releases, and goes on after each death until it ends.
    pub fn release_through_deaths(&self, strategy: &Strategy) -> Ended {
        if let Some(ended) = self.release(strategy) {
            return ended;
        }
        match self.resume() {
            // It died before its first line: nothing was begun, so it is begun again.
            Some(Err(DriveError::Journal(journal::JournalError::Missing(_)))) => {
                self.release(strategy).unwrap()
            }
            ended => ended.unwrap(),
        }
    }

    pub fn log(&self) -> Log<'_, Objects> {
        self.try_log().unwrap()
    }

    pub fn try_log(&self) -> Option<Log<'_, Objects>> {
        let key = key(TARGET, "r1");
        at_once(Log::open(&self.objects, &key)).unwrap().ok()
    }

    pub fn ask(&self, what: journal::Ask) {
        let mut log = self.log();
        let (at, by) = (self.clock.now(), "somebody".into());
        let entry = journal::Entry { at, by, fact: journal::Fact::Asked { what } };
        assert!(at_once(log.append(entry)).unwrap().unwrap());
    }

    /// How traffic was divided, one after the other.
    pub fn splits(&self) -> Vec<String> {
        let history = self.alias.history.borrow();
        let mut moves: Vec<_> = history.iter().map(|(_, split)| split).collect();
        moves.dedup();
        moves.iter().skip(1).filter_map(|split| split.as_ref()).map(Split::to_string).collect()
    }

    pub fn took(&self) -> u64 {
        (self.clock.now() - EPOCH).as_secs()
    }
}

/// What work comes to that never waits; none if it does.
fn at_once<R>(work: impl Future<Output = R>) -> Option<R> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(work).poll(&mut context) {
        std::task::Poll::Ready(result) => Some(result),
        std::task::Poll::Pending => None,
    }
}

/// Whoever dies here is known to have died; only the other lives on.
fn is_gone(holder: &Holder) -> bool {
    holder.id != "other"
}

pub fn holder(id: &str) -> Holder {
    Holder { id: id.into(), by: format!("{id}@test"), machine: "m".into(), process: 1, began: 0 }
}

impl Room {
    fn counted(
        &self,
        revision: &Revision,
        measures: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Counts {
        let (mut requests, mut errors) = (0.0, 0.0);
        let history = self.alias.history.borrow();
        for second in from.as_secs()..to.as_secs() {
            let now = secs(second);
            let in_force = history.iter().rev().find(|(since, _)| *since <= now);
            let Some((_, Some(split))) = in_force else { continue };
            let share = match &split.candidate {
                Some((candidate, weight)) if candidate == revision => weight.as_fraction(),
                Some((_, weight)) if split.stable == *revision => 1.0 - weight.as_fraction(),
                None if split.stable == *revision => 1.0,
                _ => 0.0,
            };
            let here = share * self.traffic.per_second as f64;
            requests += here;
            errors += here * (self.traffic.failing)(&revision.0, now.saturating_sub(EPOCH));
        }
        let events = measures.iter().map(|measure| match measure {
            Measure::Errors => (measure.clone(), errors.round() as u64),
            _ => (measure.clone(), 0),
        });
        let events = events.collect();
        Counts { requests: requests.round() as u64, events, ..Counts::default() }
    }
}

impl Target for Room {
    async fn observe(&self) -> Result<Observed, PortError> {
        let found = self.call(self.alias.observe()).await?;
        match self.third.get() {
            true => Err(PortError::Moved("33 % each".into())),
            false => Ok(found),
        }
    }

    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError> {
        self.call(self.alias.route(split, seen)).await
    }

    async fn exists(&self, revision: &Revision) -> Result<bool, PortError> {
        self.call(self.alias.exists(revision)).await
    }

    async fn probe(&self, revision: &Revision, requests: u32) -> Result<Probed, PortError> {
        self.call(self.alias.probe(revision, requests)).await
    }
}

impl Metrics for Room {
    fn resolution(&self) -> Duration {
        secs(1)
    }

    fn delay(&self) -> Duration {
        secs(1) + self.traffic.late.get()
    }

    async fn knows(&self, measure: &Measure) -> Result<bool, PortError> {
        Ok(!matches!(measure, Measure::Custom(_)))
    }

    async fn counts(
        &self,
        revision: &Revision,
        measures: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError> {
        assert!(to <= self.clock.now());
        if self.traffic.unreadable.get() {
            return Err(PortError::Failed("the metrics cannot be read".into()));
        }
        let known = self.clock.now() - self.traffic.late.get();
        let counts = self.counted(revision, measures, from, to.min(known));
        self.call(async { Ok(counts) }).await
    }
}

impl Store for Room {
    async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, Tag)>, PortError> {
        self.call(self.objects.read(key)).await
    }

    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Option<Tag>, PortError> {
        self.call(self.objects.create(key, bytes)).await
    }

    async fn replace(&self, key: &str, bytes: &[u8], seen: &Tag) -> Result<Option<Tag>, PortError> {
        self.call(self.objects.replace(key, bytes, seen)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, PortError> {
        self.call(self.objects.list(prefix)).await
    }
}
