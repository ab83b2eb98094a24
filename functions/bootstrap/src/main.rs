//! The `bootstrap` that Lambda runs: the model is loaded while the function initialises, then
//! every event is answered through `slsml-inference`.
//!
//! It links no cloud SDK, no argument parser and no ONNX importer: what it does not hold, it does
//! not load at a cold start.
#![forbid(unsafe_code)]

mod event;
mod http_api;
mod init;
mod log;
mod outcome;

use std::cell::Cell;
use std::process::ExitCode;

use lambda_runtime::{LambdaEvent, Runtime, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    log::panics_as_json();
    let service = match init::service() {
        Ok(service) => service,
        Err(error) => {
            init::report(&error.to_string()).await;
            return ExitCode::FAILURE;
        }
    };
    let cold = Cell::new(true);
    let (service, cold) = (&service, &cold);
    let handler = service_fn(|event: LambdaEvent<event::Event>| async move {
        event::answer(service, event, cold.replace(false)).await
    });
    match Runtime::new(handler).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("the runtime API failed", &error.to_string());
            ExitCode::FAILURE
        }
    }
}
