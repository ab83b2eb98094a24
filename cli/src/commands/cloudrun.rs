//! `slsml deploy cloudrun`: an image that is in its registry, a service as it should be, a ready
//! revision with an address of its own, and its release; and `slsml plan cloudrun`.

use serde_json::json;
use slsml_cloudrun::{
    ANSWERS, Change, CloudRunError, Google, Layout, Progress, Repository, ServiceSpec,
    ServiceTarget, changes, count_answers, counts_answers, ensure,
};
use slsml_package::{Arch, Artifact};
use slsml_release::{Measure, Strategy, Weight, check_metrics};

use super::deploy::{self, Prepared};
use super::push;
use crate::args::DeployCloudrun;
use crate::commands::release::show::Shown;
use crate::engine::{Engine, Journals};
use crate::failure::{Exit, Failure};
use crate::place::CloudrunPlace;
use crate::printer::Printer;
use crate::settings::{Settings, service_of};

/// What Cloud Run takes over HTTP/1.1. <https://cloud.google.com/run/quotas>
const MOST_REQUEST_BYTES: usize = 32 << 20;

/// What `deploy` and `plan` are about to do.
struct Deployment {
    layout: Layout,
    repository: Repository,
    tags: Vec<String>,
    spec: ServiceSpec,
    google: Google,
    local: bool,
    /// Whether the revision is only to be made ready.
    no_traffic: bool,
    prepared: Prepared,
}

pub(crate) async fn run(
    settings: &Settings,
    args: DeployCloudrun,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let deployment = prepare(settings, args).await?;
    let Deployment { layout, repository, tags, spec, google, prepared, .. } = deployment;
    push::bring(&layout, &repository, &tags, None, printer).await?;
    prepared.count_answers(&google, printer).await?;
    let ensured = {
        let mut step = printer.step(&format!("Comparing {} with the artifact", spec.name));
        ensure(&google, &spec, |progress| {
            step = printer.step(&describe(progress, &spec.name));
        })
        .await?
    };
    let target = ServiceTarget::new(&google, &spec.name);
    let addresses = target.addresses(&ensured.revision).await?;
    if let Some(address) = &addresses.revision {
        printer.note(&format!("Revision {} answers at {address}", ensured.revision));
    }
    let shown = Shown {
        version: Some(ensured.revision.clone()),
        settings_changed: ensured.changed,
        asked: None,
        address: addresses.service,
    };
    if deployment.no_traffic {
        let value = json!({
            "service": spec.name,
            "revision": ensured.revision,
            "changed": ensured.changed,
            "outcome": "no_traffic",
            "address": addresses.revision,
        });
        return printer.result(&value, || {
            let (traffic, next) = match prepared.observed.split {
                Some(_) => ("without traffic", "--traffic 10"),
                None => (
                    "and, as the first there is, not released: who may send requests is as it was",
                    "--strategy all-at-once",
                ),
            };
            format!(
                "Revision {} of {} is ready, {traffic}.\n\nNext: the same command with {next} instead of --no-traffic",
                ensured.revision, spec.name,
            )
        });
    }
    if prepared.observed.split.is_none() && spec.public.is_none() && spec.invokers.is_empty() {
        printer.note(
            "Only who has the role roles/run.invoker may send it requests: --public lets everybody in, --invoker \
             MEMBER somebody",
        );
    }
    let forgets = !deployment.local && matches!(prepared.engine.journals, Journals::Folder(_));
    deploy::release(prepared, ensured.revision, &shown, forgets, printer).await
}

pub(crate) async fn plan(
    settings: &Settings,
    args: DeployCloudrun,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let deployment = prepare(settings, args).await?;
    let Deployment { spec, google, prepared, no_traffic, repository, layout, .. } = deployment;
    let (changes, revision) = changes(&google, &spec).await?;
    let steps = match no_traffic {
        true => Vec::new(),
        false => deploy::steps(&prepared, revision.as_ref()),
    };
    let observed = &prepared.observed;
    let uncounted = prepared.lacks_answers(&google).await?;
    let value = json!({
        "service": spec.name,
        "image": spec.image,
        "split": observed.split,
        "changes": changes,
        "counts_answers_anew": uncounted,
        "version": revision,
        "steps": steps,
        "strategy": prepared.strategy,
    });
    printer.result(&value, || {
        let here = observed
            .split
            .as_ref()
            .map_or("has no traffic yet".into(), |split| format!("is at {split}"));
        let first = format!("The service {} {here}.", spec.name);
        let idle = changes.is_empty() && steps.is_empty();
        let image =
            format!("bring {} to {repository}, as far as it is not there", short(layout.digest()));
        let counting = uncounted.then(|| "have the model's answers counted from its log".into());
        let changes = changes.iter().map(|change| would(*change).to_owned());
        let all = std::iter::once(image).chain(counting).chain(changes);
        deploy::plan_text(&first, "slsml deploy cloudrun", idle, all.collect(), &steps)
    })
}

fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

async fn prepare(settings: &Settings, args: DeployCloudrun) -> Result<Deployment, Failure> {
    let no_traffic = args.no_traffic;
    let strategy = settings.cloudrun_strategy(&args.release, args.traffic)?;
    whole_percents(&strategy)?;
    counted(&strategy)?;
    let request = settings.warm_up_request(args.release.request.as_deref());
    let folder = settings.artifact(args.artifact.clone())?;
    let artifact = Artifact::read(&folder)?;
    let image = artifact.for_cloudrun()?;
    if !image.platforms.iter().any(|platform| platform.arch == Arch::X86_64) {
        return Err(Failure::usage("the image is for arm64, and Cloud Run runs x86_64")
            .help("package it with --arch x86_64, or for both with --arch x86_64,arm64"));
    }
    let layout = Layout::open(&folder.join(&image.folder), &image.digest)?;
    let request = deploy::request(request, &artifact, MOST_REQUEST_BYTES)?;
    let service = settings.service(args.place.service.clone());
    let service = service.unwrap_or_else(|| service_of(&artifact.name));
    let place = CloudrunPlace::connect(&args.place, settings)?;
    let repository = settings.repository(args.repository.clone(), &place, &service)?;
    let (repository, tag) = Repository::parse(&repository)?;
    let tags = layout.tags().into_iter().chain(tag).collect();
    let reference = format!("{repository}@{}", image.digest);
    let bucket = settings.journal_bucket(args.bucket.clone());
    let webhook = settings.webhook(args.release.webhook.as_deref())?;
    let (model, project) = (artifact.name.clone(), place.google.project());
    let mut spec = settings.cloudrun_spec(args, service.clone(), model, reference, project)?;
    let mut engine = Engine::of_service(&place, &service, bucket.as_deref())?;
    engine.webhook = webhook;
    deploy::check_strategy(&engine, &strategy)?;
    let observed = match no_traffic {
        true => deploy::check_undivided(&engine).await?,
        false => deploy::check_target(&engine, &strategy).await?,
    };
    check_metrics(&engine.metrics, &strategy).await?;
    if no_traffic && observed.split.is_none() {
        // A first revision has all traffic there is: nobody comes in before it is released.
        spec.public = None;
        spec.invokers.clear();
    }
    let CloudrunPlace { google, local, .. } = place;
    let prepared = Prepared { engine, strategy, observed, request };
    Ok(Deployment { layout, repository, tags, spec, google, local, no_traffic, prepared })
}

impl Prepared {
    fn asks(&self, measure: &Measure) -> bool {
        self.strategy.measures().iter().any(|one| one == measure)
    }

    /// Whether a check needs what the log says of answers, and nothing counts that yet.
    async fn lacks_answers(&self, google: &Google) -> Result<bool, Failure> {
        if !self.asks(&Measure::Outputs) && !self.asks(&Measure::Errors) {
            return Ok(false);
        }
        match counts_answers(google).await {
            Err(CloudRunError::Refused { status: 403, .. }) if !self.asks(&Measure::Outputs) => {
                Ok(true)
            }
            other => Ok(!other?),
        }
    }

    /// Has answers counted that a check needs. Whoever may not create the metric releases without the
    /// failures of gRPC requests, and is told so; a check on outputs has nothing without it.
    async fn count_answers(&self, google: &Google, printer: &Printer) -> Result<(), Failure> {
        if !self.lacks_answers(google).await? {
            return Ok(());
        }
        let _step = printer.step("Having the model's answers counted from its log");
        match count_answers(google).await {
            Err(error @ CloudRunError::Refused { status: 403, .. })
                if !self.asks(&Measure::Outputs) =>
            {
                printer.note(&format!(
                    "Failures of gRPC requests count only if the log-based metric {ANSWERS} is there: \
                     {error}. Whoever has roles/logging.configWriter can create it once."
                ));
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

/// What Cloud Run counts for each revision.
fn counted(strategy: &Strategy) -> Result<(), Failure> {
    let is_counted = |measure: &Measure| {
        matches!(measure, Measure::Errors | Measure::SlowerThan(_) | Measure::Outputs)
    };
    match strategy.measures().into_iter().find(|measure| !is_counted(measure)) {
        None => Ok(()),
        Some(measure) => Err(Failure::usage(format!(
            "Cloud Run does not count {measure} by revision: a check on it would have no evidence"
        ))
        .help("check errors, slower_than_…ms or outputs")),
    }
}

/// Cloud Run divides traffic by whole percents.
fn whole_percents(strategy: &Strategy) -> Result<(), Failure> {
    let weights = strategy.stages.iter().filter_map(|stage| match stage {
        slsml_release::Stage::Watch { weight, .. } => Some(*weight),
        _ => None,
    });
    let odd = weights.into_iter().find(|weight: &Weight| weight.as_percent().fract() != 0.0);
    match odd {
        None => Ok(()),
        Some(odd) => Err(Failure::usage(format!(
            "a step has {odd}, and Cloud Run divides traffic by whole percents"
        ))
        .help("take steps, or an increment, of whole percents")),
    }
}

fn describe(progress: Progress, service: &str) -> String {
    match progress {
        Progress::Creating => format!("Creating the service {service}"),
        Progress::Starting => "Starting a revision".into(),
        Progress::Updating => format!("Updating the settings of {service}"),
        Progress::Access => format!("Setting who may send requests to {service}"),
    }
}

fn would(change: Change) -> &'static str {
    match change {
        Change::Create => "create the service",
        Change::Revision => "start a revision, with an address of its own and no traffic",
        Change::Settings => "update the service's settings",
        Change::Tag => "give the revision an address of its own",
        Change::Access => "change who may send requests",
    }
}
