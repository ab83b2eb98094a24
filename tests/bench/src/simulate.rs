//! Whole releases in virtual time, thousands of them, with the engine that ships: how often a sound
//! candidate is aborted, how many bad ones are caught and how fast, and what happens without traffic.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Binomial, Distribution, Poisson};
use serde::Serialize;
use slsml_release::lease::Holder;
use slsml_release::memory::{Alias, Objects};
use slsml_release::ports::{Clock, Metrics, PortError};
use slsml_release::virtual_clock::VirtualClock;
use slsml_release::{
    Against, Check, Counts, Measure, Outcome, Reason, Release, Revision, Stage, Strategy,
    StrategyName, Weight, World, begin,
};

use crate::Error;

/// When every release begins; a look is due then.
const EPOCH: Duration = Duration::from_secs(1_500_000);

/// How often a release looks, and how fine its counts are.
const LOOK: Duration = Duration::from_secs(15);

/// How many classes a model's answers fall into.
const CLASSES: usize = 4;

/// Simulates releases
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many releases of each kind
    #[arg(long, default_value_t = 10_000)]
    canaries: u32,
    /// Where chance begins; the same number gives the same figures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A strategy at a level of α.
type OfAlpha = fn(f64) -> Strategy;

/// What the world does to a release.
#[derive(Clone, Copy)]
struct Scene {
    strategy: OfAlpha,
    alpha: f64,
    /// Requests a second for both revisions together.
    requests: f64,
    /// The share each revision fails, by whether it is the candidate and by seconds since the
    /// beginning.
    failing: fn(bool, u64, f64) -> f64,
    /// What `failing` depends on beside that.
    level: f64,
    /// By how much the candidate answers the first class more often, and the last less.
    shift: f64,
}

/// What became of many releases.
#[derive(Clone, Debug, Default, Serialize)]
struct Tally {
    runs: u32,
    promoted: u32,
    /// Aborted because a check failed.
    failed: u32,
    /// Aborted for want of evidence.
    inconclusive: u32,
    /// Seconds to an abort because a check failed, from the first traffic on.
    #[serde(skip)]
    took: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Detection {
    caught: f64,
    median_s: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    canaries: u32,
    seed: u64,
    /// Identical versions, by α.
    false_abort_rate: BTreeMap<String, f64>,
    /// A candidate that is worse by exactly what is tolerated, by α: the hardest sound one.
    false_abort_rate_at_the_tolerance: BTreeMap<String, f64>,
    /// Identical versions without any tolerance, by α.
    false_abort_rate_without_tolerance: BTreeMap<String, f64>,
    /// Identical answers, by α.
    false_abort_rate_outputs: BTreeMap<String, f64>,
    /// Stable fails 1 %, the candidate so much.
    detection: BTreeMap<String, Detection>,
    /// The candidate answers one class more often by so much.
    detection_outputs: BTreeMap<String, Detection>,
    /// How often a sound candidate is promoted.
    promoted: f64,
    /// Both versions fail 30 % of their requests for two minutes.
    shared_failure_blamed: f64,
    /// Releases without any requests, by strategy: how many were promoted.
    promoted_without_traffic: BTreeMap<String, u32>,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let runs = args.canaries;
    let tally = |what: &str, scene: Scene| {
        eprintln!("{what}: {runs} releases");
        simulate(&scene, runs, args.seed)
    };
    let percent = |share: f64| format!("{} %", share * 100.0);
    let steady = Scene {
        strategy: canary,
        alpha: 0.05,
        requests: 100.0,
        failing: |_, _, level| level,
        level: 0.01,
        shift: 0.0,
    };
    let worse = |candidate: bool, _, level| if candidate { level } else { 0.01 };
    let by_alpha = |what: &str, scene: Scene| {
        let rates = [0.05, 0.01].map(|alpha| {
            let tally = tally(&format!("{what}, α {alpha}"), Scene { alpha, ..scene })?;
            Ok((alpha.to_string(), f64::from(tally.failed) / f64::from(runs)))
        });
        rates.into_iter().collect::<Result<BTreeMap<_, _>, Error>>()
    };
    let identical = tally("identical versions", steady)?;
    let mut detection = BTreeMap::new();
    for level in [0.02, 0.03, 0.05, 0.1] {
        let scene = Scene { failing: worse, level, ..steady };
        let tally = tally(&format!("errors 1 % against {}", percent(level)), scene)?;
        detection.insert(percent(level), tally.detection());
    }
    let answers = Scene { strategy: watching_outputs, ..steady };
    let mut detection_outputs = BTreeMap::new();
    for shift in [0.08, 0.1, 0.2] {
        let tally =
            tally(&format!("a class {} more often", percent(shift)), Scene { shift, ..answers })?;
        detection_outputs.insert(percent(shift), tally.detection());
    }
    let shared = Scene {
        failing: |_, since, level| if (60..180).contains(&since) { 0.3 } else { level },
        ..steady
    };
    let shared = tally("both fail alike for two minutes", shared)?;
    let mut promoted_without_traffic = BTreeMap::new();
    for (name, strategy) in STRATEGIES {
        let silent = Scene { strategy, requests: 0.0, ..steady };
        let few = runs.min(100);
        promoted_without_traffic.insert(name.into(), simulate(&silent, few, args.seed)?.promoted);
    }
    let report = Report {
        canaries: runs,
        seed: args.seed,
        false_abort_rate: by_alpha("identical versions", steady)?,
        false_abort_rate_at_the_tolerance: by_alpha(
            "worse by what is tolerated",
            Scene { failing: worse, level: 0.02, ..steady },
        )?,
        false_abort_rate_without_tolerance: by_alpha(
            "identical versions, no tolerance",
            Scene { strategy: intolerant, ..steady },
        )?,
        false_abort_rate_outputs: by_alpha("identical answers", answers)?,
        detection,
        detection_outputs,
        promoted: f64::from(identical.promoted) / f64::from(runs),
        shared_failure_blamed: f64::from(shared.failed) / f64::from(runs),
        promoted_without_traffic,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} releases of each kind, 100 requests a second, canary of 10 % and 50 % for 5 min each, a look every 15 s",
        report.canaries
    )];
    let rates = |what: &str, rates: &BTreeMap<String, f64>| {
        let each = rates.iter().map(|(alpha, rate)| format!("α {alpha}: {rate:.4}"));
        format!("{what:<50} {}", each.collect::<Vec<_>>().join("   "))
    };
    lines.push(rates("aborted, identical versions", &report.false_abort_rate));
    lines.push(rates(
        "aborted, worse by exactly the tolerance",
        &report.false_abort_rate_at_the_tolerance,
    ));
    lines.push(rates(
        "aborted, identical, no tolerance",
        &report.false_abort_rate_without_tolerance,
    ));
    lines.push(rates("aborted, identical answers", &report.false_abort_rate_outputs));
    for (what, found) in [
        ("errors 1 % against", &report.detection),
        ("a class more often by", &report.detection_outputs),
    ] {
        for (level, Detection { caught, median_s }) in found {
            let what = format!("caught, {what} {level}");
            lines.push(format!("{what:<50} {caught:.4}   median {median_s:.0} s"));
        }
    }
    lines.push(format!("{:<50} {:.4}", "promoted, identical versions", report.promoted));
    lines.push(format!(
        "{:<50} {:.4}",
        "blamed, both fail 30 % for two minutes", report.shared_failure_blamed
    ));
    for (name, promoted) in &report.promoted_without_traffic {
        lines.push(format!("{:<50} {promoted}", format!("promoted without traffic, {name}")));
    }
    lines.join("\n") + "\n"
}

fn check(metric: Measure, tolerance: f64) -> Check {
    Check { metric, against: Against::Stable { tolerance }, min_requests: 50 }
}

fn steps(
    name: StrategyName,
    percents: &[f64],
    bake: u64,
    checks: Vec<Check>,
    alpha: f64,
) -> Strategy {
    let watch = |percent: f64| {
        let weight = Weight::percent(percent).unwrap_or(Weight::ALL);
        Stage::Watch { weight, bake: Duration::from_secs(bake) }
    };
    let mut stages = vec![Stage::WarmUp { requests: 1 }];
    stages.extend(percents.iter().map(|percent| watch(*percent)));
    stages.push(Stage::at_once(Duration::ZERO));
    let hold = Duration::from_secs(1800);
    Strategy { name, stages, checks, alpha, hold, ..Strategy::all_at_once(1) }
}

/// What ships as the default of a canary.
fn canary(alpha: f64) -> Strategy {
    steps(StrategyName::Canary, &[10.0, 50.0], 300, vec![check(Measure::Errors, 0.01)], alpha)
}

fn intolerant(alpha: f64) -> Strategy {
    steps(StrategyName::Canary, &[10.0, 50.0], 300, vec![check(Measure::Errors, 0.0)], alpha)
}

fn watching_outputs(alpha: f64) -> Strategy {
    let checks = vec![check(Measure::Errors, 0.01), check(Measure::Outputs, 0.05)];
    steps(StrategyName::Canary, &[10.0, 50.0], 300, checks, alpha)
}

fn linear(alpha: f64) -> Strategy {
    let checks = vec![check(Measure::Errors, 0.01)];
    steps(StrategyName::Linear, &[20.0, 40.0, 60.0, 80.0], 300, checks, alpha)
}

fn blue_green(alpha: f64) -> Strategy {
    let check = Check { against: Against::Limit(0.02), ..check(Measure::Errors, 0.0) };
    let stages = vec![Stage::WarmUp { requests: 1 }, Stage::at_once(Duration::from_secs(900))];
    Strategy {
        name: StrategyName::BlueGreen,
        stages,
        ..steps(StrategyName::BlueGreen, &[], 0, vec![check], alpha)
    }
}

const STRATEGIES: [(&str, OfAlpha); 3] =
    [("blue-green", blue_green), ("canary", canary), ("linear", linear)];

/// Runs a scene many times, on as many threads as there are processors.
fn simulate(scene: &Scene, runs: u32, seed: u64) -> Result<Tally, Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let tallies = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    for run in (thread..runs).step_by(threads as usize) {
                        tally.add(scene, seed.wrapping_mul(1_000_003).wrapping_add(run.into()))?;
                    }
                    Ok(tally)
                })
            })
            .collect();
        let joined = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(Error::from("a simulation panicked")))
        });
        joined.collect::<Result<Vec<Tally>, Error>>()
    })?;
    Ok(tallies.into_iter().fold(Tally::default(), Tally::plus))
}

impl Tally {
    fn add(&mut self, scene: &Scene, seed: u64) -> Result<(), Error> {
        let (outcome, took) = release(scene, seed)?;
        self.runs += 1;
        match outcome {
            Outcome::Promoted { .. } => self.promoted += 1,
            Outcome::RolledBack(Reason::CheckFailed(_)) => {
                self.failed += 1;
                self.took.push(took.as_secs_f64());
            }
            Outcome::RolledBack(_) => self.inconclusive += 1,
            Outcome::Failed(_) | Outcome::Foreign { .. } => {
                return Err(format!("nobody else is here: {outcome:?}").into());
            }
        }
        Ok(())
    }

    fn plus(mut self, other: Tally) -> Tally {
        self.runs += other.runs;
        self.promoted += other.promoted;
        self.failed += other.failed;
        self.inconclusive += other.inconclusive;
        self.took.extend(other.took);
        self
    }

    fn detection(&self) -> Detection {
        let median_s = crate::figures::Series(self.took.clone()).spread().median;
        Detection { caught: f64::from(self.failed) / f64::from(self.runs), median_s }
    }
}

/// One release: how it ended, and after how long.
fn release(scene: &Scene, seed: u64) -> Result<(Outcome, Duration), Error> {
    let clock = VirtualClock::at(EPOCH);
    let alias = Alias::new(&clock, Some("stable"));
    let objects = Objects::default();
    let random = RefCell::new(SmallRng::seed_from_u64(seed));
    let traffic =
        Traffic { scene, alias: &alias, clock: &clock, random, cells: RefCell::default() };
    let holder = Holder {
        id: "simulation".into(),
        by: "simulation".into(),
        machine: String::new(),
        process: 0,
        began: 0,
    };
    let world = World {
        target: &alias,
        metrics: &traffic,
        store: &objects,
        clock: &clock,
        holder: &holder,
        is_gone: |_| false,
    };
    let release = Release {
        name: "r".into(),
        target: "simulated".into(),
        candidate: Revision("candidate".into()),
        strategy: (scene.strategy)(scene.alpha),
        slsml: env!("CARGO_PKG_VERSION").into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let outcome = runtime.block_on(begin(&world, &release, |_| {}))?;
    Ok((outcome, clock.now() - EPOCH))
}

/// Requests that arrive and fail by chance.
struct Traffic<'a> {
    scene: &'a Scene,
    alias: &'a Alias<'a, VirtualClock>,
    clock: &'a VirtualClock,
    random: RefCell<SmallRng>,
    /// What happened in each 15 seconds, by which they are and by revision: drawn once.
    cells: RefCell<HashMap<u64, [Counts; 2]>>,
}

impl Traffic<'_> {
    /// Both revisions' requests in one cell.
    fn cell(&self, number: u64) -> [Counts; 2] {
        let mut cells = self.cells.borrow_mut();
        cells.entry(number).or_insert_with(|| self.draw(number)).clone()
    }

    fn draw(&self, number: u64) -> [Counts; 2] {
        let began = LOOK * u32::try_from(number).unwrap_or(u32::MAX);
        let share = self.candidates_share(began);
        let since = began.saturating_sub(EPOCH).as_secs();
        let mut random = self.random.borrow_mut();
        let all = self.scene.requests * LOOK.as_secs_f64();
        let requests = match Poisson::new(all) {
            Ok(arrivals) => arrivals.sample(&mut *random) as u64,
            // There are none.
            Err(_) => 0,
        };
        let candidates = binomial(requests, share, &mut random);
        [(false, requests - candidates), (true, candidates)].map(|(candidate, requests)| {
            let rate = (self.scene.failing)(candidate, since, self.scene.level);
            let errors = binomial(requests, rate, &mut random);
            let shift = if candidate { self.scene.shift } else { 0.0 };
            let outputs = answers(requests - errors, shift, &mut random);
            let events = [(Measure::Errors, errors)].into();
            Counts { requests, events, outputs, latency: None }
        })
    }

    fn candidates_share(&self, at: Duration) -> f64 {
        let history = self.alias.history.borrow();
        let split = history.iter().rev().find(|(since, _)| *since <= at);
        match split.and_then(|(_, split)| split.as_ref()) {
            Some(split) => match &split.candidate {
                Some((_, weight)) => weight.as_fraction(),
                None => f64::from(u8::from(split.stable.0 == "candidate")),
            },
            None => 0.0,
        }
    }
}

fn binomial(trials: u64, rate: f64, random: &mut SmallRng) -> u64 {
    Binomial::new(trials, rate).map_or(0, |count| count.sample(random))
}

/// Answers by class: the first is the most frequent, and gains what the last loses.
fn answers(requests: u64, shift: f64, random: &mut SmallRng) -> Vec<u64> {
    let shares: [f64; CLASSES] = [0.4 + shift, 0.2, 0.2, 0.2 - shift];
    let (mut left, mut share_left) = (requests, 1.0);
    shares
        .iter()
        .map(|share| {
            let part = (share / share_left).clamp(0.0, 1.0);
            let count = binomial(left, part, random);
            left -= count;
            share_left = (share_left - share).max(f64::MIN_POSITIVE);
            count
        })
        .collect()
}

impl Metrics for Traffic<'_> {
    fn resolution(&self) -> Duration {
        LOOK
    }

    fn delay(&self) -> Duration {
        LOOK
    }

    async fn knows(&self, _: &Measure) -> Result<bool, PortError> {
        Ok(true)
    }

    async fn counts(
        &self,
        revision: &Revision,
        _: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError> {
        let to = to.min(self.clock.now());
        let first = from.as_secs().div_ceil(LOOK.as_secs());
        let last = to.as_secs() / LOOK.as_secs();
        let which = usize::from(revision.0 == "candidate");
        let cells = (first..last).map(|number| self.cell(number));
        Ok(cells.fold(Counts::default(), |all, cell| all.plus(&cell[which])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Scene = Scene {
        strategy: canary,
        alpha: 0.05,
        requests: 100.0,
        failing: |_, _, level| level,
        level: 0.01,
        shift: 0.0,
    };

    #[test]
    fn sound_candidates_are_promoted_and_rarely_aborted() {
        let tally = simulate(&STEADY, 100, 7).unwrap();
        assert!(tally.failed <= 5 && tally.promoted >= 90, "{tally:?}");
        let hardest = Scene { strategy: intolerant, ..STEADY };
        let tally = simulate(&hardest, 300, 7).unwrap();
        assert!(tally.failed <= 25, "more than chance allows at 0.05: {tally:?}");
    }

    #[test]
    fn bad_candidates_are_caught_in_time() {
        let worse = |candidate: bool, _, level| if candidate { level } else { 0.01 };
        let scene = Scene { failing: worse, level: 0.05, ..STEADY };
        let Detection { caught, median_s } = simulate(&scene, 200, 7).unwrap().detection();
        assert!(caught >= 0.99 && median_s <= 90.0, "{caught} {median_s}");
        let scene = Scene { strategy: watching_outputs, shift: 0.2, ..STEADY };
        let Detection { caught, .. } = simulate(&scene, 50, 7).unwrap().detection();
        assert!(caught >= 0.99, "{caught}");
    }

    #[test]
    fn what_fails_both_is_blamed_on_neither_and_silence_promotes_nobody() {
        let shared = |_, since: u64, level| if (60..180).contains(&since) { 0.3 } else { level };
        let tally = simulate(&Scene { failing: shared, ..STEADY }, 100, 7).unwrap();
        assert!(tally.failed <= 5, "{tally:?}");
        for (name, strategy) in STRATEGIES {
            let silent = Scene { strategy, requests: 0.0, ..STEADY };
            assert_eq!(simulate(&silent, 10, 7).unwrap().promoted, 0, "{name}");
        }
    }
}
