//! `slsml release …`: looking at releases, and steering them from any machine.

mod history;
mod rollback;
pub(crate) mod show;
mod steer;
mod watch;

use slsml_release::journal::Log;
use slsml_release::key;

use crate::args::{Release, ReleaseNamed, ReleaseTarget};
use crate::commands::invoke::function;
use crate::engine::{Engine, Journals};
use crate::failure::{Exit, Failure};
use crate::place::Place;
use crate::printer::Printer;
use crate::report::{Story, page};
use crate::settings::Settings;

pub(crate) use history::run as history;

pub(crate) async fn run(
    settings: &Settings,
    args: Release,
    printer: &Printer,
) -> Result<Exit, Failure> {
    use slsml_release::journal::Ask;
    match args {
        Release::List(target) => history::list(&connect(settings, target).await?, printer).await,
        Release::Show(named) => {
            let (engine, name) = named_release(settings, named).await?;
            show::show(&engine, &open(&engine, &name).await?, printer)
        }
        Release::Watch(named) => {
            let (engine, name) = named_release(settings, named).await?;
            watch::watch(&engine, &name, printer).await
        }
        Release::Resume(target) => steer::resume(connect(settings, target).await?, printer).await,
        Release::Pause(target) => {
            steer::ask(connect(settings, target).await?, Ask::Pause, printer).await
        }
        Release::Promote(target) => {
            steer::ask(connect(settings, target).await?, Ask::Promote, printer).await
        }
        Release::Abort(target) => {
            steer::ask(connect(settings, target).await?, Ask::Abort, printer).await
        }
        Release::Rollback(target) => {
            rollback::rollback(connect(settings, target).await?, printer).await
        }
        Release::Report(args) => {
            let (engine, name) = named_release(settings, args.release).await?;
            report(&open(&engine, &name).await?, &args.html, printer)
        }
    }
}

pub(super) async fn connect(settings: &Settings, args: ReleaseTarget) -> Result<Engine, Failure> {
    let function = function(settings, args.place.function.clone())?;
    let alias = settings.alias(args.alias);
    let place = Place::connect(&args.place, settings).await?;
    let bucket = settings.bucket(args.bucket);
    let mut engine = Engine::new(&place, &function, &alias, bucket.as_deref())?;
    engine.webhook = settings.webhook(None)?;
    Ok(engine)
}

/// The release that is named, or the latest.
async fn named_release(
    settings: &Settings,
    args: ReleaseNamed,
) -> Result<(Engine, String), Failure> {
    let engine = connect(settings, args.target).await?;
    let name = match args.name {
        Some(name) => name,
        None => latest(&engine).await?,
    };
    Ok((engine, name))
}

async fn latest(engine: &Engine) -> Result<String, Failure> {
    engine.latest().await?.ok_or_else(|| no_release(engine))
}

fn no_release(engine: &Engine) -> Failure {
    Failure::usage(format!(
        "there has been no release of {} of {} yet",
        engine.alias, engine.function
    ))
    .help("look in another bucket with --bucket, or release with slsml deploy lambda")
}

async fn open<'a>(engine: &'a Engine, name: &str) -> Result<Log<'a, Journals>, Failure> {
    use slsml_release::journal::JournalError;
    match Log::open(&engine.journals, &key(&engine.name, name)).await {
        Ok(log) => Ok(log),
        Err(JournalError::Missing(_)) => Err(Failure::usage(format!(
            "there is no release {name} of {} of {}",
            engine.alias, engine.function
        ))
        .help(format!("slsml release list{} shows them", engine.flags()))),
        Err(error) => Err(error.into()),
    }
}

/// `slsml release report`.
fn report(
    log: &Log<'_, Journals>,
    path: &std::path::Path,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let undrawn =
        |why: String| Failure::new(Exit::Internal, format!("the page cannot be drawn: {why}"));
    let story =
        Story::of(&log.entries).ok_or_else(|| undrawn("the journal does not begin".into()))?;
    let html = page(&log.entries, &log.state, &story).map_err(undrawn)?;
    std::fs::write(path, &html)
        .map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))?;
    let value =
        serde_json::json!({ "release": log.state.release, "html": path, "bytes": html.len() });
    printer.result(&value, || format!("Wrote {}: release {}.", path.display(), log.state.release))
}
