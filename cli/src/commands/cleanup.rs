//! `slsml prune` and `slsml destroy`: versions nobody needs any more, and all of it.

use serde_json::json;
use slsml_release::{Revision, idle};

use super::release;
use crate::args::{Destroy, Prune, ReleaseTarget};
use crate::commands::invoke::function;
use crate::failure::{Exit, Failure};
use crate::place::{CloudrunPlace, Place};
use crate::printer::Printer;
use crate::settings::Settings;

/// What is deployed.
enum Deployed {
    Function(Place, String),
    Service(CloudrunPlace, String),
}

impl Deployed {
    /// Finds it, and the revisions its last release may still need: whom it released, and whom to go back
    /// to. A release that is under way there is an error.
    async fn connect(
        settings: &Settings,
        target: ReleaseTarget,
    ) -> Result<(Deployed, Vec<Revision>), Failure> {
        let deployed = match release::service(settings, &target)? {
            Some((place, service)) => {
                Self::Service(CloudrunPlace::connect(&place, settings)?, service)
            }
            None => {
                let function = function(settings, target.place.function.clone())?;
                Self::Function(Place::connect(&target.place, settings).await?, function)
            }
        };
        let engine = release::connect(settings, target).await?;
        let last = idle(&engine.world(), &engine.name).await?;
        let needed = match last.and_then(|last| last.release) {
            None => Vec::new(),
            Some(name) => {
                let log = release::open(&engine, &name).await?;
                let stable = log.state.stable.clone();
                stable.into_iter().chain([log.state.candidate.clone()]).collect()
            }
        };
        Ok((deployed, needed))
    }

    fn name(&self) -> String {
        match self {
            Self::Function(_, function) => format!("the function {function}"),
            Self::Service(_, service) => format!("the service {service}"),
        }
    }

    /// What its revisions are called.
    fn revisions(&self) -> &'static str {
        match self {
            Self::Function(..) => "versions",
            Self::Service(..) => "revisions",
        }
    }

    /// The newest first.
    async fn unused(&self) -> Result<Vec<String>, Failure> {
        Ok(match self {
            Self::Function(place, function) => {
                slsml_lambda::unused(&place.clients, function).await?
            }
            Self::Service(place, service) => slsml_cloudrun::unused(&place.google, service).await?,
        })
    }

    async fn delete_one(&self, revision: &str) -> Result<(), Failure> {
        match self {
            Self::Function(place, function) => {
                slsml_lambda::delete_version(&place.clients, function, revision).await?;
            }
            Self::Service(place, service) => {
                slsml_cloudrun::delete_revision(&place.google, service, revision).await?;
            }
        }
        Ok(())
    }

    async fn delete_all(&self) -> Result<(), Failure> {
        match self {
            Self::Function(place, function) => {
                slsml_lambda::delete_function(&place.clients, function).await?;
            }
            Self::Service(place, service) => {
                slsml_cloudrun::delete_service(&place.google, service).await?;
            }
        }
        Ok(())
    }
}

pub(crate) async fn prune(
    settings: &Settings,
    args: Prune,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let (deployed, needed) = Deployed::connect(settings, args.target).await?;
    let (name, revisions) = (deployed.name(), deployed.revisions());
    let mut unused = deployed.unused().await?;
    unused.retain(|one| !needed.iter().any(|needed| needed.0 == *one));
    let unused = unused.split_off(args.keep.min(unused.len()));
    if !args.dry_run {
        for revision in &unused {
            let _step = printer.step(&format!("Deleting {revision}"));
            deployed.delete_one(revision).await?;
        }
    }
    let value = json!({ "deleted": unused, "dry_run": args.dry_run });
    printer.result(&value, || {
        let verb = if args.dry_run { "Would delete" } else { "Deleted" };
        match unused.as_slice() {
            [] => {
                format!("Nothing to do: {name} has no more than {} unused {revisions}.", args.keep)
            }
            all => format!("{verb} {} {revisions} of {name}: {}", all.len(), all.join(", ")),
        }
    })
}

pub(crate) async fn destroy(
    settings: &Settings,
    args: Destroy,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let (deployed, _) = Deployed::connect(settings, args.target).await?;
    let (name, revisions) = (deployed.name(), deployed.revisions());
    if !args.yes {
        return Err(Failure::usage(format!(
            "this deletes {name} with all its {revisions}, and requests to it fail from then on"
        ))
        .help("say --yes if that is meant"));
    }
    let step = printer.step(&format!("Deleting {name}"));
    deployed.delete_all().await?;
    drop(step);
    printer.result(&json!({ "deleted": name }), || {
        format!("Deleted {name}. Journals of its releases stay, and so do zips and images.")
    })
}
