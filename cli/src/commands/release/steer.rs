//! Going on with a release, holding it, and ending it by hand.
//!
//! What a person asks for is written into the journal. Whoever works on the release does it at the
//! next look; if nobody does, this command takes the work over.

use serde_json::json;
use slsml_release::journal::{Ask, Entry, Fact, Log};
use slsml_release::ports::{Clock, SystemClock, Target};
use slsml_release::{Split, resume as go_on, unfinished};

use super::show::{Shown, Teller, run_to_end};
use super::{no_release, open, watch};
use crate::engine::{Engine, Journals};
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::site::Site;
use crate::story;

/// `slsml release resume`.
pub(super) async fn resume(engine: Engine, printer: &Printer) -> Result<Exit, Failure> {
    let Some((name, lease)) = unfinished(&engine.journals, &engine.name).await? else {
        return nothing(&engine, printer).await;
    };
    let mut log = open(&engine, &name).await?;
    let waits = log.state.paused
        || log.state.stage.is_some_and(|stage| {
            matches!(log.state.strategy.stages.get(stage), Some(slsml_release::Stage::Pause))
        });
    if waits {
        write(&engine, &mut log, Ask::Resume).await?;
    }
    drop(log);
    if engine.is_worked_under(&lease) {
        printer.note(&format!("{} is working on it", lease.holder.by));
    }
    follow(engine, &name, None, printer).await
}

/// `slsml release pause`, `promote` and `abort`.
pub(super) async fn ask(engine: Engine, what: Ask, printer: &Printer) -> Result<Exit, Failure> {
    let Some((name, lease)) = unfinished(&engine.journals, &engine.name).await? else {
        return match what {
            Ask::Promote | Ask::Abort => by_hand(&engine, what, printer).await,
            _ => nothing(&engine, printer).await,
        };
    };
    let mut log = open(&engine, &name).await?;
    write(&engine, &mut log, what).await?;
    drop(log);
    let live = engine.is_worked_under(&lease);
    if what == Ask::Pause {
        let value = engine.site.with(json!({ "release": name, "paused": true, "watched": live }));
        let who = if live {
            format!("{} watches on", lease.holder.by)
        } else {
            "nobody watches it now".into()
        };
        return printer.result(&value, || {
            format!(
                "Paused release {name}; {who}. Go on with slsml release resume{}",
                engine.flags()
            )
        });
    }
    follow(engine, &name, Some(what), printer).await
}

/// Watches whoever works on it, and takes over if nobody does any more.
async fn follow(
    engine: Engine,
    name: &str,
    asked: Option<Ask>,
    printer: &Printer,
) -> Result<Exit, Failure> {
    match watch::watch_worker(&engine, name, asked, printer).await? {
        Some(exit) => Ok(exit),
        None => take_over(engine, name, asked, printer).await,
    }
}

async fn take_over(
    engine: Engine,
    name: &str,
    asked: Option<Ask>,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let engine = engine.with_kept_request(name).await?;
    let world = engine.world();
    let mut teller = Teller::new(printer, engine.webhook.as_ref());
    let work = go_on(&world, &engine.name, name, |event| teller.tell(event));
    let shown = Shown { asked, ..Shown::default() };
    run_to_end(&engine, &shown, printer, work).await
}

/// Writes a wish down, however often others write in between.
async fn write(engine: &Engine, log: &mut Log<'_, Journals>, what: Ask) -> Result<(), Failure> {
    let entry = || Entry::new(SystemClock.now(), &engine.holder.by, Fact::Asked { what });
    while log.state.ended.is_none() {
        if log.append(entry()).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// A split that no release of slsml is behind: it can be ended, too.
async fn by_hand(engine: &Engine, what: Ask, printer: &Printer) -> Result<Exit, Failure> {
    let Engine { site, target, .. } = engine;
    let revision = site.revision();
    let seen = target.observe().await?;
    let Some(split) = seen.split else {
        return Err(match site.clone() {
            Site::Alias { function, alias } => {
                slsml_lambda::LambdaError::NoAlias { function, alias }.into()
            }
            Site::Service { service } => {
                slsml_cloudrun::CloudRunError::NoService { service }.into()
            }
        });
    };
    let Some((candidate, _)) = split.candidate else {
        let value = site.with(json!({ "changed": false, "split": split }));
        return printer.result(&value, || {
            format!(
                "Nothing to do: no release of {site} is under way, {revision} {} has all traffic.",
                split.stable
            )
        });
    };
    let all = Split::all_to(if what == Ask::Promote { candidate } else { split.stable });
    target.route(&all, seen.token.as_ref()).await?;
    let value = site.with(json!({ "changed": true, "split": all }));
    printer.result(&value, || {
        let what = if what == Ask::Promote { "Promoted" } else { "Aborted" };
        format!("{what}: {revision} {} has all traffic of {site}.", all.stable)
    })
}

/// Nothing is under way.
async fn nothing(engine: &Engine, printer: &Printer) -> Result<Exit, Failure> {
    let name = engine.latest().await?.ok_or_else(|| no_release(engine))?;
    let log = open(engine, &name).await.map_err(|_| no_release(engine))?;
    let outcome = log.state.ended.as_ref().map_or_else(String::new, story::outcome);
    let value =
        engine.site.with(json!({ "changed": false, "release": name, "outcome": log.state.ended }));
    printer.result(&value, || {
        format!("Nothing to do: the latest release of {}, {name}, is over: {outcome}.", engine.site)
    })
}
