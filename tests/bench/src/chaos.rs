//! `slsml-bench chaos`: hundreds of releases that are killed or refused somewhere on their way.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use slsml_e2e::chaos::{Arena, Harm, On, PLANS, Trial};

use crate::Error;

/// Kills releases
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many kills
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// How many faults of the API
    #[arg(long, default_value_t = 100)]
    faults: usize,
    /// Releases on Cloud Run instead of Lambda
    #[arg(long)]
    cloudrun: bool,
    /// Where chance begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of the releases of one strategy.
#[derive(Debug, Default, Serialize)]
struct Tally {
    kills: u64,
    faults: u64,
    converged: u64,
    lost: u64,
    wrong: u64,
    double_effects: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    kills: u64,
    faults: u64,
    converged: u64,
    lost: u64,
    wrong: u64,
    double_effects: u64,
    strategies: BTreeMap<String, Tally>,
    /// What was not as it should be.
    failures: Vec<Trial>,
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let mut arena = Arena::open(if args.cloudrun { On::Cloudrun } else { On::Lambda })?;
    let mut random = SmallRng::seed_from_u64(args.seed);
    let mut trials = Vec::new();
    for (harms, wanted) in [(&Harm::KILLS[..], args.kills), (&Harm::FAULTS[..], args.faults)] {
        let mut struck = 0;
        let kinds = PLANS.len() * harms.len();
        // Each kind of harm to each kind of release is spread over all the calls it makes.
        let parts = wanted.div_ceil(kinds);
        // A release that ended before it came to the call it was to be harmed at does not count.
        for turn in 0..20 * wanted {
            if struck == wanted {
                break;
            }
            let (plan, harm) = (turn % PLANS.len(), harms[turn / PLANS.len() % harms.len()]);
            let part = (turn / kinds % parts) as f64;
            let along = (part + random.random::<f64>()) / parts as f64;
            let trial = arena.trial(plan, harm, along).await?;
            struck += usize::from(trial.struck);
            let fine = if trial.note.is_none() { "fine" } else { "NOT AS IT SHOULD BE" };
            eprintln!(
                "{struck:>4} of {wanted}  {:<12} {:<5} {:<12?} call {:>3}: {fine}",
                trial.strategy,
                if trial.good { "good" } else { "bad" },
                trial.harm,
                trial.call
            );
            trials.push(trial);
        }
    }
    let report = report(&trials);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    match report.failures.is_empty() {
        true => Ok(()),
        false => {
            Err(format!("{} releases were not as they should be", report.failures.len()).into())
        }
    }
}

fn report(trials: &[Trial]) -> Report {
    let mut strategies: BTreeMap<String, Tally> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.struck) {
        let name =
            format!("{}, {} candidate", trial.strategy, if trial.good { "good" } else { "bad" });
        let tally = strategies.entry(name).or_default();
        match Harm::KILLS.contains(&trial.harm) {
            true => tally.kills += 1,
            false => tally.faults += 1,
        }
        tally.converged += u64::from(trial.converged);
        tally.lost += trial.lost;
        tally.wrong += trial.wrong;
        tally.double_effects += trial.double_effects;
    }
    let sum = |get: fn(&Tally) -> u64| strategies.values().map(get).sum();
    Report {
        kills: sum(|tally| tally.kills),
        faults: sum(|tally| tally.faults),
        converged: sum(|tally| tally.converged),
        lost: sum(|tally| tally.lost),
        wrong: sum(|tally| tally.wrong),
        double_effects: sum(|tally| tally.double_effects),
        failures: trials.iter().filter(|trial| trial.note.is_some()).cloned().collect(),
        strategies,
    }
}

fn text(report: &Report) -> String {
    let head = ["strategy", "kills", "faults", "converged", "lost", "wrong", "twice"];
    let mut lines = vec![row(&head.map(str::to_owned))];
    let cells = |name: &str, numbers: [u64; 6]| {
        let mut cells = vec![name.to_owned()];
        cells.extend(numbers.iter().map(u64::to_string));
        row(&cells)
    };
    for (name, t) in &report.strategies {
        lines
            .push(cells(name, [t.kills, t.faults, t.converged, t.lost, t.wrong, t.double_effects]));
    }
    let r = report;
    lines.push(cells("all", [r.kills, r.faults, r.converged, r.lost, r.wrong, r.double_effects]));
    for trial in &report.failures {
        lines.push(format!("{trial:?}"));
    }
    lines.join("\n") + "\n"
}

fn row(cells: &[String]) -> String {
    let numbers: String = cells.iter().skip(1).map(|cell| format!("{cell:>11}")).collect();
    format!("{:<28}{numbers}", cells.first().map_or("", String::as_str))
}
