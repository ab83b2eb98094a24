//! `slsml release rollback`: back to the revision before, also after a release has succeeded. It
//! asks no metrics.

use serde_json::json;
use slsml_release::journal::{Ask, Entry, Fact};
use slsml_release::ports::{Clock, SystemClock, Target};
use slsml_release::{Outcome, Split, last, take_lease};

use super::{no_release, open, steer};
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;

pub(super) async fn rollback(engine: Engine, printer: &Printer) -> Result<Exit, Failure> {
    let last = last(&engine.journals, &engine.name).await?;
    if last.as_ref().is_some_and(|last| last.is_under_way) {
        return steer::ask(engine, Ask::Abort, printer).await;
    }
    let name = last.as_ref().and_then(|last| last.release.clone());
    let name = name.ok_or_else(|| no_release(&engine))?;
    let mut log = open(&engine, &name).await?;
    let (site, revision) = (&engine.site, engine.site.revision());
    let Some(stable) = log.state.stable.clone() else {
        return Err(Failure::usage(format!(
            "{name} was the first release of {site}: there is nothing to go back to"
        )));
    };
    let back = Split::all_to(stable.clone());
    let seen = engine.target.observe().await?;
    let done = |changed: bool| {
        let value = site.with(json!({ "release": name, "changed": changed, "split": back }));
        printer.result(&value, || match changed {
            true => {
                format!("Rolled back: {revision} {stable} has all traffic of {site}.")
            }
            false => {
                format!("Nothing to do: {revision} {stable} has all traffic of {site}.")
            }
        })
    };
    let has_all = matches!(log.state.ended, Some(Outcome::Promoted { .. } | Outcome::Failed(_)));
    let entry = |fact| Entry::new(SystemClock.now(), &engine.holder.by, fact);
    if seen.split.as_ref() == Some(&back) {
        // Somebody was stopped between moving the traffic and writing it down.
        if log.state.wish.as_ref().is_some_and(|(ask, _)| *ask == Ask::RollBack)
            && !log.state.rolled_back_later
        {
            log.append(entry(Fact::RolledBackLater { observed: seen })).await?;
        }
        return done(false);
    }
    let left = Split::all_to(log.state.candidate.clone());
    if !has_all || seen.split.as_ref() != Some(&left) {
        let found = seen.split.as_ref().map_or("gone".into(), Split::to_string);
        return Err(Failure::new(
            Exit::Moved,
            format!("the latest release of {site}, {name}, did not leave the traffic as it is now: {found}"),
        )
        .help("it was left as it is: look at it with slsml status"));
    }
    if !engine.target.exists(&stable).await? {
        return Err(Failure::new(
            Exit::Cloud,
            format!("{revision} {stable} of {site} does not exist any more, so there is nothing to go back to"),
        )
        .help(format!("deploy its artifact again: {} --artifact DIR", site.deploy())));
    }
    let world = engine.world();
    let held = take_lease(&world, &engine.name, &name, last).await?;
    log.append(entry(Fact::Asked { what: Ask::RollBack })).await?;
    let observed = engine.target.route(&back, seen.token.as_ref()).await?;
    log.append(entry(Fact::RolledBackLater { observed })).await?;
    held.give_back().await?;
    done(true)
}
