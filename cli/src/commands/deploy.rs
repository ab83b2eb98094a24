//! `slsml deploy lambda`: a function as it should be, a published version, and its release; and
//! `slsml plan lambda`, which says what that would be.

use std::path::PathBuf;

use serde_json::json;
use slsml_inference::{InferRequest, Limits};
use slsml_lambda::{Change, FunctionSpec, Progress, changes, ensure};
use slsml_package::Artifact;
use slsml_release::journal::{Began, FORMAT};
use slsml_release::ports::{Clock, Metrics, Observed, SystemClock, Target};
use slsml_release::{
    Counts, DriveError, Planned, Release, Revision, Split, State, Strategy, begin, check_metrics,
    idle, unfold,
};

use crate::args::DeployLambda;
use crate::commands::release::show::{Shown, Teller, run_to_end, under_way};
use crate::engine::{Engine, new_name};
use crate::failure::{Exit, Failure};
use crate::place::Place;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::site::Site;
use crate::story;

/// The largest request that Lambda takes.
const MOST_REQUEST_BYTES: usize = 6 << 20;

/// What `deploy` and `plan` are about to do.
struct Deployment {
    artifact: Artifact,
    zip: Vec<u8>,
    spec: FunctionSpec,
    place: Place,
    prepared: Prepared,
}

/// A release that may begin.
pub(super) struct Prepared {
    pub(super) engine: Engine,
    pub(super) strategy: Strategy,
    pub(super) observed: Observed,
    pub(super) request: Vec<u8>,
}

pub(crate) async fn run(
    settings: &Settings,
    args: DeployLambda,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let deployment = prepare(settings, args).await?;
    let Deployment { artifact, zip, spec, place, prepared } = deployment;
    let ensured = {
        let mut step = printer.step(&format!("Comparing {} with the artifact", spec.name));
        ensure(&place.clients, &spec, &artifact, &zip, |progress| {
            step = printer.step(&describe(&progress, &spec.name));
        })
        .await?
    };
    let shown = Shown {
        version: Some(ensured.version.clone()),
        settings_changed: ensured.changed,
        ..Shown::default()
    };
    let forgets = !place.local && spec.bucket.is_none();
    release(prepared, ensured.version, &shown, forgets, printer).await
}

/// Releases a revision that is ready. `forgets` says that only this machine knows of it then.
pub(super) async fn release(
    prepared: Prepared,
    revision: Revision,
    shown: &Shown,
    forgets: bool,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let Prepared { mut engine, strategy, request, .. } = prepared;
    // Others may have released it while it was made ready.
    let observed = engine.target.observe().await?;
    if has_all(&observed, &revision) {
        return shown.unchanged(&engine, &revision, printer);
    }
    let release = Release {
        name: new_name(&engine.holder),
        target: engine.name.clone(),
        candidate: revision,
        strategy,
        slsml: env!("CARGO_PKG_VERSION").into(),
    };
    if forgets {
        printer.note(match engine.site {
            Site::Alias { .. } => {
                "The release's journal lies on this machine: with --bucket NAME, or bucket under \
                 [lambda], others could go on with it"
            }
            Site::Service { .. } => {
                "The release's journal lies on this machine: with --bucket NAME, or bucket under \
                 [cloudrun], others could go on with it"
            }
        });
    }
    engine.keep_request(&release.name, &request).await?;
    engine.target = engine.target.with_request(request);
    let world = engine.world();
    let mut teller = Teller::new(printer, engine.webhook.as_ref());
    let work = begin(&world, &release, |event| teller.tell(event));
    run_to_end(&engine, shown, printer, work).await
}

pub(crate) async fn plan(
    settings: &Settings,
    args: DeployLambda,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let deployment = prepare(settings, args).await?;
    let Deployment { artifact, spec, place, prepared, .. } = deployment;
    let (changes, version) = changes(&place.clients, &spec, &artifact).await?;
    let steps = steps(&prepared, version.as_ref());
    let Prepared { engine, strategy, observed, .. } = &prepared;
    let value = engine.site.with(json!({
        "split": observed.split,
        "changes": changes,
        "version": version,
        "steps": steps,
        "strategy": strategy,
    }));
    printer.result(&value, || {
        let here = observed
            .split
            .as_ref()
            .map_or("does not exist yet".into(), |split| format!("is at {split}"));
        let first = format!("The alias {} {here}.", engine.site);
        let idle = changes.is_empty() && steps.is_empty();
        let changes = changes.iter().map(|change| would(*change).to_owned()).collect();
        plan_text(&first, engine.site.deploy(), idle, changes, &steps)
    })
}

fn has_all(observed: &Observed, revision: &Revision) -> bool {
    observed.split == Some(Split::all_to(revision.clone()))
}

/// What a release would do; nothing if the revision has all traffic.
pub(super) fn steps(prepared: &Prepared, revision: Option<&Revision>) -> Vec<Planned> {
    let Prepared { engine, strategy, observed, .. } = prepared;
    if revision.is_some_and(|revision| has_all(observed, revision)) {
        return Vec::new();
    }
    let new = || Revision(format!("the new {}", engine.site.revision()));
    let now = SystemClock.now();
    let began = Began {
        format: FORMAT,
        slsml: env!("CARGO_PKG_VERSION").into(),
        release: String::new(),
        target: engine.name.clone(),
        observed: observed.clone(),
        before: Counts::default(),
        candidate: revision.cloned().unwrap_or_else(new),
        strategy: strategy.clone(),
        settle: engine.metrics.delay(),
    };
    unfold(strategy, &State::begin(&began, &engine.holder.by, now), now)
}

/// A plan for people.
pub(super) fn plan_text(
    first: &str,
    command: &str,
    idle: bool,
    changes: Vec<String>,
    steps: &[Planned],
) -> String {
    let mut lines = vec![first.to_owned()];
    if idle {
        lines.push("Nothing to do.".into());
        return lines.join("\n");
    }
    lines.push(format!("{command} would"));
    lines.extend(changes.into_iter().map(|change| format!("- {change}")));
    lines.extend(story::plan(steps).into_iter().map(|line| match line.strip_prefix("  ") {
        Some(line) => format!("    {line}"),
        None => format!("- {line}"),
    }));
    lines.join("\n")
}

async fn prepare(settings: &Settings, args: DeployLambda) -> Result<Deployment, Failure> {
    let strategy = settings.strategy(&args.release)?;
    let request = settings.warm_up_request(args.release.request.as_deref());
    let folder = settings.artifact(args.artifact)?;
    let artifact = Artifact::read(&folder)?;
    let zip = artifact.lambda_zip(&folder)?;
    let request = self::request(request, &artifact, MOST_REQUEST_BYTES)?;
    let alias = settings.alias(args.alias);
    let function = settings.function(args.place.function.clone());
    let function = function.unwrap_or_else(|| artifact.name.clone());
    settings.check_lambda(&function, &alias)?;
    let place = Place::connect(&args.place, settings).await?;
    let lambda = &settings.lambda;
    let bucket = settings.bucket(args.bucket);
    let mut engine = Engine::of_alias(&place, &function, &alias, bucket.as_deref())?;
    engine.webhook = settings.webhook(args.release.webhook.as_deref())?;
    let spec = FunctionSpec {
        name: function,
        role: place.role(args.role, settings),
        memory_mb: args.memory_mb.or(lambda.memory_mb).unwrap_or(1769),
        timeout_s: args.timeout_s.or(lambda.timeout_s).unwrap_or(30),
        environment: lambda.environment.clone().into_iter().collect(),
        reserved_concurrency: args.reserved_concurrency.or(lambda.reserved_concurrency),
        bucket,
    };
    check_strategy(&engine, &strategy)?;
    let observed = check_target(&engine, &strategy).await?;
    check_metrics(&engine.metrics, &strategy).await?;
    let prepared = Prepared { engine, strategy, observed, request };
    Ok(Deployment { artifact, zip, spec, place, prepared })
}

/// What a candidate is asked before it gets traffic: a file, or zeros, if they are no more bytes than are
/// taken.
pub(super) fn request(
    path: Option<PathBuf>,
    artifact: &Artifact,
    most: usize,
) -> Result<Vec<u8>, Failure> {
    match path {
        Some(path) => {
            let unusable = |why: String| Failure::usage(format!("{}: {why}", path.display()));
            let request = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
            let (signature, limits) = (&artifact.model.signature, Limits::default());
            InferRequest::parse(&request, signature, &limits).map_err(|error| {
                unusable(error.to_string())
                    .help("give a JSON file with an infer request for this model")
            })?;
            Ok(request)
        }
        None => zeros(artifact, most),
    }
}

/// Zeros that fit the model, as an infer request.
fn zeros(artifact: &Artifact, most: usize) -> Result<Vec<u8>, Failure> {
    let signature = &artifact.model.signature;
    let inputs = signature.zeros(most / 2).map(|tensors| {
        let input = |(spec, tensor): (&slsml_model::TensorSpec, slsml_model::Tensor)| {
            let zero = match tensor.datatype() {
                slsml_model::Datatype::Bool => json!(false),
                slsml_model::Datatype::Bytes => json!(""),
                _ => json!(0),
            };
            json!({
                "name": spec.name,
                "shape": tensor.shape(),
                "datatype": tensor.datatype().to_string(),
                "data": vec![zero; tensor.data().len()],
            })
        };
        signature.inputs.iter().zip(tensors).map(input).collect::<Vec<_>>()
    });
    let request = json!({ "inputs": inputs }).to_string().into_bytes();
    if inputs.is_none() || request.len() > most {
        return Err(Failure::usage(format!(
            "a request of zeros for this model is larger than the {} MiB that are taken",
            most >> 20
        ))
        .help("name a smaller one with --request FILE, or take --warm-up 0"));
    }
    Ok(request)
}

pub(super) fn check_strategy(engine: &Engine, strategy: &Strategy) -> Result<(), Failure> {
    strategy.validate_delay(engine.metrics.delay())?;
    Ok(())
}

/// What would stop the release later stops it before anything is written.
pub(super) async fn check_target(
    engine: &Engine,
    strategy: &Strategy,
) -> Result<Observed, Failure> {
    let site = &engine.site;
    let observed = check_undivided(engine).await?;
    match &observed.split {
        None if strategy.needs_stable() => Err(Failure::usage(format!(
            "nothing was released behind {} yet, and a {} needs a stable {}",
            site.whole(),
            strategy.name,
            site.revision()
        ))
        .help(match site {
            Site::Alias { alias, .. } => format!(
                "deploy a first version with slsml deploy lambda --alias {alias} --strategy all-at-once"
            ),
            Site::Service { .. } => {
                "deploy a first revision with slsml deploy cloudrun --strategy all-at-once".into()
            }
        })),
        _ => Ok(observed),
    }
}

/// That nobody is being released there.
pub(super) async fn check_undivided(engine: &Engine) -> Result<Observed, Failure> {
    let last = idle(&engine.world(), &engine.name).await;
    last.map_err(|error| under_way(engine, error))?;
    let observed = engine.target.observe().await?;
    match &observed.split {
        Some(split) if split.candidate.is_some() => {
            Err(DriveError::Divided { split: split.clone() }.into())
        }
        _ => Ok(observed),
    }
}

fn describe(progress: &Progress, function: &str) -> String {
    match progress {
        Progress::Uploading => "Uploading the zip".into(),
        Progress::Creating => format!("Creating the function {function}"),
        Progress::UpdatingCode => format!("Updating the code of {function}"),
        Progress::UpdatingConfiguration => format!("Updating the settings of {function}"),
        Progress::Reserving => format!("Reserving concurrency for {function}"),
        Progress::Publishing => "Publishing a version".into(),
    }
}

fn would(change: Change) -> &'static str {
    match change {
        Change::Create => "create the function",
        Change::Code => "update its code",
        Change::Settings => "update its settings",
        Change::Publish => "publish a version",
        Change::Reserve => "change its reserved concurrency",
    }
}
