//! `slsml`: the only crate that knows every provider. It turns arguments and settings into calls
//! of the libraries, and what they return into words, JSON and exit codes.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod engine;
mod failure;
mod folder;
mod place;
mod printer;
mod report;
mod settings;
mod site;
mod story;
mod summary;
mod webhook;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::failure::Failure;
use crate::printer::Printer;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") => {
            return Printer::new(true).fail(&Failure::usage(error.render().to_string().trim_end()));
        }
        // Help and version come this way too; clap knows which stream and code they take.
        Err(error) => error.exit(),
    };
    // For every client of this process; it can only be chosen once.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    std::panic::set_hook(Box::new(failure::panicked));
    let printer = Printer::new(args.json);
    match failure::guarded(|| commands::run(args, &printer)) {
        Ok(code) => code.into(),
        Err(failure) => printer.fail(&failure),
    }
}
