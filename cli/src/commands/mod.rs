//! One module a command.

mod cleanup;
mod cloudrun;
mod deploy;
mod explain_size;
mod inspect;
mod invoke;
mod local;
mod logs;
mod package;
mod push;
mod release;
mod status;

use crate::args::{Args, Command, Deploy, Plan};
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::{self, Settings};

/// Runs the command that was asked for.
pub(crate) fn run(args: Args, printer: &Printer) -> Result<Exit, Failure> {
    // The local Lambda and the schema need no settings, and work beside a broken file.
    let settings = || Settings::load(args.config.as_deref());
    match args.command {
        Command::Package(args) => package::run(&settings()?, args, printer),
        Command::Inspect(args) => inspect::run(&settings()?, args, printer),
        Command::ExplainSize(args) => explain_size::run(&settings()?, args, printer),
        Command::Push(args) => block_on(push::run(&settings()?, args, printer)),
        Command::Deploy(Deploy::Lambda(args)) => {
            block_on(deploy::run(&settings()?, *args, printer))
        }
        Command::Deploy(Deploy::Cloudrun(args)) => {
            block_on(cloudrun::run(&settings()?, *args, printer))
        }
        Command::Plan(Plan::Cloudrun(args)) => {
            block_on(cloudrun::plan(&settings()?, *args, printer))
        }
        Command::Plan(Plan::Lambda(args)) => block_on(deploy::plan(&settings()?, *args, printer)),
        Command::Invoke(args) => block_on(invoke::run(&settings()?, args, printer)),
        Command::Status(args) => block_on(status::run(&settings()?, args, printer)),
        Command::Release(args) => block_on(release::run(&settings()?, args, printer)),
        Command::History(args) => block_on(release::history(&settings()?, args, printer)),
        Command::Logs(args) => block_on(logs::run(&settings()?, args, printer)),
        Command::Prune(args) => block_on(cleanup::prune(&settings()?, args, printer)),
        Command::Destroy(args) => block_on(cleanup::destroy(&settings()?, args, printer)),
        Command::Local(command) => local::run(command, printer),
        Command::Schema => {
            let schema = settings::schema();
            let text = serde_json::to_string_pretty(&schema)?;
            printer.result(&schema, || text)
        }
    }
}

/// Runs asynchronous work to its end.
fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Ready when somebody asks this process to stop.
pub(crate) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
