//! The syntax of the command line. What it means is decided in [`crate::settings`].

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand};
use slsml_import::{DimOverride, ShapeOverride};

use crate::settings::{EgressName, IngressName};

const EXIT_CODES: &str = "Exit codes: 0 done · 1 internal · 2 usage or settings · 3 the model or artifact was refused · \
4 the cloud refused or failed · 5 the release was rolled back · 6 inconclusive, not promoted · 7 someone else changed the target";

/// Packages an ONNX model and releases it to AWS Lambda or Google Cloud Run
#[derive(Debug, Parser)]
#[command(name = "slsml", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Print one JSON document on standard output and nothing else
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// The settings file [default: slsml.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a Lambda zip or a container image from an ONNX model
    Package(Package),
    /// Show what a model takes and gives, what it costs to load, and whether it can be packaged
    Inspect(Inspect),
    /// Show where the bytes of an artifact are
    ExplainSize(ExplainSize),
    /// Bring a container image to a registry
    Push(Push),
    /// Release an artifact behind an alias of a function, or as a revision of a service
    #[command(subcommand)]
    Deploy(Deploy),
    /// Show what deploying would do, step by step, and change nothing
    #[command(subcommand)]
    Plan(Plan),
    /// Send one request to a deployed model
    Invoke(Invoke),
    /// Show what is deployed
    Status(Status),
    /// Look at releases, and steer one that is under way
    #[command(subcommand)]
    Release(Release),
    /// Show every release of an alias and what became of it
    History(ReleaseTarget),
    /// Show what the model's processes printed
    Logs(Logs),
    /// Delete versions or revisions that have neither traffic nor a name
    Prune(Prune),
    /// Delete a function or a service with everything in it
    Destroy(Destroy),
    /// Run a Lambda, a Cloud Run and what they need on this machine
    #[command(subcommand)]
    Local(Local),
    /// Print the JSON Schema of slsml.toml
    Schema,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Package {
    /// The ONNX file [default: path under [model] in slsml.toml]
    pub(crate) model: Option<PathBuf>,
    /// The model's name [default: the file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Fix an input's shape: NAME=1x3x224x224; ? keeps a dimension
    #[arg(long = "shape", value_name = "NAME=DxD")]
    pub(crate) shapes: Vec<ShapeOverride>,
    /// Fix a named dimension: NAME=1
    #[arg(long = "dim", value_name = "NAME=D")]
    pub(crate) dims: Vec<DimOverride>,
    /// Where artifacts go, a folder for each model [default: dist]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Where it is to run: lambda (a zip), or cloudrun (a container image) [default: lambda]
    #[arg(long, value_enum)]
    pub(crate) target: Option<TargetName>,
    /// cloudrun: a file of the image for `docker load`, beside the OCI layout
    #[arg(long, value_name = "FILE")]
    pub(crate) docker_archive: Option<PathBuf>,
    /// cloudrun: a folder `docker` with a Dockerfile that makes the same image, and what it copies
    #[arg(long, value_enum)]
    pub(crate) emit: Option<Emit>,
    /// cloudrun: the repository the model comes from, for the image's annotations
    #[arg(long, value_name = "URL")]
    pub(crate) source: Option<String>,
    /// cloudrun: the commit it comes from
    #[arg(long, value_name = "COMMIT")]
    pub(crate) revision: Option<String>,
    /// cloudrun: the model's version, as 1.4.0; with the commit a tag of the image
    #[arg(long, value_name = "VERSION")]
    pub(crate) image_version: Option<String>,
    /// The processor it runs on; cloudrun: `x86_64,arm64` makes an image for both [default: x86_64]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) arch: Vec<ArchName>,
    /// The runtime to package; for both processors name two [default: the one for the processor beside
    /// slsml itself]
    #[arg(long = "runtime", value_name = "FILE")]
    pub(crate) runtimes: Vec<PathBuf>,
    /// How weights are stored: full, or f16 for half the size [default: full]
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionName>,
    /// Infer requests on which the packaged model must answer as the original does: a JSON file
    /// with one, an array of them, or one a line [default: made up from the inputs]
    #[arg(long, value_name = "FILE")]
    pub(crate) samples: Option<PathBuf>,
    /// How far its answers may be off, relative to the larger value, absolute below 1
    /// [default: 1e-4, with f16 2e-2]
    #[arg(long, value_name = "DIFFERENCE", allow_negative_numbers = true)]
    pub(crate) tolerance: Option<f64>,
    /// The output whose answers are counted as metrics, for checks on `outputs`; `none` for none
    /// [default: labels, probabilities of classes, or a score, if there is one]
    #[arg(long, value_name = "OUTPUT")]
    pub(crate) count_output: Option<String>,
    /// The range of a score that is counted [default: 0:1]
    #[arg(long, value_name = "LOW:HIGH", allow_hyphen_values = true)]
    pub(crate) count_range: Option<String>,
    /// Compress with zopfli: a few percent smaller, a minute slower
    #[arg(long)]
    pub(crate) smallest: bool,
    /// lambda: refuse a larger zip
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_zip_bytes: Option<u64>,
    /// lambda: refuse a larger function, unpacked
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_unzipped_bytes: Option<u64>,
    /// cloudrun: refuse a larger image, all its compressed layers together
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_image_bytes: Option<u64>,
    /// Refuse a model that takes longer to load on this machine
    #[arg(long, value_name = "MS")]
    pub(crate) max_ready_ms: Option<f64>,
}

/// What else is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Emit {
    /// A Dockerfile
    Dockerfile,
}

/// A processor architecture.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema, clap::ValueEnum,
)]
pub(crate) enum ArchName {
    /// 64-bit Intel and AMD.
    #[value(name = "x86_64")]
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[value(name = "arm64")]
    #[serde(rename = "arm64")]
    Arm64,
}

/// Where a package runs.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetName {
    /// AWS Lambda
    #[default]
    Lambda,
    /// Google Cloud Run
    #[value(name = "cloudrun")]
    Cloudrun,
}

/// How weights are stored.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PrecisionName {
    /// As the file has them.
    Full,
    /// 32-bit floats as 16-bit ones.
    F16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// The ONNX file [default: path under [model] in slsml.toml]
    pub(crate) model: Option<PathBuf>,
    /// Fix an input's shape: NAME=1x3x224x224; ? keeps a dimension
    #[arg(long = "shape", value_name = "NAME=DxD")]
    pub(crate) shapes: Vec<ShapeOverride>,
    /// Fix a named dimension: NAME=1
    #[arg(long = "dim", value_name = "NAME=D")]
    pub(crate) dims: Vec<DimOverride>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainSize {
    /// An artifact's folder, a zip or a packaged model [default: the only folder in dist]
    pub(crate) artifact: Option<PathBuf>,
    /// Draw it, too
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// Where it goes: REGISTRY/PATH, as in europe-west1-docker.pkg.dev/project/models/digits; a :TAG
    /// is one more name for it
    pub(crate) repository: String,
    /// The folder with artifact.json [default: dist/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifact: Option<PathBuf>,
    /// One more tag; may be given more than once. The image's digest, and the commit and version it
    /// was packaged with, are tags anyway
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// A repository of the same registry whose blobs are taken over instead of sent
    #[arg(long, value_name = "PATH")]
    pub(crate) mount_from: Option<String>,
    /// Push to the registry on this machine (slsml local up); the repository is a path alone then
    #[arg(long)]
    pub(crate) local: bool,
    /// The local cloud's folder [default: the user's state folder]
    #[arg(long, value_name = "DIR", env = "SLSML_LOCAL_DIR")]
    pub(crate) local_dir: Option<PathBuf>,
}

/// Where the function is.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Use the cloud on this machine (slsml local up)
    #[arg(long)]
    pub(crate) local: bool,
    /// The local cloud's folder [default: the user's state folder]
    #[arg(long, value_name = "DIR", env = "SLSML_LOCAL_DIR")]
    pub(crate) local_dir: Option<PathBuf>,
    /// The AWS region [default: as the AWS CLI finds it]
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// The function's name [default: the model's name]
    #[arg(long)]
    pub(crate) function: Option<String>,
}

/// Where the service is.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct CloudrunArgs {
    /// Use the Cloud Run on this machine (slsml local up)
    #[arg(long)]
    pub(crate) local: bool,
    /// The local cloud's folder [default: the user's state folder]
    #[arg(long, value_name = "DIR", env = "SLSML_LOCAL_DIR")]
    pub(crate) local_dir: Option<PathBuf>,
    /// The Google Cloud project [default: GOOGLE_CLOUD_PROJECT]
    #[arg(long, value_name = "ID")]
    pub(crate) project: Option<String>,
    /// The region, as europe-west1
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// The service's name [default: the model's name]
    #[arg(long)]
    pub(crate) service: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeployCloudrun {
    #[command(flatten)]
    pub(crate) place: CloudrunArgs,
    /// The folder with artifact.json [default: dist/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifact: Option<PathBuf>,
    /// Where the image goes: REGISTRY/PATH [default: REGION-docker.pkg.dev/PROJECT/slsml/SERVICE]
    #[arg(long, value_name = "REGISTRY/PATH")]
    pub(crate) repository: Option<String>,
    /// The bucket of Cloud Storage the release's journal goes to
    #[arg(long)]
    pub(crate) bucket: Option<String>,
    /// Give the new revision this share of the traffic, in percent, and wait for a person: short for
    /// --strategy canary --steps PERCENT,pause
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["no_traffic", "strategy", "steps"],
        value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) traffic: Option<u32>,
    /// Make the new revision ready, with an address of its own, and move no traffic
    #[arg(long, conflicts_with = "strategy")]
    pub(crate) no_traffic: bool,
    /// CPUs of an instance: 1, 2, 4, 6, 8, or less than one [default: 1]
    #[arg(long)]
    pub(crate) cpu: Option<String>,
    /// Memory of an instance [default: 512Mi]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Instances that are there always, over all revisions with traffic [default: as it is]
    #[arg(long, value_name = "N")]
    pub(crate) min_instances: Option<u32>,
    /// The most instances of a revision [default: as it is]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_instances: Option<u32>,
    /// Instances of a revision that are there always, also without traffic [default: as it is, none with
    /// --min-instances]
    #[arg(long, value_name = "N")]
    pub(crate) revision_min_instances: Option<u32>,
    /// The most instances of all revisions together [default: as it is]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) service_max_instances: Option<u32>,
    /// How many requests an instance takes at once, 1 to 1000 [default: as it is, or Google's 80]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) concurrency: Option<u32>,
    /// How long a request may take, in seconds, 1 to 3600 [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) timeout_s: Option<u32>,
    /// The service account instances run as [default: as it is, or the project's default]
    #[arg(long, value_name = "EMAIL")]
    pub(crate) service_account: Option<String>,
    /// Let everybody send requests, or nobody without the role [default: as it is]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) public: Option<bool>,
    /// Let somebody send requests, as serviceAccount:EMAIL, beside those who may; may be given more than once
    #[arg(long = "invoker", value_name = "MEMBER")]
    pub(crate) invokers: Vec<String>,
    /// More CPU while an instance starts [default: as it is, or true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) cpu_boost: Option<bool>,
    /// CPU between requests, too [default: as it is, or false]
    #[arg(long, value_name = "BOOL")]
    pub(crate) cpu_always: Option<bool>,
    /// Who reaches the service [default: as it is, or all]
    #[arg(long)]
    pub(crate) ingress: Option<IngressName>,
    /// A variable, beside those that are there; may be given more than once
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) environment: Vec<(String, String)>,
    /// A variable whose value is a secret; may be given more than once
    #[arg(long = "secret", value_name = "NAME=SECRET:VERSION", value_parser = pair)]
    pub(crate) secrets: Vec<(String, String)>,
    /// The VPC network instances are in [default: as it is, or none]
    #[arg(long, conflicts_with = "vpc_connector")]
    pub(crate) network: Option<String>,
    /// Its subnet
    #[arg(long, conflicts_with = "vpc_connector")]
    pub(crate) subnet: Option<String>,
    /// A VPC connector instead: projects/P/locations/L/connectors/C
    #[arg(long, value_name = "CONNECTOR")]
    pub(crate) vpc_connector: Option<String>,
    /// Which requests of instances go through the VPC [default: as it is, or Google's private-ranges-only]
    #[arg(long, value_name = "WHICH")]
    pub(crate) vpc_egress: Option<EgressName>,
    #[command(flatten)]
    pub(crate) release: ReleaseArgs,
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("it must be NAME=VALUE".into()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Deploy {
    /// Create or update a Lambda function, publish a version, release it behind an alias
    Lambda(Box<DeployLambda>),
    /// Push an image, create or update a Cloud Run service, release a revision
    Cloudrun(Box<DeployCloudrun>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    /// What `deploy lambda` with the same flags would do
    Lambda(Box<DeployLambda>),
    /// What `deploy cloudrun` with the same flags would do
    Cloudrun(Box<DeployCloudrun>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeployLambda {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The alias to release behind [default: live]
    #[arg(long)]
    pub(crate) alias: Option<String>,
    /// The folder with artifact.json [default: dist/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) artifact: Option<PathBuf>,
    /// ARN of the function's execution role
    #[arg(long, value_name = "ARN")]
    pub(crate) role: Option<String>,
    /// Memory in MB, 128 to 10240 [default: 1769, one virtual CPU]
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(128..=10_240))]
    pub(crate) memory_mb: Option<u32>,
    /// How long a request may take, in seconds, 1 to 900 [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=900))]
    pub(crate) timeout_s: Option<u32>,
    /// How many requests may run at once, over all versions [default: as it is]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) reserved_concurrency: Option<u32>,
    /// The bucket the zip and the release's journal go to
    #[arg(long)]
    pub(crate) bucket: Option<String>,
    #[command(flatten)]
    pub(crate) release: ReleaseArgs,
}

/// How traffic moves.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Release")]
pub(crate) struct ReleaseArgs {
    /// How traffic moves [default: all-at-once]
    #[arg(long, value_enum)]
    pub(crate) strategy: Option<crate::settings::StrategyName>,
    /// canary: the candidate's share in each step, in percent; `pause` waits for a person
    /// [default: 10,50]
    #[arg(long, value_delimiter = ',', value_name = "PERCENT,…")]
    pub(crate) steps: Option<Vec<crate::settings::StepSetting>>,
    /// linear: by how much the candidate's share grows, in percent [default: 20]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) increment: Option<f64>,
    /// canary, linear: how long to watch each step [default: 5min]
    #[arg(long, value_name = "TIME")]
    pub(crate) bake: Option<crate::settings::Time>,
    /// How long the old version is kept ready while the new one with all traffic is watched
    /// [default: blue-green 15min, others not at all]
    #[arg(long, value_name = "TIME")]
    pub(crate) keep: Option<crate::settings::Time>,
    /// So many requests of our own must be answered before any traffic moves [default: 3,
    /// blue-green 20]
    #[arg(long, value_name = "N")]
    pub(crate) warm_up: Option<u32>,
    /// What to send then: a file with an infer request [default: zeros]
    #[arg(long, value_name = "FILE")]
    pub(crate) request: Option<PathBuf>,
    /// What must hold: `METRIC <= stable + 0.01` or `METRIC <= 0.05`, where METRIC is errors,
    /// throttles, slower_than_250ms, outputs or custom:NAME; may be given more than once
    /// [default: errors <= stable + 0.01, without a stable version beside it errors <= 0.02]
    #[arg(long = "check", value_name = "CHECK")]
    pub(crate) checks: Vec<String>,
    /// Short for --check "errors <= RATE"
    #[arg(long, value_name = "RATE")]
    pub(crate) max_error_rate: Option<f64>,
    /// The probability that the release is aborted though every check holds [default: 0.05]
    #[arg(long, value_name = "PROBABILITY")]
    pub(crate) alpha: Option<f64>,
    /// Fewer requests in a step than this are no evidence [default: 50]
    #[arg(long, value_name = "N")]
    pub(crate) min_requests: Option<u64>,
    /// What to do when a step is over and the evidence is not enough [default: hold]
    #[arg(long, value_enum)]
    pub(crate) on_inconclusive: Option<crate::settings::InconclusiveName>,
    /// How long to hold a step for evidence after its time before giving up [default: 30min]
    #[arg(long, value_name = "TIME")]
    pub(crate) hold: Option<crate::settings::Time>,
    /// How long the whole release may take [default: 24h]
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<crate::settings::Time>,
    /// A URL that is told of start, verdicts and end; signed with SLSML_WEBHOOK_SECRET if it is set
    #[arg(long, value_name = "URL")]
    pub(crate) webhook: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Invoke {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The alias or version to ask [default: live]
    #[arg(long, visible_alias = "qualifier")]
    pub(crate) alias: Option<String>,
    /// A service on Cloud Run instead
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Its Google Cloud project [default: GOOGLE_CLOUD_PROJECT]
    #[arg(long, value_name = "ID")]
    pub(crate) project: Option<String>,
    /// This revision of the service, which has a tag [default: whoever has traffic]
    #[arg(long, value_name = "NAME", conflicts_with = "alias")]
    pub(crate) revision: Option<String>,
    /// The infer request: a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) body: PathBuf,
    /// Show the end of the function's log
    #[arg(long)]
    pub(crate) log: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: ReleaseTarget,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) target: ReleaseTarget,
    /// How far back, as in 10m or 2h
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) since: Duration,
    /// The newest lines, at most so many
    #[arg(long, default_value_t = 1000, value_name = "N",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) limit: usize,
    /// Go on with lines that come, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only of this version or revision
    #[arg(long, value_name = "NAME")]
    pub(crate) revision: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    #[command(flatten)]
    pub(crate) target: ReleaseTarget,
    /// How many of the newest unused ones stay
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) keep: usize,
    /// Show what would be deleted, and delete nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Destroy {
    #[command(flatten)]
    pub(crate) target: ReleaseTarget,
    /// Delete it
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Release {
    /// Show the releases of an alias, the newest first
    List(ReleaseTarget),
    /// Show where a release stands
    Show(ReleaseNamed),
    /// Follow a release that is under way
    Watch(ReleaseNamed),
    /// Go on with a release: one that was interrupted, is paused, or waits at a gate
    Resume(ReleaseTarget),
    /// Keep a release in its step
    Pause(ReleaseTarget),
    /// Give the candidate all traffic now
    Promote(ReleaseTarget),
    /// Put all traffic back to the stable version
    Abort(ReleaseTarget),
    /// Put all traffic back, also after a release has ended
    Rollback(ReleaseTarget),
    /// Write a page about a release
    Report(ReleaseReport),
}

/// An alias.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReleaseTarget {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The alias [default: live]
    #[arg(long)]
    pub(crate) alias: Option<String>,
    /// A service on Cloud Run instead
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Its Google Cloud project [default: GOOGLE_CLOUD_PROJECT]
    #[arg(long, value_name = "ID")]
    pub(crate) project: Option<String>,
    /// The bucket with the journals [default: the one under [lambda] or [cloudrun]]
    #[arg(long)]
    pub(crate) bucket: Option<String>,
}

/// One of its releases.
#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseNamed {
    #[command(flatten)]
    pub(crate) target: ReleaseTarget,
    /// The release's name, as `slsml release list` shows it [default: the latest]
    pub(crate) name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseReport {
    #[command(flatten)]
    pub(crate) release: ReleaseNamed,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    pub(crate) html: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Local {
    /// Start it
    Up(LocalUp),
    /// Stop it
    Down(LocalDir),
    /// Say whether it runs
    Status(LocalDir),
    /// Print the variables that point AWS clients at it
    Env(LocalDir),
    /// Make things go wrong, to rehearse what a release does about it
    #[command(subcommand)]
    Fault(Fault),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Fault {
    /// Make a version fail, slow, or throttled
    Version(VersionFaultArgs),
    /// Make calls of slsml to the API fail, hang, or lose their answer
    Api(ApiFaultArgs),
    /// Show what is set to go wrong
    Show(LocalDir),
    /// Let everything go right again
    Clear(LocalDir),
}

#[derive(Debug, clap::Args)]
pub(crate) struct VersionFaultArgs {
    #[command(flatten)]
    pub(crate) at: LocalDir,
    /// The function
    pub(crate) function: String,
    /// Its version
    pub(crate) version: String,
    /// The share of requests that fail, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub(crate) error_rate: f64,
    /// The share of requests that are throttled, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub(crate) throttle_rate: f64,
    /// The share whose numbers are replaced by zeros, 0 to 1: predictions change, and nothing else
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub(crate) blank_rate: f64,
    /// How much longer each request takes
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) delay_ms: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ApiFaultArgs {
    #[command(flatten)]
    pub(crate) at: LocalDir,
    /// Which calls: those whose method and path hold this [default: all]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) call: String,
    /// Which of them, counted from 1
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) nth: u64,
    /// How many from there on
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) times: u64,
    /// What goes wrong
    #[arg(long, value_enum)]
    pub(crate) kind: FaultKind,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FaultKind {
    /// It is refused with 429
    Throttle,
    /// It fails with 500
    Error,
    /// It is refused with 403, as for want of a permission
    Deny,
    /// The connection breaks before anything was done
    DropBefore,
    /// The connection breaks when it was done, so that its answer is lost
    DropAfter,
    /// It hangs before anything was done
    HangBefore,
    /// It was done and its answer hangs
    HangAfter,
    /// Cloud Run takes it and begins an operation, which ends with an error; nothing moves
    FailOperation,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LocalDir {
    /// Its folder [default: the user's state folder]
    #[arg(long, value_name = "DIR", env = "SLSML_LOCAL_DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ContainersName {
    Auto,
    Podman,
    Process,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LocalUp {
    #[command(flatten)]
    pub(crate) at: LocalDir,
    /// Return once it is ready and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 4590)]
    pub(crate) port: u16,
    /// Stop a function's process after this many seconds without a request
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) idle_s: u64,
    /// How many requests may run at once in the account
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) account_concurrency: u32,
    /// What runs Cloud Run's containers: podman, sandboxed processes, or podman where it works
    #[arg(long, value_enum, default_value_t = ContainersName::Auto, value_name = "HOW")]
    pub(crate) containers: ContainersName,
    /// Write calls of Google's APIs and their answers to a file, a line each
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}
