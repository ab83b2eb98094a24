//! `slsml prune` and `slsml destroy`: versions nobody needs any more, and all of it.

use serde_json::json;
use slsml_release::Revision;

use super::deploy::check_undivided;
use super::release;
use crate::args::{Destroy, Prune, ReleaseTarget};
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;

/// Connects to what is deployed, and finds the revisions its last releases may still need, those of
/// every alias. A release that is under way is an error, and so is divided traffic: its journal may
/// lie elsewhere.
async fn connect(
    settings: &Settings,
    target: ReleaseTarget,
) -> Result<(Engine, Vec<Revision>), Failure> {
    let engine = release::connect(settings, target.clone()).await?;
    let mut needed = needed(&engine).await?;
    for alias in engine.target.aliases().await? {
        let target = ReleaseTarget { alias: Some(alias), ..target.clone() };
        needed.extend(self::needed(&release::connect(settings, target).await?).await?);
    }
    Ok((engine, needed))
}

/// Whom the last release released, and whom to go back to.
async fn needed(engine: &Engine) -> Result<Vec<Revision>, Failure> {
    check_undivided(engine).await.map_err(|failure| failure.about(&engine.site.whole()))?;
    let Some(name) = engine.latest().await? else { return Ok(Vec::new()) };
    let state = release::open(engine, &name).await?.state;
    Ok(state.stable.into_iter().chain([state.candidate]).collect())
}

pub(crate) async fn prune(
    settings: &Settings,
    args: Prune,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let (engine, needed) = connect(settings, args.target).await?;
    let mut unused = engine.target.unused().await?;
    unused.retain(|one| !needed.iter().any(|needed| needed.0 == *one));
    let unused = unused.split_off(args.keep.min(unused.len()));
    if !args.dry_run {
        for revision in &unused {
            let _step = printer.step(&format!("Deleting {revision}"));
            engine.target.delete_revision(revision).await?;
        }
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

pub(crate) async fn destroy(
    settings: &Settings,
    args: Destroy,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let (engine, _) = connect(settings, args.target).await?;
    let name = engine.site.deployed();
    if !args.yes {
        let revision = engine.site.revision();
        return Err(Failure::usage(format!(
            "this deletes {name} with all its {revision}s, and requests to it fail from then on"
        ))
        .help("say --yes if that is meant"));
    }
    let step = printer.step(&format!("Deleting {name}"));
    engine.target.delete_all().await?;
    drop(step);
    printer.result(&json!({ "deleted": name }), || {
        format!("Deleted {name}. Journals of its releases stay, and so do zips and images.")
    })
}
