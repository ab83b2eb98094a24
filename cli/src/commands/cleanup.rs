//! `slsml prune` and `slsml destroy`: versions nobody needs any more, and all of it.

use serde_json::json;
use slsml_release::lease::Held;
use slsml_release::ports::{Clock, SystemClock};
use slsml_release::{Last, Revision, idle, take_lease};

use super::deploy::check_undivided;
use super::release;
use super::release::show::under_way;
use crate::args::{Destroy, Prune, ReleaseTarget};
use crate::engine::{Engine, Journals, new_name};
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;

/// The service, or the alias that was named and the function's others.
async fn connect(settings: &Settings, target: ReleaseTarget) -> Result<Vec<Engine>, Failure> {
    let mut engines = vec![release::connect(settings, target.clone()).await?];
    for alias in engines[0].target.aliases().await? {
        let target = ReleaseTarget { alias: Some(alias), ..target.clone() };
        let engine = release::connect(settings, target).await?;
        if engine.name != engines[0].name {
            engines.push(engine);
        }
    }
    Ok(engines)
}

/// What the last releases leave.
struct Seen {
    /// The leases as they are, in the order of the engines.
    lasts: Vec<Option<Last>>,
    /// Whom the last releases released, and whom to go back to.
    needed: Vec<Revision>,
}

/// Looks at what is released. A release that is under way is an error, and so is divided traffic: its
/// journal may lie elsewhere.
async fn look(engines: &[Engine]) -> Result<Seen, Failure> {
    let mut seen = Seen { lasts: Vec::new(), needed: Vec::new() };
    for engine in engines {
        let last = idle(&engine.world(), &engine.name).await;
        let last = last.map_err(|error| under_way(engine, error))?;
        check_undivided(engine).await.map_err(|failure| failure.about(&engine.site.whole()))?;
        if let Some(name) = last.as_ref().and_then(|last| last.release.as_ref()) {
            let state = release::open(engine, name).await?.state;
            seen.needed.extend(state.stable.into_iter().chain([state.candidate]));
        }
        seen.lasts.push(last);
    }
    Ok(seen)
}

/// Leases on everything behind which something could be released.
struct Leases<'a>(Vec<Held<'a, Journals>>);

impl<'a> Leases<'a> {
    /// Takes them as they were seen: then nothing has begun since.
    async fn take(engines: &'a [Engine], lasts: Vec<Option<Last>>) -> Result<Self, Failure> {
        let mut leases = Leases(Vec::new());
        for (engine, last) in engines.iter().zip(lasts) {
            let latest = last.as_ref().and_then(|last| last.release.clone());
            let name = latest.unwrap_or_else(|| new_name(&engine.holder));
            match take_lease(&engine.world(), &engine.name, &name, last).await {
                Ok(held) => leases.0.push(held),
                Err(error) => {
                    leases.give_back().await;
                    return Err(error.into());
                }
            }
        }
        Ok(leases)
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        for held in &mut self.0 {
            held.renew(SystemClock.now()).await?;
        }
        Ok(())
    }

    async fn give_back(self) {
        for held in self.0 {
            // One that cannot be given back runs out.
            let _ = held.give_back().await;
        }
    }
}

pub(crate) async fn prune(
    settings: &Settings,
    args: Prune,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let engines = connect(settings, args.target).await?;
    let engine = &engines[0];
    let Seen { lasts, needed } = look(&engines).await?;
    let mut unused = engine.target.unused().await?;
    unused.retain(|one| !needed.iter().any(|needed| needed.0 == *one));
    let unused = unused.split_off(args.keep.min(unused.len()));
    if !args.dry_run && !unused.is_empty() {
        let mut leases = Leases::take(&engines, lasts).await?;
        let deleted = delete(engine, &unused, &mut leases, printer).await;
        leases.give_back().await;
        deleted?;
    }
    let value = json!({ "deleted": unused, "dry_run": args.dry_run });
    let (name, revision) = (engine.site.deployed(), engine.site.revision());
    printer.result(&value, || {
        let verb = if args.dry_run { "Would delete" } else { "Deleted" };
        match unused.as_slice() {
            [] => {
                format!("Nothing to do: {name} has no more than {} unused {revision}s.", args.keep)
            }
            all => format!("{verb} {} {revision}s of {name}: {}", all.len(), all.join(", ")),
        }
    })
}

async fn delete(
    engine: &Engine,
    revisions: &[String],
    leases: &mut Leases<'_>,
    printer: &Printer,
) -> Result<(), Failure> {
    for revision in revisions {
        leases.renew().await?;
        let _step = printer.step(&format!("Deleting {revision}"));
        engine.target.delete_revision(revision).await?;
    }
    Ok(())
}

pub(crate) async fn destroy(
    settings: &Settings,
    args: Destroy,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let engines = connect(settings, args.target).await?;
    let engine = &engines[0];
    let Seen { lasts, .. } = look(&engines).await?;
    let name = engine.site.deployed();
    if !args.yes {
        let revision = engine.site.revision();
        return Err(Failure::usage(format!(
            "this deletes {name} with all its {revision}s, and requests to it fail from then on"
        ))
        .help("say --yes if that is meant"));
    }
    let leases = Leases::take(&engines, lasts).await?;
    let step = printer.step(&format!("Deleting {name}"));
    let deleted = engine.target.delete_all().await;
    drop(step);
    leases.give_back().await;
    deleted?;
    printer.result(&json!({ "deleted": name }), || {
        format!("Deleted {name}. Journals of its releases stay, and so do zips and images.")
    })
}
