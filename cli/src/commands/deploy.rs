//! `slsml deploy lambda`: a function as it should be, a published version, and its release.

use serde_json::json;
use slsml_lambda::{AliasTarget, FunctionSpec, Progress, VersionMetrics, ensure};
use slsml_package::Artifact;
use slsml_release::ports::{Observed, SystemClock, Target};
use slsml_release::{DriveError, Ended, Event, Reason, Release, Revision, Strategy, drive};

use crate::args::DeployLambda;
use crate::commands::stopped;
use crate::failure::{Exit, Failure};
use crate::place::Place;
use crate::printer::Printer;
use crate::settings::Settings;

pub(crate) async fn run(
    settings: &Settings,
    args: DeployLambda,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let folder = settings.artifact(args.artifact)?;
    let artifact = Artifact::read(&folder)?;
    let zip = artifact.lambda_zip(&folder)?;
    let alias = settings.alias(args.alias);
    let strategy = settings.strategy(args.release)?;
    let function = settings.function(args.place.function.clone());
    let function = function.unwrap_or_else(|| artifact.name.clone());
    settings.check_lambda(&function, &alias)?;
    let place = Place::connect(&args.place, settings).await?;
    let lambda = &settings.lambda;
    let spec = FunctionSpec {
        name: function,
        role: place.role(args.role, settings),
        memory_mb: args.memory_mb.or(lambda.memory_mb).unwrap_or(1769),
        timeout_s: args.timeout_s.or(lambda.timeout_s).unwrap_or(30),
        environment: lambda.environment.clone().into_iter().collect(),
        reserved_concurrency: args.reserved_concurrency.or(lambda.reserved_concurrency),
        bucket: args.bucket.or_else(|| lambda.bucket.clone()),
    };
    let target = AliasTarget::new(&place.clients, &spec.name, &alias);
    check_target(&target, &strategy, &spec.name, &alias).await?;
    let ensured = {
        let mut step = printer.step(&format!("Comparing {} with the artifact", spec.name));
        ensure(&place.clients, &spec, &artifact, &zip, |progress| {
            step = printer.step(&describe(&progress, &spec.name));
        })
        .await?
    };
    let metrics = VersionMetrics::new(&place.clients, &spec.name, &alias, place.metrics_period());
    let release = Release { candidate: ensured.version.clone(), strategy };
    let tell = |event| show(&event, &release.strategy, printer);
    let ended = tokio::select! {
        ended = drive(&release, &target, &metrics, &SystemClock, tell) => ended?,
        () = stopped() => return Err(interrupted(&target).await),
    };
    let done = Done {
        place: if place.local { " --local" } else { "" },
        function: &spec.name,
        alias: &alias,
        version: &ensured.version,
        changed: ensured.changed,
    };
    done.tell(&ended, printer)
}

/// What would stop the release later stops it before anything is written.
async fn check_target(
    target: &AliasTarget,
    strategy: &Strategy,
    function: &str,
    alias: &str,
) -> Result<(), Failure> {
    match target.observe().await?.split {
        None if strategy.needs_stable() => Err(Failure::usage(format!(
            "the alias {alias} of {function} does not exist yet, and a canary needs a stable version"
        ))
        .help(format!("deploy a first version with slsml deploy lambda --alias {alias} --strategy all-at-once"))),
        Some(split) if split.candidate.is_some() => Err(DriveError::UnderWay { split }.into()),
        _ => Ok(()),
    }
}

/// The traffic stays where it is: whether to go on is for whoever stopped this to say.
async fn interrupted(target: &AliasTarget) -> Failure {
    let stays = match target.observe().await {
        Ok(Observed { split: Some(split), .. }) => format!("the traffic stays at {split}"),
        Ok(_) => "there is no alias yet".into(),
        Err(error) => format!("the alias cannot be read: {error}"),
    };
    Failure::new(Exit::Internal, format!("interrupted; {stays}"))
        .help("nobody watches it now: end it with slsml release abort, or slsml release promote")
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

fn show(event: &Event, strategy: &Strategy, printer: &Printer) {
    match event {
        Event::Moving { .. } => {}
        Event::LookFailed { cause } => printer.note(&format!("  no evidence this time: {cause}")),
        Event::Moved { split } => printer.note(&format!("Traffic: {split}")),
        Event::Looked { evidence, left, held } => {
            let (stable, candidate) = (evidence.stable, evidence.candidate);
            let needed = strategy.checks.iter().map(|check| check.min_requests).max().unwrap_or(0);
            let waiting = match held {
                true => format!("waiting for {needed} requests, at most"),
                false => "next step in".into(),
            };
            printer.note(&format!(
                "  candidate {} of {} failed, stable {} of {}; {waiting} {} s",
                candidate.errors,
                candidate.requests,
                stable.errors,
                stable.requests,
                left.as_secs_f64().ceil(),
            ));
        }
    }
}

struct Done<'a> {
    /// The flag that leads to the same place.
    place: &'static str,
    function: &'a str,
    alias: &'a str,
    version: &'a Revision,
    changed: bool,
}

impl Done<'_> {
    fn tell(&self, ended: &Ended, printer: &Printer) -> Result<Exit, Failure> {
        let Done { place, function, alias, version, changed } = *self;
        let (outcome, reason) = match ended {
            Ended::Unchanged => ("unchanged", None),
            Ended::Promoted => ("promoted", None),
            Ended::RolledBack(reason @ Reason::CheckFailed { .. }) => ("rolled_back", Some(reason)),
            Ended::RolledBack(reason @ Reason::Inconclusive { .. }) => {
                ("inconclusive", Some(reason))
            }
        };
        let value = json!({
            "function": function,
            "alias": alias,
            "version": version,
            "changed": changed || *ended != Ended::Unchanged,
            "outcome": outcome,
            "reason": reason,
        });
        printer.result(&value, || match ended {
            Ended::Unchanged if changed => {
                format!("Changed the settings of {function}; {alias} stays at version {version}.")
            }
            Ended::Unchanged => {
                format!("Nothing to do: {alias} of {function} is at version {version}.")
            }
            Ended::Promoted => format!(
                "Released: {alias} of {function} is at version {version}.\n\n\
                 Next: slsml invoke{place} --alias {alias} --function {function} --body request.json"
            ),
            Ended::RolledBack(reason) => {
                format!("Rolled back version {version}: {}", explain(reason))
            }
        })?;
        Ok(match ended {
            Ended::Unchanged | Ended::Promoted => Exit::Done,
            Ended::RolledBack(Reason::CheckFailed { .. }) => Exit::RolledBack,
            Ended::RolledBack(Reason::Inconclusive { .. }) => Exit::Inconclusive,
        })
    }
}

fn explain(reason: &Reason) -> String {
    let (Reason::CheckFailed { check, evidence } | Reason::Inconclusive { check, evidence }) =
        reason;
    let slsml_release::Limit::ErrorRate(limit) = check.limit;
    let seen = evidence.candidate;
    match reason {
        Reason::CheckFailed { .. } => format!(
            "{} of {} requests failed ({:.1} %), the limit is {:.1} %.",
            seen.errors,
            seen.requests,
            100.0 * seen.error_rate(),
            100.0 * limit,
        ),
        Reason::Inconclusive { .. } => format!(
            "{} requests are too few to judge it, {} are needed. Nothing was promoted.",
            seen.requests, check.min_requests,
        ),
    }
}
