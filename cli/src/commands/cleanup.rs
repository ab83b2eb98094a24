//! `slsml prune` and `slsml destroy`: versions nobody needs any more, and all of it.

use serde_json::json;
use slsml_release::{Revision, idle};

use super::release;
use crate::args::{Destroy, Prune, ReleaseTarget};
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;

/// Connects to what is deployed, and finds the revisions its last release may still need: whom it
/// released, and whom to go back to. A release that is under way there is an error.
async fn connect(
    settings: &Settings,
    target: ReleaseTarget,
) -> Result<(Engine, Vec<Revision>), Failure> {
    let engine = release::connect(settings, target).await?;
    let last = idle(&engine.world(), &engine.name).await?;
    let needed = match last.and_then(|last| last.release) {
        None => Vec::new(),
        Some(name) => {
            let state = release::open(&engine, &name).await?.state;
            state.stable.into_iter().chain([state.candidate]).collect()
        }
    };
    Ok((engine, needed))
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
