//! `slsml deploy lambda`: a function as it should be, a published version, and its release; and
//! `slsml plan lambda`, which says what that would be.

use serde_json::json;
use slsml_lambda::{Change, FunctionSpec, Progress, changes, ensure};
use slsml_package::Artifact;
use slsml_release::journal::{Began, FORMAT};
use slsml_release::ports::{Clock, Metrics, Observed, SystemClock, Target};
use slsml_release::{
    Counts, DriveError, Release, Revision, Split, State, Strategy, begin, check_metrics, idle,
    unfold,
};

use crate::args::DeployLambda;
use crate::commands::release::show::{Shown, Teller, run_to_end};
use crate::engine::{Engine, new_name};
use crate::failure::{Exit, Failure};
use crate::place::Place;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::story;

/// The largest request that is kept for whoever goes on with a release.
const MOST_REQUEST_BYTES: usize = 6 << 20;

/// What `deploy` and `plan` are about to do.
struct Deployment {
    artifact: Artifact,
    zip: Vec<u8>,
    spec: FunctionSpec,
    strategy: Strategy,
    request: Vec<u8>,
    place: Place,
    engine: Engine,
    observed: Observed,
}

pub(crate) async fn run(
    settings: &Settings,
    args: DeployLambda,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let deployment = prepare(settings, args).await?;
    let Deployment { artifact, zip, spec, strategy, request, place, engine, .. } = deployment;
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
        asked: None,
    };
    // Others may have released it while it was made ready.
    let observed = engine.target.observe().await?;
    if observed.split == Some(Split::all_to(ensured.version.clone())) {
        return shown.unchanged(&engine, &ensured.version, printer);
    }
    let release = Release {
        name: new_name(&engine.holder),
        target: engine.name.clone(),
        candidate: ensured.version.clone(),
        strategy,
        slsml: env!("CARGO_PKG_VERSION").into(),
    };
    if !place.local && spec.bucket.is_none() {
        printer.note(
            "The release's journal lies on this machine: with --bucket NAME, or bucket under [lambda], \
             others could go on with it",
        );
    }
    engine.keep_request(&release.name, &request).await?;
    let mut engine = engine;
    engine.target = engine.target.with_request(request);
    let world = engine.world();
    let mut teller = Teller::new(printer, engine.webhook.as_ref());
    let work = begin(&world, &release, |event| teller.tell(event));
    run_to_end(&engine, &shown, printer, work).await
}

pub(crate) async fn plan(
    settings: &Settings,
    args: DeployLambda,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let deployment = prepare(settings, args).await?;
    let Deployment { artifact, spec, strategy, place, engine, observed, .. } = deployment;
    let (changes, version) = changes(&place.clients, &spec, &artifact).await?;
    let candidate = version.clone().unwrap_or_else(|| Revision("the new version".into()));
    let released = version.is_some() && observed.split == version.clone().map(Split::all_to);
    let now = SystemClock.now();
    let began = Began {
        format: FORMAT,
        slsml: env!("CARGO_PKG_VERSION").into(),
        release: String::new(),
        target: engine.name.clone(),
        observed: observed.clone(),
        before: Counts::default(),
        candidate,
        strategy,
        settle: engine.metrics.delay(),
    };
    let steps = match released {
        true => Vec::new(),
        false => unfold(&began.strategy, &State::begin(&began, &engine.holder.by, now), now),
    };
    let value = json!({
        "function": engine.function,
        "alias": engine.alias,
        "split": observed.split,
        "changes": changes,
        "version": version,
        "steps": steps,
        "strategy": began.strategy,
    });
    printer.result(&value, || {
        let here = observed
            .split
            .as_ref()
            .map_or("does not exist yet".into(), |split| format!("is at {split}"));
        let mut lines = vec![format!("The alias {} of {} {here}.", engine.alias, engine.function)];
        if changes.is_empty() && steps.is_empty() {
            lines.push("Nothing to do.".into());
        } else {
            lines.push("slsml deploy lambda would".into());
        }
        lines.extend(changes.iter().map(|change| format!("- {}", would(*change))));
        lines.extend(story::plan(&steps).into_iter().map(|line| match line.strip_prefix("  ") {
            Some(line) => format!("    {line}"),
            None => format!("- {line}"),
        }));
        lines.join("\n")
    })
}

async fn prepare(settings: &Settings, args: DeployLambda) -> Result<Deployment, Failure> {
    let strategy = settings.strategy(&args.release)?;
    let request = settings.warm_up_request(args.release.request.as_deref());
    let folder = settings.artifact(args.artifact)?;
    let artifact = Artifact::read(&folder)?;
    let zip = artifact.lambda_zip(&folder)?;
    let request = match request {
        Some(path) => std::fs::read(&path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?,
        None => zeros(&artifact)?,
    };
    let alias = settings.alias(args.alias);
    let function = settings.function(args.place.function.clone());
    let function = function.unwrap_or_else(|| artifact.name.clone());
    settings.check_lambda(&function, &alias)?;
    let place = Place::connect(&args.place, settings).await?;
    let lambda = &settings.lambda;
    let bucket = settings.bucket(args.bucket);
    let mut engine = Engine::new(&place, &function, &alias, bucket.as_deref())?;
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
    Ok(Deployment { artifact, zip, spec, strategy, request, place, engine, observed })
}

/// Zeros that fit the model, as an infer request.
fn zeros(artifact: &Artifact) -> Result<Vec<u8>, Failure> {
    let signature = &artifact.model.signature;
    let inputs = signature.zeros(MOST_REQUEST_BYTES / 4).map(|tensors| {
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
    if inputs.is_none() || request.len() > MOST_REQUEST_BYTES {
        return Err(Failure::usage(
            "a request of zeros for this model is larger than Lambda takes",
        )
        .help("name a smaller one with --request FILE, or take --warm-up 0"));
    }
    Ok(request)
}

fn check_strategy(engine: &Engine, strategy: &Strategy) -> Result<(), Failure> {
    strategy.validate_delay(engine.metrics.delay())?;
    Ok(())
}

/// What would stop the release later stops it before anything is written.
async fn check_target(engine: &Engine, strategy: &Strategy) -> Result<Observed, Failure> {
    let (function, alias) = (&engine.function, &engine.alias);
    idle(&engine.world(), &engine.name).await?;
    let observed = engine.target.observe().await?;
    match &observed.split {
        None if strategy.needs_stable() => Err(Failure::usage(format!(
            "the alias {alias} of {function} does not exist yet, and a {} needs a stable version",
            strategy.name
        ))
        .help(format!(
            "deploy a first version with slsml deploy lambda --alias {alias} --strategy all-at-once"
        ))),
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
