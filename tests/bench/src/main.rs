//! `slsml-bench`: figures that are ratios, measured side by side in one run.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod breadth;
mod case;
mod chaos;
mod client;
mod coldstart;
mod figures;
mod load;
mod packaging;
mod peers;
mod process;
mod request;
mod runtime_api;
mod serve;
mod simulate;

use std::process::ExitCode;

use clap::Parser;

/// What measuring fails with; it is only ever shown.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures slsml against its peers
#[derive(Debug, Parser)]
enum Args {
    /// A cold start of a packaged model: against plain tract, a Python Lambda with onnxruntime,
    /// and a program that loads nothing
    Coldstart(coldstart::Args),
    /// ONNX's operator cases: which plain tract passes and which the packaged form passes
    Breadth(breadth::Args),
    /// The container's server: against FastAPI with onnxruntime, and a bare run of the model
    Serve(serve::Args),
    /// Releases in virtual time: false alarms, detection, what happens without traffic
    Simulate(simulate::Args),
    /// Releases that are killed, or refused by the API, at any call they make, under live traffic
    Chaos(chaos::Args),
    /// Runs one operator case in this process (used by breadth)
    #[command(hide = true)]
    Case(case::Args),
    /// Loads a model in this process and prints how long it took (used by coldstart)
    #[command(hide = true)]
    Load(load::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse() {
        Args::Coldstart(args) => coldstart::run(args).await,
        Args::Breadth(args) => breadth::run(&args),
        Args::Chaos(args) => chaos::run(args).await,
        Args::Serve(args) => serve::run(args).await,
        Args::Simulate(args) => simulate::run(&args),
        Args::Case(args) => case::run(&args),
        Args::Load(args) => load::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slsml-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
