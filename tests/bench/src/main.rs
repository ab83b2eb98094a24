//! `slsml-bench`: what packaging, a cold start and a warm request cost, as a table or as JSON.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cold;
mod packaging;
mod runtime_api;
mod spread;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use spread::Spread;

/// What measuring fails with; it is only ever shown.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures slsml on a model
#[derive(Debug, Parser)]
struct Args {
    /// The folder with slsml and bootstrap [default: the one this program lies in]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// The ONNX file
    #[arg(long, value_name = "FILE", default_value = "examples/digits/models/v2.onnx")]
    model: PathBuf,
    /// The infer request to send
    #[arg(long, value_name = "FILE", default_value = "examples/digits/request.json")]
    request: PathBuf,
    /// How many cold processes to start
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The figures. Times are in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    model: PathBuf,
    runs: usize,
    package_ms: Spread,
    zip_bytes: u64,
    zip_bytes_without_model: u64,
    packaged_model_bytes: u64,
    /// From exec to the first question for work.
    ready_ms: Spread,
    /// From exec to the first answer.
    first_answer_ms: Spread,
    /// From handing out a request to its answer, in a process that answered before.
    warm_ms: Spread,
    /// The most memory a process had.
    peak_rss_bytes: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slsml-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: Args) -> Result<(), Error> {
    let programs = match args.programs {
        Some(programs) => programs,
        None => std::env::current_exe()?
            .parent()
            .map(Path::to_owned)
            .ok_or("this program lies in no folder")?,
    };
    let request = std::fs::read(&args.request)
        .map_err(|error| format!("{}: {error}", args.request.display()))?;
    let scratch = tempfile::tempdir()?;
    let package = packaging::measure(&programs.join("slsml"), &args.model, scratch.path())?;
    let task = scratch.path().join("task");
    packaging::unpack(&package.zip, &task)?;
    let start = cold::measure(&task, &request, args.runs).await?;
    let figures = Figures {
        model: args.model,
        runs: args.runs,
        package_ms: package.took_ms,
        zip_bytes: package.zip_bytes,
        zip_bytes_without_model: package.zip_bytes_without_model,
        packaged_model_bytes: package.model_bytes,
        ready_ms: start.ready_ms,
        first_answer_ms: start.first_answer_ms,
        warm_ms: start.warm_ms,
        peak_rss_bytes: start.peak_rss_bytes,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print_table(&figures);
    }
    Ok(())
}

fn print_table(figures: &Figures) {
    let size = |bytes: u64| format!("{:.2} MB", bytes as f64 / 1e6);
    println!(
        "{}, {} cold processes; median [lowest to highest]\n",
        figures.model.display(),
        figures.runs
    );
    let rows = [
        ("slsml package", figures.package_ms.to_string()),
        ("zip", size(figures.zip_bytes)),
        ("zip without the model", size(figures.zip_bytes_without_model)),
        ("packaged model", size(figures.packaged_model_bytes)),
        ("exec to ready", figures.ready_ms.to_string()),
        ("exec to first answer", figures.first_answer_ms.to_string()),
        ("warm request", figures.warm_ms.to_string()),
        ("peak memory", size(figures.peak_rss_bytes)),
    ];
    for (what, figure) in rows {
        println!("{what:<24} {figure}");
    }
}
