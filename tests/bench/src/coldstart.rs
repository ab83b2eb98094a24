//! A cold start, side by side: every round starts each peer once, one after the other.

use std::path::{Path, PathBuf};
use std::process::Command;

use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use slsml_import::{DimOverride, ShapeOverride};
use slsml_model::Model;

use crate::figures::{Series, Spread};
use crate::load::Loaded;
use crate::peers::{self, Peers, SUITE};
use crate::process::{self, Program};
use crate::{Error, packaging, request};

/// Warm requests in each process.
const WARM: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The ONNX file [default: all models of the suite, which are fetched and made first]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// An input's shape, as in `slsml package`; repeat it for several
    #[arg(long, value_name = "NAME=1x3x224x224")]
    shape: Vec<ShapeOverride>,
    /// A named dimension's length, as in `slsml package`
    #[arg(long, value_name = "NAME=1")]
    dim: Vec<DimOverride>,
    /// The infer request to send [default: one that fits the model's inputs]
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Rounds; each starts every peer once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// The folder with slsml and bootstrap [default: built as they ship, by `make ship`]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Print one JSON document per model
    #[arg(long)]
    json: bool,
}

/// Medians; milliseconds.
#[derive(Debug, Serialize)]
struct Medians {
    /// The packaged model, from file to runnable.
    ready: Spread,
    /// The ONNX file, from file to runnable with plain tract.
    ready_plain: Spread,
    /// `bootstrap`, from exec to its first question for work.
    exec_to_ready: Spread,
    /// `bootstrap`, from exec to the first answer.
    first_answer: Spread,
    first_answer_python: Spread,
    first_answer_floor: Spread,
    /// One run of the model in a process that ran it before.
    warm: Spread,
    warm_plain: Spread,
    warm_onnxruntime: Spread,
    /// `bootstrap`, from handing out a request to its answer.
    warm_request: Spread,
    warm_request_python: Spread,
    package: Spread,
    zip6: Spread,
}

/// Ratios taken round by round.
#[derive(Debug, Serialize)]
struct Ratios {
    ready_vs_plain: Spread,
    first_answer_vs_python: Spread,
    first_answer_vs_floor: Spread,
    warm_vs_plain: Spread,
    warm_vs_onnxruntime: Spread,
    package_vs_zip6: Spread,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    runs: u16,
    medians_ms: serde_json::Value,
    spread_ms: Medians,
    ratios: serde_json::Value,
    spread_of_ratios: Ratios,
    zip_bytes: u64,
    zip_bytes_without_model: u64,
    packaged_model_bytes: u64,
    /// The most memory a `bootstrap` had.
    peak_rss_bytes: u64,
    /// Of that, what is beyond twice the packaged model.
    peak_rss_beyond_twice_the_model: i64,
    peak_rss_bytes_python: u64,
    /// The largest difference from onnxruntime's answer, relative to 1 or the larger value.
    difference_from_onnxruntime: f64,
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let (root, target) = (root()?, target()?);
    let executable = std::env::current_exe()?;
    let programs = match &args.programs {
        Some(programs) => programs.clone(),
        None => {
            peers::run(
                Command::new("make").args(["--no-print-directory", "ship"]).current_dir(&root),
            )?;
            target.join("ship")
        }
    };
    let floor = executable.with_file_name("slsml-bench-floor");
    if !floor.exists() {
        let build = ["build", "--locked", "--release", "--quiet", "-p", "slsml-bench"];
        peers::run(Command::new("cargo").args(build).current_dir(&root))?;
    }
    let peers = Peers::set_up(&root.join("tests/bench/peers"), &target.join("bench"))?;
    let bench = Bench { args: &args, programs, floor, executable, peers };
    match &args.model {
        Some(model) => {
            let report = bench.measure(model, &args.shape).await?;
            show(&[report], args.json)
        }
        None => {
            let models = bench.peers.models()?.to_owned();
            let digits = root.join("examples/digits/models/v2.onnx");
            let mut reports = vec![bench.measure(&digits, &[]).await?];
            for (name, shapes) in SUITE {
                let shapes = shapes.iter().map(|shape| shape.parse::<ShapeOverride>());
                let shapes = shapes.collect::<Result<Vec<_>, String>>()?;
                reports.push(bench.measure(&models.join(name), &shapes).await?);
            }
            show(&reports, args.json)
        }
    }
}

/// The target folder this program was built in.
pub(crate) fn target() -> Result<PathBuf, Error> {
    let executable = std::env::current_exe()?;
    let target = executable.parent().and_then(Path::parent);
    Ok(target.ok_or("this program lies in no target folder")?.to_owned())
}

/// The checkout: what `cargo run` says, or the folder we are in.
pub(crate) fn root() -> Result<PathBuf, Error> {
    let here = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => PathBuf::from(package).join("../.."),
        None => std::env::current_dir()?,
    };
    let here = here.canonicalize()?;
    match here.join("tests/bench/peers/setup").exists() {
        true => Ok(here),
        false => Err("run it in the checkout, or by `cargo run -p slsml-bench`".into()),
    }
}

struct Bench<'a> {
    args: &'a Args,
    programs: PathBuf,
    floor: PathBuf,
    executable: PathBuf,
    peers: Peers,
}

#[derive(Debug, Deserialize)]
struct Onnxruntime {
    warm_ms: Vec<f64>,
}

#[derive(Default)]
struct Rounds {
    ready: Series,
    ready_plain: Series,
    exec_to_ready: Series,
    first_answer: Series,
    first_answer_python: Series,
    first_answer_floor: Series,
    warm: Series,
    warm_plain: Series,
    warm_onnxruntime: Series,
    warm_request: Series,
    warm_request_python: Series,
}

impl Bench<'_> {
    async fn measure(&self, model: &Path, shapes: &[ShapeOverride]) -> Result<Report, Error> {
        let name = model.file_name().unwrap_or(model.as_os_str()).to_string_lossy().into_owned();
        eprintln!("{name}: packaging, then {} rounds", self.args.runs);
        let flags = packaging::flags(shapes, &self.args.dim);
        let scratch = tempfile::tempdir()?;
        let slsml = self.programs.join("slsml");
        let package = packaging::measure(&slsml, model, &flags, &self.peers, scratch.path())?;
        let packaged = package.task.join("model.slsml");
        let body = match &self.args.request {
            Some(path) => std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?,
            None => request::generate(Model::load(&packaged)?.signature())?,
        };
        let body_file = scratch.path().join("request.json");
        std::fs::write(&body_file, &body)?;
        let event = Bytes::from(request::event(&body)?);

        let ours = Program {
            path: package.task.join("bootstrap"),
            args: vec![],
            env: vec![],
            folder: package.task.clone(),
        };
        let floor = Program { path: self.floor.clone(), ..ours.clone() };
        let python = self.peers.lambda(model)?;
        let text = |path: &Path| path.display().to_string();
        let (packaged, body_file) = (text(&packaged), text(&body_file));
        let (original, warm_script) = (text(model), text(&self.peers.warm_script()));
        let mut plain = vec!["load", "plain", &original, &body_file];
        plain.extend(flags.iter().map(String::as_str));

        let mut rounds = Rounds::default();
        let (mut peak, mut peak_python, mut difference) = (0, 0, 0.0);
        for round in 0..self.args.runs {
            let loaded: Loaded =
                process::print(&self.executable, &["load", "packaged", &packaged, &body_file])
                    .await?;
            rounds.ready.0.push(loaded.ready_ms);
            rounds.warm.0.push(loaded.warm_ms);
            let loaded: Loaded = process::print(&self.executable, &plain).await?;
            rounds.ready_plain.0.push(loaded.ready_ms);
            rounds.warm_plain.0.push(loaded.warm_ms);
            let onnxruntime: Onnxruntime =
                process::print(&self.peers.python(), &[&warm_script, &original, &body_file, "30"])
                    .await?;
            rounds.warm_onnxruntime.0.push(Series(onnxruntime.warm_ms).spread().median);

            let start = process::start(&ours, &event, WARM).await?;
            rounds.exec_to_ready.push(start.ready);
            rounds.first_answer.push(start.first_answer);
            rounds.warm_request.0.push(start.warm_ms);
            peak = peak.max(start.peak_rss_bytes);
            let theirs = process::start(&python, &event, WARM).await?;
            rounds.first_answer_python.push(theirs.first_answer);
            rounds.warm_request_python.0.push(theirs.warm_ms);
            peak_python = peak_python.max(theirs.peak_rss_bytes);
            let lowest = process::start(&floor, &event, 0).await?;
            rounds.first_answer_floor.push(lowest.first_answer);
            if round == 0 {
                let (ours, theirs) = (&start.answer, &theirs.answer);
                difference =
                    request::difference(&request::outputs(ours)?, &request::outputs(theirs)?)?;
            }
        }
        report(name, self.args.runs, &rounds, &package, [peak, peak_python], difference)
    }
}

fn report(
    model: String,
    runs: u16,
    rounds: &Rounds,
    package: &packaging::Package,
    [peak, peak_python]: [u64; 2],
    difference: f64,
) -> Result<Report, Error> {
    let spread_ms = Medians {
        ready: rounds.ready.spread(),
        ready_plain: rounds.ready_plain.spread(),
        exec_to_ready: rounds.exec_to_ready.spread(),
        first_answer: rounds.first_answer.spread(),
        first_answer_python: rounds.first_answer_python.spread(),
        first_answer_floor: rounds.first_answer_floor.spread(),
        warm: rounds.warm.spread(),
        warm_plain: rounds.warm_plain.spread(),
        warm_onnxruntime: rounds.warm_onnxruntime.spread(),
        warm_request: rounds.warm_request.spread(),
        warm_request_python: rounds.warm_request_python.spread(),
        package: package.package_ms.spread(),
        zip6: package.zip6_ms.spread(),
    };
    let spread_of_ratios = Ratios {
        ready_vs_plain: rounds.ready.over(&rounds.ready_plain).spread(),
        first_answer_vs_python: rounds.first_answer.over(&rounds.first_answer_python).spread(),
        first_answer_vs_floor: rounds.first_answer.over(&rounds.first_answer_floor).spread(),
        warm_vs_plain: rounds.warm.over(&rounds.warm_plain).spread(),
        warm_vs_onnxruntime: rounds.warm.over(&rounds.warm_onnxruntime).spread(),
        package_vs_zip6: package.package_ms.over(&package.zip6_ms).spread(),
    };
    Ok(Report {
        model,
        runs,
        medians_ms: medians(&spread_ms)?,
        spread_ms,
        ratios: medians(&spread_of_ratios)?,
        spread_of_ratios,
        zip_bytes: package.zip_bytes,
        zip_bytes_without_model: package.zip_bytes_without_model,
        packaged_model_bytes: package.model_bytes,
        peak_rss_bytes: peak,
        peak_rss_beyond_twice_the_model: peak as i64 - 2 * package.model_bytes as i64,
        peak_rss_bytes_python: peak_python,
        difference_from_onnxruntime: difference,
    })
}

/// The same fields, each just its median.
fn medians(spreads: &impl Serialize) -> Result<serde_json::Value, Error> {
    let mut fields = serde_json::to_value(spreads)?;
    for field in fields.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
        *field = field["median"].take();
    }
    Ok(fields)
}

fn show(reports: &[Report], json: bool) -> Result<(), Error> {
    for report in reports {
        if json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            print_table(report);
        }
    }
    Ok(())
}

fn print_table(report: &Report) {
    let (times, ratios) = (&report.spread_ms, &report.spread_of_ratios);
    println!("{}: {} rounds; median [lowest to highest]\n", report.model, report.runs);
    let ms = |s: &Spread| format!("{:9.2} ms [{:.2} to {:.2}]", s.median, s.lowest, s.highest);
    let rows = [
        ("packaged model, file to runnable", &times.ready),
        ("plain tract, file to runnable", &times.ready_plain),
        ("bootstrap, exec to ready", &times.exec_to_ready),
        ("bootstrap, exec to first answer", &times.first_answer),
        ("Python Lambda, exec to first answer", &times.first_answer_python),
        ("reads the bytes only, the same", &times.first_answer_floor),
        ("warm run, packaged", &times.warm),
        ("warm run, plain tract", &times.warm_plain),
        ("warm run, onnxruntime", &times.warm_onnxruntime),
        ("warm request, bootstrap", &times.warm_request),
        ("warm request, Python Lambda", &times.warm_request_python),
        ("slsml package", &times.package),
        ("zip -6 of the same files", &times.zip6),
    ];
    for (what, spread) in rows {
        println!("{what:<38} {}", ms(spread));
    }
    println!();
    let ratio = |s: &Spread| format!("{:9.3}    [{:.3} to {:.3}]", s.median, s.lowest, s.highest);
    let rows = [
        ("ready / plain tract", &ratios.ready_vs_plain),
        ("first answer / Python Lambda", &ratios.first_answer_vs_python),
        ("first answer / reading the bytes", &ratios.first_answer_vs_floor),
        ("warm run / plain tract", &ratios.warm_vs_plain),
        ("warm run / onnxruntime", &ratios.warm_vs_onnxruntime),
        ("package / zip -6", &ratios.package_vs_zip6),
    ];
    for (what, spread) in rows {
        println!("{what:<38} {}", ratio(spread));
    }
    println!();
    let size = |bytes: i64| format!("{:9.2} MB", bytes as f64 / 1e6);
    let rows = [
        ("zip", report.zip_bytes as i64),
        ("zip without the model", report.zip_bytes_without_model as i64),
        ("packaged model", report.packaged_model_bytes as i64),
        ("peak memory", report.peak_rss_bytes as i64),
        ("peak memory beyond twice the model", report.peak_rss_beyond_twice_the_model),
        ("peak memory, Python Lambda", report.peak_rss_bytes_python as i64),
    ];
    for (what, bytes) in rows {
        println!("{what:<38} {}", size(bytes));
    }
    println!("{:<38} {:9.1e}\n", "difference from onnxruntime", report.difference_from_onnxruntime);
}
