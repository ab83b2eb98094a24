//! The program a container runs: the model is loaded, then the port is opened, and every request is
//! answered through `slsml-inference` over HTTP/1.1, HTTP/2 or gRPC, whichever it came by.
//!
//! It links no cloud SDK, no argument parser and no ONNX importer.
#![forbid(unsafe_code)]

mod app;
mod batch;
mod crowd;
mod encoding;
mod exchange;
mod fewer;
mod gather;
mod grpc;
mod listen;
mod log;
mod pace;
mod queue;
mod rest;
mod room;
mod settings;
mod silence;
mod stats;
mod traces;
mod workers;

use std::process::ExitCode;

use app::App;
use settings::Settings;

/// Any bytes as gRPC's infer request; for tests with hostile ones.
pub use grpc::decode as decode_grpc;

/// Serves until the container is told to stop.
pub fn main() -> ExitCode {
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads)
        // Answers of the model's threads before requests to refuse, of which there may be many; and no long
        // time until those are read that wait for a place.
        .global_queue_interval(1)
        .event_interval(13)
        .enable_all()
        .build()?;
    let _within = runtime.enter();
    let app = App::load(&settings)?;
    runtime.block_on(listen::serve(app.clone(), &settings))?;
    if let Some(traces) = &app.traces {
        traces.finish();
    }
    Ok(())
}
