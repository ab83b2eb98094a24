//! `slsml release …`: looking at releases, and steering them from any machine.

mod history;
mod rollback;
pub(crate) mod show;
mod steer;
mod watch;

use slsml_release::journal::Log;
use slsml_release::key;

use crate::args::{CloudrunArgs, Release, ReleaseNamed, ReleaseTarget};
use crate::commands::invoke::function;
use crate::engine::{Engine, Journals};
use crate::failure::{Exit, Failure};
use crate::place::{CloudrunPlace, Place};
use crate::printer::Printer;
use crate::report::{Story, page};
use crate::settings::Settings;
use crate::site::Site;

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
            show::show(&engine, &open(&engine, &name).await?, printer).await
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

pub(crate) async fn connect(settings: &Settings, args: ReleaseTarget) -> Result<Engine, Failure> {
    let mut engine = match service(settings, &args)? {
        Some((place, service)) => {
            let bucket = settings.journal_bucket(args.bucket);
            Engine::of_service(
                &CloudrunPlace::connect(&place, settings)?,
                &service,
                bucket.as_deref(),
            )?
        }
        None => {
            let function = function(settings, args.place.function.clone())?;
            let alias = settings.alias(args.alias);
            let place = Place::connect(&args.place, settings).await?;
            let bucket = settings.bucket(args.bucket);
            Engine::of_alias(&place, &function, &alias, bucket.as_deref())?
        }
    };
    engine.webhook = settings.webhook(None)?;
    Ok(engine)
}

/// The service that is meant, if one is: it is named, or the settings package for Cloud Run and no
/// function is named.
pub(crate) fn service(
    settings: &Settings,
    args: &ReleaseTarget,
) -> Result<Option<(CloudrunArgs, String)>, Failure> {
    let lambda = args.place.function.is_some() || args.alias.is_some();
    let named = args.service.clone();
    if named.is_some() && lambda {
        return Err(Failure::usage(
            "--service is for Cloud Run, --function and --alias for Lambda",
        ));
    }
    if named.is_none() && (lambda || !settings.is_for_cloudrun()) {
        return Ok(None);
    }
    let place = CloudrunArgs {
        local: args.place.local,
        local_dir: args.place.local_dir.clone(),
        project: args.project.clone(),
        region: args.place.region.clone(),
        service: named.clone(),
    };
    let service = settings.service(named).ok_or_else(|| {
        Failure::usage("no service is named")
            .help("pass --service NAME, or name under [model] in slsml.toml")
    })?;
    Ok(Some((place, service)))
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
    Failure::usage(format!("there has been no release of {} yet", engine.site)).help(
        match engine.site {
            Site::Alias { .. } => {
                "look in another bucket with --bucket, or release with slsml deploy lambda"
            }
            Site::Service { .. } => "release with slsml deploy cloudrun",
        },
    )
}

pub(crate) async fn open<'a>(engine: &'a Engine, name: &str) -> Result<Log<'a, Journals>, Failure> {
    use slsml_release::journal::JournalError;
    match Log::open(&engine.journals, &key(&engine.name, name)).await {
        Ok(log) => Ok(log),
        Err(JournalError::Missing(_)) => {
            Err(Failure::usage(format!("there is no release {name} of {}", engine.site))
                .help(format!("slsml release list{} shows them", engine.flags())))
        }
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
