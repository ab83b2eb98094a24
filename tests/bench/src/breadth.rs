//! ONNX's own operator cases: which plain tract passes, which the packaged form passes, and why
//! the others are refused. Every case runs in a process of its own, so that none can take the
//! others down or hang them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::peers::{self, Peers};
use crate::{Error, case, coldstart};

/// What is run, of all the cases there are; `real` and `light` want models from elsewhere.
const SETS: [&str; 4] = ["node", "pytorch-operator", "pytorch-converted", "simple"];

/// How long one case may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print the page in docs/operators.md
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The answers are the expected ones.
    Passed,
    /// Some are not.
    Wrong(String),
    /// The model, or its inputs, were refused.
    Refused(String),
    /// The process ended by itself, or never.
    Died(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) operators: Vec<String>,
    pub(crate) plain: Outcome,
    pub(crate) packaged: Outcome,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let (root, target) = (coldstart::root()?, coldstart::target()?);
    let scripts = root.join("tests/bench/peers");
    let peers = Peers::set_up(&scripts, &target.join("bench"))?;
    let cases = target.join("bench/cases");
    peers::run(Command::new(scripts.join("fetch_cases")).arg(&cases).arg(peers.venv()))?;
    let mut folders = Vec::new();
    for set in SETS {
        for entry in std::fs::read_dir(cases.join(set))? {
            let folder = entry?.path();
            let name = folder.strip_prefix(&cases)?.display().to_string();
            if folder.join("model.onnx").is_file() && name.contains(&args.only) {
                folders.push((name, folder));
            }
        }
    }
    folders.sort();
    eprintln!("{} cases", folders.len());
    let results = run_all(&folders)?;
    if args.json {
        println!("{}", serde_json::to_string(&results)?);
    } else if args.markdown {
        print!("{}", page(&results));
    } else {
        print!("{}", table(&results));
    }
    Ok(())
}

fn run_all(folders: &[(String, PathBuf)]) -> Result<Vec<Case>, Error> {
    let executable = std::env::current_exe()?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((name, folder)) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run_one(&executable, name, folder);
                    results.lock().unwrap_or_else(|lock| lock.into_inner()).push(result);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|lock| lock.into_inner());
    results.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(results)
}

/// The case in two processes, one for each way to run it.
fn run_one(executable: &Path, name: &str, folder: &Path) -> Case {
    let outcome = |kind| match ask(executable, kind, folder) {
        Ok(outcome) => outcome,
        Err(why) => Outcome::Died(why.to_string()),
    };
    let operators = case::operators(&folder.join("model.onnx")).unwrap_or_default();
    let (plain, packaged) = (outcome("plain"), outcome("packaged"));
    Case { name: name.into(), operators, plain, packaged }
}

fn ask(executable: &Path, kind: &str, folder: &Path) -> Result<Outcome, Error> {
    let mut child = Command::new(executable)
        .args(["case", kind])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err("it hangs".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let Output { status, stdout, .. } = child.wait_with_output()?;
    serde_json::from_slice(&stdout).map_err(|_| format!("it ended: {status}").into())
}

/// How many cases of a set each way passes.
#[derive(Default)]
struct Counts {
    cases: usize,
    plain: usize,
    packaged: usize,
}

fn counts(cases: &[Case]) -> BTreeMap<&str, Counts> {
    let mut sets: BTreeMap<&str, Counts> = BTreeMap::new();
    for case in cases {
        for set in [case.name.split('/').next().unwrap_or_default(), "together"] {
            let counts = sets.entry(set).or_default();
            counts.cases += 1;
            counts.plain += usize::from(case.plain == Outcome::Passed);
            counts.packaged += usize::from(case.packaged == Outcome::Passed);
        }
    }
    sets
}

fn table(cases: &[Case]) -> String {
    let mut text = format!("{:<20} {:>6} {:>12} {:>9}\n", "", "cases", "plain tract", "packaged");
    for (set, Counts { cases, plain, packaged }) in counts(cases) {
        text.push_str(&format!("{set:<20} {cases:>6} {plain:>12} {packaged:>9}\n"));
    }
    for case in cases {
        if case.packaged != Outcome::Passed && case.plain == Outcome::Passed {
            text.push_str(&format!("lost: {}: {:?}\n", case.name, case.packaged));
        }
        for outcome in [&case.plain, &case.packaged] {
            if let Outcome::Died(why) = outcome {
                text.push_str(&format!("died: {}: {why}\n", case.name));
            }
        }
    }
    text
}

fn page(cases: &[Case]) -> String {
    let mut text = String::from(
        "# Operators\n\n\
         ONNX's own operator cases (PyPI `onnx==1.16.2`, `backend/test/data`), run with plain tract \
         (`into_optimized`) and through `slsml package` and the code that serves. Made by\n\n\
         ```sh\ncargo run --release -p slsml-bench -- breadth --markdown\n```\n\n\
         | Set | Cases | Plain tract | Packaged |\n| --- | ---: | ---: | ---: |\n",
    );
    for (set, Counts { cases, plain, packaged }) in counts(cases) {
        text.push_str(&format!("| {set} | {cases} | {plain} | {packaged} |\n"));
    }
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for case in cases {
        let short = case.name.split('/').nth(1).unwrap_or(&case.name);
        if let Some(reason) = reason(&case.packaged) {
            reasons.entry(reason).or_default().push(short);
        }
    }
    text.push_str("\n## What is refused, and why\n\n| Why | Cases |\n| --- | --- |\n");
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(why, names)| (std::cmp::Reverse(names.len()), why.clone()));
    for (why, names) in reasons {
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ");
        text.push_str(&format!("| {} | {names} |\n", why.replace('|', "\\|").replace('\n', " ")));
    }
    text
}

/// A reason without what differs from case to case.
fn reason(outcome: &Outcome) -> Option<String> {
    let text = match outcome {
        Outcome::Passed => return None,
        Outcome::Wrong(why) => return Some(format!("answers differ: {}", first_words(why))),
        Outcome::Died(why) => why,
        Outcome::Refused(why) => why,
    };
    let what = text.split_once(", used by node").map_or(text.as_str(), |(what, _)| what);
    // tract names the node first and says what is wrong last.
    let cause = what.rsplit_once("ToTypedTranslator: ").map_or(what, |(_, cause)| cause);
    Some(first_words(cause))
}

fn first_words(text: &str) -> String {
    text.chars().take(100).collect()
}
