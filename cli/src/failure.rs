//! Exit codes, and errors with what to do about them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use miette::Diagnostic;
use serde::Serialize;
use slsml_cloudrun::CloudRunError;
use slsml_import::ImportError;
use slsml_lambda::LambdaError;
use slsml_local::{HomeError, ServeError};
use slsml_package::{
    ArchiveError, ArtifactError, ExplainError, ImageError, OverBudget, RuntimeError, WriteError,
};
use slsml_release::journal::JournalError;
use slsml_release::lease::LeaseError;
use slsml_release::ports::PortError;
use slsml_release::{DriveError, StrategyError};

/// How `slsml` ends. The table is part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// slsml or this machine failed.
    Internal = 1,
    /// Arguments or settings make no sense.
    Usage = 2,
    /// The model or the artifact was refused.
    Model = 3,
    /// The cloud refused or failed.
    Cloud = 4,
    /// The release was rolled back.
    RolledBack = 5,
    /// The evidence was not enough; the candidate was not promoted.
    Inconclusive = 6,
    /// Somebody else changed the target.
    Moved = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error for people: what failed, on what, and what to type next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Failure {
        Failure { exit, message: message.to_string(), help: None }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// The same, with what it is about at its beginning.
    pub(crate) fn about(mut self, what: &str) -> Failure {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn help(mut self, help: impl fmt::Display) -> Failure {
        self.help = Some(help.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Failure {
        let exit = match error {
            ImportError::NoSuchFile { .. }
            | ImportError::Unreadable { .. }
            | ImportError::UnknownInput { .. }
            | ImportError::UnknownDim { .. }
            | ImportError::Rank { .. }
            | ImportError::Samples { .. }
            | ImportError::Unfit { .. }
            | ImportError::FixedDim { .. } => Exit::Usage,
            _ => Exit::Model,
        };
        Failure { exit, message: error.to_string(), help: error.help() }
    }
}

impl From<CloudRunError> for Failure {
    fn from(error: CloudRunError) -> Failure {
        match error {
            CloudRunError::Repository { .. }
            | CloudRunError::Tag { .. }
            | CloudRunError::Resources { .. } => Failure::usage(error),
            CloudRunError::Layout { .. }
            | CloudRunError::Blob { .. }
            | CloudRunError::Manifest { .. } => {
                Failure::new(Exit::Model, error).help("package the model again")
            }
            CloudRunError::Credentials { .. } => Failure::new(Exit::Cloud, error)
                .help("log in with docker login, or mend the helper in docker's config.json"),
            CloudRunError::Unauthorized { ref registry, .. } => {
                let help = format!(
                    "log in with docker login {registry}, gcloud auth login, or aws configure"
                );
                Failure::new(Exit::Cloud, error).help(help)
            }
            CloudRunError::Registry { .. } => Failure::new(Exit::Cloud, error).help(
                "the same command goes on where this one ended; no tag names an image that is not whole",
            ),
            CloudRunError::NoRepository { ref place, .. } => {
                let help = repository_help(place);
                Failure::new(Exit::Cloud, error).help(help)
            }
            CloudRunError::Scaling { .. } => Failure::usage(error).help(
                "raise the service's own maximum with --service-max-instances, or have it scaled with gcloud run \
                 services update --scaling=auto",
            ),
            CloudRunError::NoProject => Failure::usage(error).help(
                "pass --project ID, set project under [cloudrun], or GOOGLE_CLOUD_PROJECT",
            ),
            CloudRunError::NoRegion => Failure::usage(error)
                .help("pass --region NAME, as europe-west1, or set region under [cloudrun]"),
            CloudRunError::NoCredentials { .. } => Failure::new(Exit::Cloud, error)
                .help("log in with gcloud auth application-default login"),
            CloudRunError::Moved { .. } => {
                Failure::new(Exit::Moved, error).help("look at it with slsml status")
            }
            CloudRunError::Divided { .. } => Failure::new(Exit::Moved, error)
                .help("give all of it to one of them first, with gcloud run services update-traffic"),
            CloudRunError::NoBucket { .. } => Failure::new(Exit::Cloud, error)
                .help("make it: gcloud storage buckets create gs://NAME"),
            CloudRunError::NoService { .. } => {
                Failure::new(Exit::Cloud, error).help("deploy it with slsml deploy cloudrun")
            }
            CloudRunError::NotReady { ref revision, .. } => {
                let help = format!(
                    "its log says more; the traffic is where it was, and the next deploy takes \
                     another name than {revision}"
                );
                Failure::new(Exit::Cloud, error).help(help)
            }
            CloudRunError::ProbeRefused { .. } => Failure::new(Exit::Cloud, error).help(
                "requests of slsml's own need the role roles/run.invoker and an identity token: \
                 log in with gcloud auth login, or make the service public with --public",
            ),
            CloudRunError::Refused { ref code, .. } if code == "SERVICE_DISABLED" => {
                Failure::new(Exit::Cloud, error).help(
                    "enable it: gcloud services enable run.googleapis.com artifactregistry.googleapis.com \
                     monitoring.googleapis.com logging.googleapis.com",
                )
            }
            CloudRunError::Refused { ref code, .. } if code == "BILLING_DISABLED" => {
                Failure::new(Exit::Cloud, error).help("enable billing for the project")
            }
            CloudRunError::Refused { status: 403, ref call, .. } => {
                let help = format!("whoever is logged in lacks a permission for {call}");
                Failure::new(Exit::Cloud, error).help(help)
            }
            CloudRunError::Refused { status: 400, .. } => Failure::new(Exit::Cloud, error)
                .help("change what it names, by its flag or under [cloudrun]"),
            CloudRunError::Refused { status: 409 | 429 | 500 | 502..=504, .. }
            | CloudRunError::Unreachable { .. } => Failure::new(Exit::Cloud, error)
                .help("type it again later: it goes on with what is left"),
            CloudRunError::Refused { .. } => Failure::new(Exit::Cloud, error),
            CloudRunError::Incomplete { .. } => Failure::new(Exit::Cloud, error)
                .help("if a proxy is between this machine and Google, it may have answered instead"),
            CloudRunError::Failed { .. } => Failure::new(Exit::Cloud, error)
                .help("slsml status shows what is there now, slsml logs what containers said"),
            CloudRunError::TooLong { .. } => Failure::new(Exit::Cloud, error)
                .help("it may still come about: type it again, and it goes on with what is left"),
        }
    }
}

/// How to make a repository that is not there: Google's are made once for each project and region.
fn repository_help(place: &str) -> String {
    let mut parts = place.split('/');
    let region = parts.next().and_then(|host| host.strip_suffix("-docker.pkg.dev"));
    match (region, parts.next(), parts.next()) {
        (Some(region), Some(project), Some(name)) => format!(
            "make it once: gcloud artifacts repositories create {name} --repository-format=docker \
             --location={region} --project={project}"
        ),
        _ => "make it there, or push elsewhere with --repository REGISTRY/PATH".into(),
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Failure {
        Failure::usage(error).help(
            "slsml looks for `bootstrap`, for containers `slsml-server` (with --arch arm64 \
             `…-arm64`), beside its own executable; pass --runtime PATH for another",
        )
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        match error {
            WriteError::OverBudget(OverBudget::Lambda { .. }) => Failure::new(Exit::Model, error)
                .help(
                    "a container on Cloud Run can hold it; for Lambda, store the weights with \
                     --precision f16 or take a smaller model",
                ),
            WriteError::OverBudget(_) => Failure::new(Exit::Model, error).help(
                "slsml explain-size shows every part; --precision f16 halves the weights, \
                 --smallest compresses harder, or raise the budget under [package]",
            ),
            WriteError::Archive(ArchiveError::Date(_)) | WriteError::Image(ImageError::Date(_)) => {
                Failure::usage(error).help(
                    "unset SOURCE_DATE_EPOCH, or set it to the seconds since 1970 of a commit",
                )
            }
            _ => Failure::new(Exit::Internal, error)
                .help("check the disk's space and the folder's permissions, or name another place"),
        }
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Failure {
        let help = match error {
            ArtifactError::NotFor { .. } => {
                "package it for that: slsml package MODEL.onnx --target lambda, or --target cloudrun"
            }
            _ => {
                "package the model first: slsml package MODEL.onnx, for Cloud Run with --target cloudrun"
            }
        };
        Failure::new(Exit::Model, error).help(help)
    }
}

impl From<ExplainError> for Failure {
    fn from(error: ExplainError) -> Failure {
        match error {
            ExplainError::Artifact(error) => error.into(),
            ExplainError::Read { .. } => Failure::usage(error)
                .help("name an artifact's folder, a zip or a packaged model (model.slsml)"),
            _ => Failure::new(Exit::Model, error)
                .help("name an artifact's folder, a zip or a packaged model (model.slsml)"),
        }
    }
}

impl From<LambdaError> for Failure {
    fn from(error: LambdaError) -> Failure {
        let exit = match error {
            LambdaError::NoRegion
            | LambdaError::NoRole { .. }
            | LambdaError::NeedsBucket { .. } => Exit::Usage,
            LambdaError::TooLarge { .. } => Exit::Model,
            LambdaError::Moved { .. } => Exit::Moved,
            _ => Exit::Cloud,
        };
        Failure { exit, message: error.to_string(), help: error.help() }
    }
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Failure {
        match error {
            PortError::Moved(what) => {
                Failure::new(Exit::Moved, what).help("look at it with slsml status")
            }
            PortError::Failed(cause) => match cause.downcast::<LambdaError>() {
                Ok(error) => (*error).into(),
                Err(other) => match other.downcast::<CloudRunError>() {
                    Ok(error) => (*error).into(),
                    Err(other) => Failure::new(Exit::Cloud, other),
                },
            },
        }
    }
}

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Failure {
        let message = error.to_string();
        match error {
            DriveError::Port(error) => error.into(),
            DriveError::Lease(error) => error.into(),
            DriveError::Journal(error) => error.into(),
            DriveError::UnderWay { .. } => Failure::new(Exit::Moved, error)
                .help("look at it with slsml release show; go on with slsml release resume, or end it with slsml release promote or abort"),
            DriveError::Already { .. } => Failure::new(Exit::Moved, error)
                .help("somebody else has released it in the meantime: nothing is left to do"),
            DriveError::Divided { .. } => Failure::new(Exit::Moved, error)
                .help("give all of it to one of the two first, with aws lambda update-alias or gcloud run services update-traffic"),
            DriveError::Stuck { cause, .. } | DriveError::NoMetrics(cause) => {
                Failure { exit: Exit::Cloud, message, help: Failure::from(cause).help }
            }
            DriveError::NoStable => {
                Failure::usage(error).help("deploy a first version with --strategy all-at-once")
            }
            DriveError::Unknown { .. } => Failure::usage(error).help(
                "a metric of your own needs the dimensions FunctionName, Resource and Version, and is written custom:Namespace/Name",
            ),
        }
    }
}

impl From<LeaseError> for Failure {
    fn from(error: LeaseError) -> Failure {
        match error {
            LeaseError::Port(error) => error.into(),
            LeaseError::Held { .. } | LeaseError::Lost { .. } => Failure::new(Exit::Moved, error)
                .help("follow it with slsml release watch, or steer it with slsml release pause, promote or abort"),
            LeaseError::Malformed { .. } => Failure::new(Exit::Internal, error),
        }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Failure {
        match error {
            JournalError::Port(error) => error.into(),
            JournalError::Format { .. } => {
                Failure::usage(error).help("use that slsml, or a newer one")
            }
            JournalError::Rewritten(_) => Failure::new(Exit::Moved, error),
            JournalError::Malformed { .. } | JournalError::Missing(_) => {
                Failure::new(Exit::Internal, error)
            }
        }
    }
}

impl From<StrategyError> for Failure {
    fn from(error: StrategyError) -> Failure {
        Failure::usage(error).help("see [release] in slsml.toml, or type it with --help")
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Failure {
        let help = match &error {
            HomeError::Taken { dir, .. } => {
                format!(
                    "stop it with slsml local down --dir {}, or pass another --dir",
                    dir.display()
                )
            }
            HomeError::Io { .. } => "pass a folder that can be written: --dir DIR".into(),
        };
        let exit = match error {
            HomeError::Taken { .. } => Exit::Usage,
            HomeError::Io { .. } => Exit::Internal,
        };
        Failure::new(exit, error).help(help)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        match error {
            ServeError::Home(error) => error.into(),
            ServeError::PortInUse { .. } | ServeError::Listen { .. } => Failure::usage(error)
                .help("pass another port with --port N; --port 0 takes a free one"),
            ServeError::State { .. } => Failure::new(Exit::Internal, error)
                .help("move the folder away to begin anew, or pass another --dir"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new(Exit::Internal, error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::new(Exit::Internal, error)
    }
}

/// What the main thread's last panic said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs a command; a panic is an error like others, with its exit code and its JSON form.
pub(crate) fn guarded(run: impl FnOnce() -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let text = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
        let text = text.unwrap_or_else(|| "no message".into());
        Err(Failure::new(Exit::Internal, format!("slsml panicked: {text}"))
            .help("this is a bug in slsml; please report it with the command you typed"))
    })
}

/// The panic hook. The importer turns tract's panics into errors, and [`guarded`] the others, so
/// the main thread's are only remembered; those of the local Lambda's tasks are told.
#[allow(clippy::print_stderr)]
pub(crate) fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    if std::thread::current().name() == Some("main") {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic.to_string());
    } else {
        eprintln!("a task of slsml panicked; please report this: {panic}");
    }
}
