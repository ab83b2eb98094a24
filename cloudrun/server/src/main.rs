//! The program a container runs: the model is loaded, then the port is opened, and every request is
//! answered through `slsml-inference` over HTTP/1.1, HTTP/2 or gRPC, whichever it came by.
//!
//! It links no cloud SDK, no argument parser and no ONNX importer.
#![forbid(unsafe_code)]

mod app;
mod batch;
mod encoding;
mod grpc;
mod listen;
mod log;
mod pace;
mod queue;
mod rest;
mod settings;
mod stats;
mod workers;

use std::process::ExitCode;

use app::App;
use settings::Settings;

fn main() -> ExitCode {
    log::panics_as_json();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("the server cannot run", &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::from_environment()?;
    let app = App::load(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads)
        .enable_all()
        .build()?;
    runtime.block_on(listen::serve(app, &settings))?;
    Ok(())
}
