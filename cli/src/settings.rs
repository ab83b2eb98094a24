//! `slsml.toml` and what flags make of it.
//!
//! A flag wins over the file, the file over the default. A key nobody reads is an error that
//! suggests the nearest one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use slsml_cloudrun::{CloudRunError, Egress, Ingress, ServiceSpec, Vpc};
use slsml_import::{DimOverride, ShapeOverride, Shapes};
use slsml_model::{CountedBy, CountedOutput, Precision, Signature, Tolerance};
use slsml_package::{Arch, Budgets, Program, Runtime};
use slsml_release::{
    Against, Check, Measure, OnInconclusive, Rule, Stage, Strategy, StrategyError, Weight,
};

use crate::args::{
    ArchName, CloudrunArgs, DeployCloudrun, Emit, Package, PrecisionName, ReleaseArgs, TargetName,
};
use crate::failure::{Exit, Failure};
use crate::place::CloudrunPlace;
use crate::webhook::Webhook;

const FILE: &str = "slsml.toml";

/// The settings of one model.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The model.
    pub(crate) model: ModelSettings,
    /// How it is packaged.
    pub(crate) package: PackageSettings,
    /// The Lambda function that serves it.
    pub(crate) lambda: LambdaSettings,
    /// The Cloud Run service that serves it.
    pub(crate) cloudrun: CloudrunSettings,
    /// How a new version gets its traffic.
    pub(crate) release: ReleaseSettings,
    /// The folder of the file, which its paths start from.
    #[serde(skip)]
    folder: PathBuf,
}

/// [model]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct ModelSettings {
    /// The ONNX file, from this file's folder.
    path: Option<PathBuf>,
    /// The model's name. Default: the file's name without its ending.
    name: Option<String>,
    /// Input shapes to fix, each as "NAME=1x3x224x224"; ? keeps a dimension.
    shapes: Vec<String>,
    /// Named dimensions to fix, each as "NAME=1".
    dims: Vec<String>,
    /// The output whose answers are counted as metrics, for checks on outputs; "none" for none.
    /// Default: labels, probabilities of classes, or a score, if there is one.
    count_output: Option<String>,
    /// The range of a score that is counted, as "0:1". Default: 0:1.
    count_range: Option<String>,
}

/// [package]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct PackageSettings {
    /// Where artifacts go, a folder for each model, from this file's folder. Default: dist.
    out: Option<PathBuf>,
    /// Where it is to run: "lambda" or "cloudrun". Default: lambda.
    target: Option<TargetName>,
    /// The processor it runs on, "x86_64" or "arm64"; for cloudrun both, as a list, make an image for
    /// both. Default: x86_64.
    arch: Option<Arches>,
    /// The runtime to package. Default: the one for the processor beside slsml itself, `bootstrap`
    /// or `bootstrap-arm64`, as a program or in a zip.
    runtime: Option<PathBuf>,
    /// How weights are stored: "full", or "f16" for half the size. Default: full.
    precision: Option<PrecisionName>,
    /// Infer requests on which the packaged model must answer as the original does, from this
    /// file's folder. Default: some are made up.
    samples: Option<PathBuf>,
    /// How far its answers may be off, relative to the larger value, absolute below 1. Default:
    /// 1e-4, with f16 2e-2.
    tolerance: Option<f64>,
    /// The largest zip, in bytes. Default: no limit.
    max_zip_bytes: Option<u64>,
    /// The largest function, unpacked, in bytes. Default: Lambda's 262144000.
    max_unzipped_bytes: Option<u64>,
    /// The largest image, all its compressed layers, in bytes. Default: no limit.
    max_image_bytes: Option<u64>,
    /// The longest time the model may take to load on the machine that packages it, in
    /// milliseconds. Default: no limit.
    max_ready_ms: Option<f64>,
}

/// [lambda]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct LambdaSettings {
    /// The function's name. Default: the model's name.
    pub(crate) function: Option<String>,
    /// The alias to release behind. Default: live.
    pub(crate) alias: Option<String>,
    /// The AWS region. Default: as the AWS CLI finds it.
    pub(crate) region: Option<String>,
    /// ARN of the function's execution role; needed to create it.
    pub(crate) role: Option<String>,
    /// Memory in MB, 128 to 10240. Default: 1769, one virtual CPU.
    pub(crate) memory_mb: Option<u32>,
    /// How long a request may take, in seconds, 1 to 900. Default: 30.
    pub(crate) timeout_s: Option<u32>,
    /// How many requests may run at once, over all versions. Default: as it is.
    pub(crate) reserved_concurrency: Option<u32>,
    /// The bucket the zip goes through; needed above 50 MB.
    pub(crate) bucket: Option<String>,
    /// The function's variables.
    pub(crate) environment: BTreeMap<String, String>,
}

/// [cloudrun]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct CloudrunSettings {
    /// The service's name. Default: the model's name.
    service: Option<String>,
    /// The Google Cloud project. Default: GOOGLE_CLOUD_PROJECT.
    project: Option<String>,
    /// The region, as "europe-west1".
    region: Option<String>,
    /// Where the image goes, as "REGISTRY/PATH". Default: REGION-docker.pkg.dev/PROJECT/slsml/SERVICE.
    repository: Option<String>,
    /// The bucket of Cloud Storage for the journals of releases. Default: they lie on the machine that deploys.
    bucket: Option<String>,
    /// CPUs of an instance: "1", "2", "4", "6", "8", or less than one. Default: 1.
    cpu: Option<String>,
    /// Memory of an instance. Default: 512Mi.
    memory: Option<String>,
    /// Instances that are there always, over all revisions with traffic. Default: as it is.
    min_instances: Option<u32>,
    /// The most instances of a revision. Default: as it is.
    max_instances: Option<u32>,
    /// Instances of a revision that are there always, also without traffic. Default: as it is.
    revision_min_instances: Option<u32>,
    /// The most instances of all revisions together. Default: as it is.
    service_max_instances: Option<u32>,
    /// How many requests an instance takes at once, 1 to 1000. Default: as it is, or Google's 80.
    concurrency: Option<u32>,
    /// How long a request may take, in seconds, 1 to 3600. Default: 60.
    timeout_s: Option<u32>,
    /// More CPU while an instance starts. Default: true.
    cpu_boost: Option<bool>,
    /// CPU between requests, too. Default: false.
    cpu_always: Option<bool>,
    /// Who reaches it: "all", "internal" or "load-balancer". Default: as it is, or all.
    ingress: Option<IngressName>,
    /// The service account instances run as. Default: as it is, or the project's default.
    service_account: Option<String>,
    /// Whether everybody may send requests. Default: as it is, or nobody without the role.
    public: Option<bool>,
    /// Who may send requests, as "serviceAccount:EMAIL", beside those who may already.
    invokers: Vec<String>,
    /// Variables, beside those that are there.
    environment: BTreeMap<String, String>,
    /// Variables whose values are secrets, each as "SECRET:VERSION".
    secrets: BTreeMap<String, String>,
    /// The VPC network instances are in. Default: as it is, or none.
    network: Option<String>,
    /// Its subnet.
    subnet: Option<String>,
    /// A VPC connector instead, as "projects/P/locations/L/connectors/C".
    vpc_connector: Option<String>,
    /// Which requests of instances go through the VPC: "all-traffic" or "private-ranges-only".
    vpc_egress: Option<EgressName>,
}

/// Who reaches a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum IngressName {
    /// Everybody.
    All,
    /// What is in the project's networks.
    Internal,
    /// That, and load balancers.
    LoadBalancer,
}

/// Which requests of instances go through the VPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EgressName {
    /// All.
    AllTraffic,
    /// Those to private addresses.
    PrivateRangesOnly,
}

/// [release]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub(crate) struct ReleaseSettings {
    /// How traffic moves. Default: all-at-once.
    strategy: Option<StrategyName>,
    /// canary: the candidate's share in each step, in percent; "pause" waits for a person. Default:
    /// [10, 50].
    steps: Option<Vec<StepSetting>>,
    /// linear: by how much the candidate's share grows, in percent. Default: 20.
    increment: Option<f64>,
    /// canary, linear: how long to watch each step, as "90s" or "5min". Default: 5min.
    bake: Option<Time>,
    /// How long the old version is kept ready while the new one with all traffic is watched.
    /// Default: blue-green 15min, others not at all.
    keep: Option<Time>,
    /// So many requests of our own must be answered before any traffic moves. Default: 3,
    /// blue-green 20.
    warm_up: Option<u32>,
    /// What to send then: a file with an infer request, from this file's folder. Default: zeros.
    request: Option<PathBuf>,
    /// What must hold, each as "METRIC <= stable + 0.01" or "METRIC <= 0.05", where METRIC is errors,
    /// throttles, slower_than_250ms, outputs or custom:NAME. Default: errors <= stable + 0.01,
    /// without a stable version beside it errors <= 0.02.
    checks: Vec<String>,
    /// Short for the check "errors <= RATE".
    max_error_rate: Option<f64>,
    /// The probability that the release is aborted though every check holds. Default: 0.05.
    alpha: Option<f64>,
    /// Fewer requests in a step than this are no evidence. Default: 50.
    min_requests: Option<u64>,
    /// What to do when a step is over and the evidence is not enough. Default: hold.
    on_inconclusive: Option<InconclusiveName>,
    /// How long to hold a step for evidence after its time before giving up. Default: 30min.
    hold: Option<Time>,
    /// How long the whole release may take. Default: 24h.
    deadline: Option<Time>,
    /// A URL that is told of start, verdicts and end, signed with SLSML_WEBHOOK_SECRET if it is set.
    webhook: Option<String>,
}

/// A strategy's name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StrategyName {
    /// All traffic in one move.
    AllAtOnce,
    /// All traffic in one move, watched, the old version kept ready.
    BlueGreen,
    /// Step by step, each watched.
    Canary,
    /// Equal steps in equal intervals, each watched.
    Linear,
}

/// What to do without enough evidence.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InconclusiveName {
    /// Wait for more, then abort.
    Hold,
    /// Abort.
    Abort,
    /// Go on without evidence.
    Promote,
}

/// A step of a canary: a share in percent, or "pause".
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum StepSetting {
    /// A share in percent.
    Percent(f64),
    /// "pause": wait for a person.
    Word(String),
}

impl FromStr for StepSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<StepSetting, String> {
        match text.trim() {
            "pause" => Ok(StepSetting::Word("pause".into())),
            number => number
                .parse()
                .map(StepSetting::Percent)
                .map_err(|_| format!("`{text}` is neither a share in percent nor `pause`")),
        }
    }
}

/// A length of time: "90s", "5min", "1h 30min".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        humantime::parse_duration(text)
            .map(Time)
            .map_err(|error| format!("`{text}` is not a length of time like 90s or 5min: {error}"))
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Time, String> {
        text.parse()
    }
}

/// What `slsml package` is to do.
#[derive(Debug)]
pub(crate) struct PackagePlan {
    pub(crate) model: PathBuf,
    pub(crate) name: String,
    pub(crate) shapes: Shapes,
    pub(crate) out: PathBuf,
    pub(crate) target: TargetName,
    /// The processors that were asked for.
    pub(crate) arches: Vec<Arch>,
    pub(crate) runtimes: Vec<PathBuf>,
    pub(crate) docker_archive: Option<PathBuf>,
    pub(crate) dockerfile: bool,
    pub(crate) source: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) count_output: Option<String>,
    pub(crate) count_range: Option<String>,
    pub(crate) precision: Precision,
    pub(crate) samples: Option<PathBuf>,
    pub(crate) tolerance: Option<Tolerance>,
    pub(crate) smallest: bool,
    pub(crate) budgets: Budgets,
    pub(crate) max_ready_ms: Option<f64>,
}

/// A processor, or more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Arches {
    /// One.
    One(ArchName),
    /// An image for each.
    All(Vec<ArchName>),
}

impl Arches {
    fn all(&self) -> &[ArchName] {
        match self {
            Self::One(arch) => std::slice::from_ref(arch),
            Self::All(all) => all,
        }
    }
}

/// The JSON Schema of `slsml.toml`.
pub(crate) fn schema() -> Schema {
    schema_for!(Settings)
}

impl Settings {
    /// Reads the file named, or `slsml.toml` if it is there.
    pub(crate) fn load(config: Option<&Path>) -> Result<Settings, Failure> {
        let path = config.unwrap_or(Path::new(FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Settings::default());
            }
            Err(error) => {
                return Err(Failure::usage(format!("cannot read {}: {error}", path.display())));
            }
        };
        let mut settings = Settings::parse(&text, path)?;
        settings.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(settings)
    }

    fn parse(text: &str, path: &Path) -> Result<Settings, Failure> {
        let path = path.display();
        let malformed =
            |error: toml::de::Error| Failure::usage(format!("{path} cannot be used: {error}"));
        let file = toml::Deserializer::parse(text).map_err(malformed)?;
        let mut unknown = BTreeSet::new();
        let settings = serde_ignored::deserialize(file, |key| {
            unknown.insert(key.to_string());
        })
        .map_err(malformed)?;
        match unknown.first() {
            None => Ok(settings),
            Some(key) => {
                Err(Failure::usage(format!("{path} has the unknown key `{key}`"))
                    .help(suggestion(key)))
            }
        }
    }

    pub(crate) fn package(&self, args: Package) -> Result<PackagePlan, Failure> {
        let model = self.model(args.model)?;
        let name = match args.name.or_else(|| self.model.name.clone()) {
            Some(name) => name,
            None => model
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default(),
        };
        check_name(&name)?;
        let shapes = self.shapes(args.shapes, args.dims)?;
        let out = match args.out {
            Some(out) => out,
            None => self.out(),
        };
        let arches = self.arches(args.arch);
        // What only an image can be asks for one.
        let is_image = args.emit.is_some() || args.docker_archive.is_some();
        let image_if_said = is_image.then_some(TargetName::Cloudrun);
        let target = args.target.or(self.package.target).or(image_if_said).unwrap_or_default();
        let program = match target {
            TargetName::Lambda => Program::Bootstrap,
            TargetName::Cloudrun => Program::Server,
        };
        let (zip, image) = ((TargetName::Lambda, "lambda"), (TargetName::Cloudrun, "cloudrun"));
        for (flag, is_given, (goes_with, name)) in [
            ("--docker-archive", args.docker_archive.is_some(), image),
            ("--emit", args.emit.is_some(), image),
            ("--arch with two processors", arches.len() > 1, image),
            ("more than one --runtime", args.runtimes.len() > 1, image),
            ("--source", args.source.is_some(), image),
            ("--revision", args.revision.is_some(), image),
            ("--image-version", args.image_version.is_some(), image),
            ("--max-image-bytes", args.max_image_bytes.is_some(), image),
            ("--max-zip-bytes", args.max_zip_bytes.is_some(), zip),
            ("--max-unzipped-bytes", args.max_unzipped_bytes.is_some(), zip),
        ] {
            if is_given && goes_with != target {
                return Err(Failure::usage(format!("{flag} goes with --target {name}")));
            }
        }
        let runtimes = match (args.runtimes, &self.package.runtime) {
            (named, _) if !named.is_empty() => named,
            (_, Some(runtime)) => vec![self.folder.join(runtime)],
            (_, None) => {
                let own = std::env::current_exe()?;
                let wanted = if arches.is_empty() { &[Arch::default()][..] } else { &arches };
                wanted.iter().map(|arch| Runtime::beside(&own, program, *arch)).collect()
            }
        };
        let file = &self.package;
        if let Some(version) = &args.image_version
            && !slsml_cloudrun::can_be_tag(version)
        {
            return Err(Failure::usage(format!("`{version}` is no version: it becomes a tag"))
                .help("take letters, digits, and . _ - +, as in 1.4.0"));
        }
        let precision = match args.precision.or(file.precision).unwrap_or(PrecisionName::Full) {
            PrecisionName::Full => Precision::Full,
            PrecisionName::F16 => Precision::F16,
        };
        let positive = |key: &str, value: Option<f64>| match value {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                Err(Failure::usage(format!("{key} must be a number above 0, not {value}")))
            }
            value => Ok(value),
        };
        Ok(PackagePlan {
            model,
            name,
            shapes,
            out,
            target,
            arches,
            runtimes,
            precision,
            docker_archive: args.docker_archive,
            dockerfile: args.emit == Some(Emit::Dockerfile),
            source: args.source,
            revision: args.revision,
            version: args.image_version,
            count_output: args.count_output,
            count_range: args.count_range,
            samples: args
                .samples
                .or_else(|| file.samples.as_ref().map(|path| self.folder.join(path))),
            tolerance: positive("tolerance", args.tolerance.or(file.tolerance))?.map(Tolerance),
            smallest: args.smallest,
            budgets: Budgets {
                max_zip_bytes: args.max_zip_bytes.or(file.max_zip_bytes),
                max_unzipped_bytes: args.max_unzipped_bytes.or(file.max_unzipped_bytes),
                max_image_bytes: args.max_image_bytes.or(file.max_image_bytes),
            },
            max_ready_ms: positive("max_ready_ms", args.max_ready_ms.or(file.max_ready_ms))?,
        })
    }

    /// The processors that are asked for, each once.
    fn arches(&self, flag: Vec<ArchName>) -> Vec<Arch> {
        let file = || self.package.arch.iter().flat_map(|arch| arch.all().iter().copied());
        let named = if flag.is_empty() { file().collect() } else { flag };
        let mut all: Vec<Arch> = Vec::new();
        for name in named {
            let arch = match name {
                ArchName::X86_64 => Arch::X86_64,
                ArchName::Arm64 => Arch::Arm64,
            };
            if !all.contains(&arch) {
                all.push(arch);
            }
        }
        all
    }

    /// Which answers of a model are counted.
    pub(crate) fn counted(
        &self,
        plan: &PackagePlan,
        signature: &Signature,
    ) -> Result<Option<CountedOutput>, Failure> {
        let output = plan.count_output.clone().or_else(|| self.model.count_output.clone());
        let range = plan.count_range.clone().or_else(|| self.model.count_range.clone());
        let mut counted = match output.as_deref() {
            Some("none") => return Ok(None),
            None => CountedOutput::of(signature),
            Some(name) => {
                let one = signature.outputs.iter().find(|spec| spec.name == name);
                let one = one.ok_or_else(|| {
                    let names: Vec<&str> =
                        signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
                    Failure::usage(format!("the model has no output `{name}` to count"))
                        .help(format!("it has {}", names.join(", ")))
                })?;
                let alone = Signature { inputs: Vec::new(), outputs: vec![one.clone()] };
                let counted = CountedOutput::of(&alone);
                Some(counted.ok_or_else(|| {
                    Failure::usage(format!(
                        "the output {one} holds neither labels nor probabilities of classes nor a score"
                    ))
                })?)
            }
        };
        if let Some(text) = range {
            let wrong =
                || Failure::usage(format!("`{text}` is no range: write LOW:HIGH, as in 0:1"));
            let (low, high) = text.split_once(':').ok_or_else(wrong)?;
            let number = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
            let (low, high) = (number(low)?, number(high)?);
            if !(low < high && (high - low).is_finite()) {
                return Err(wrong());
            }
            match &mut counted {
                Some(CountedOutput { by: by @ CountedBy::Score { .. }, .. }) => {
                    *by = CountedBy::Score { low, high };
                }
                _ => {
                    return Err(Failure::usage(
                        "a range is counted of scores only, and the model has none",
                    ));
                }
            }
        }
        Ok(counted)
    }

    /// The ONNX file that was named, or the settings'.
    pub(crate) fn model(&self, named: Option<PathBuf>) -> Result<PathBuf, Failure> {
        let model = named.or_else(|| self.model.path.as_ref().map(|path| self.folder.join(path)));
        model.ok_or_else(|| {
            Failure::usage("no model is named")
                .help("slsml package MODEL.onnx, or path under [model] in slsml.toml")
        })
    }

    /// The shapes that were given, or the settings'.
    pub(crate) fn shapes(
        &self,
        shapes: Vec<ShapeOverride>,
        dims: Vec<DimOverride>,
    ) -> Result<Shapes, Failure> {
        let read = |text: String| Failure::usage(format!("[model] {text}"));
        let mut all = Shapes { shapes, dims };
        if all.shapes.is_empty() {
            let texts = self.model.shapes.iter().map(|text| text.parse().map_err(read));
            all.shapes = texts.collect::<Result<_, _>>()?;
        }
        if all.dims.is_empty() {
            let texts = self.model.dims.iter().map(|text| text.parse().map_err(read));
            all.dims = texts.collect::<Result<_, _>>()?;
        }
        Ok(all)
    }

    fn out(&self) -> PathBuf {
        match &self.package.out {
            Some(out) => self.folder.join(out),
            None => self.folder.join("dist"),
        }
    }

    /// The folder of the artifact to deploy: the one named, or the only one there is.
    pub(crate) fn artifact(&self, named: Option<PathBuf>) -> Result<PathBuf, Failure> {
        if let Some(folder) = named {
            return Ok(folder);
        }
        let out = self.out();
        if let Some(name) = &self.model.name {
            return Ok(out.join(name));
        }
        let entries = std::fs::read_dir(&out).into_iter().flatten().flatten();
        let artifacts: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.join(slsml_package::ARTIFACT_FILE).is_file())
            .collect();
        match artifacts.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Failure::new(Exit::Model, format!("no artifact in {}", out.display()))
                .help("package the model first: slsml package MODEL.onnx")),
            _ => Err(Failure::usage(format!("{} artifacts in {}", artifacts.len(), out.display()))
                .help("name one with --artifact DIR")),
        }
    }

    /// Refuses what Lambda would refuse halfway through.
    pub(crate) fn check_lambda(&self, function: &str, alias: &str) -> Result<(), Failure> {
        check_word("the function's name", function, 64)?;
        check_word("the alias", alias, 128)?;
        if alias.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Failure::usage(format!("`{alias}` is a number, which an alias cannot be")));
        }
        let lambda = &self.lambda;
        let ranges = [
            ("memory_mb", lambda.memory_mb, 128, 10_240),
            ("timeout_s", lambda.timeout_s, 1, 900),
            ("reserved_concurrency", lambda.reserved_concurrency, 0, 1_000_000),
        ];
        for (key, value, low, high) in ranges {
            if value.is_some_and(|value| !(low..=high).contains(&value)) {
                return Err(Failure::usage(format!("[lambda] {key} must be from {low} to {high}")));
            }
        }
        let environment = lambda.environment.iter().map(|(key, value)| key.len() + value.len());
        if environment.sum::<usize>() > 4096 {
            return Err(Failure::usage(
                "[lambda.environment] is larger than Lambda's limit of 4 KB",
            ));
        }
        Ok(())
    }

    /// Whether the settings package for Cloud Run.
    pub(crate) fn is_for_cloudrun(&self) -> bool {
        self.package.target == Some(TargetName::Cloudrun)
    }

    /// The service's name, if flags or settings say it.
    pub(crate) fn service(&self, flag: Option<String>) -> Option<String> {
        let model = || self.model.name.as_deref().map(service_of);
        flag.or_else(|| self.cloudrun.service.clone()).or_else(model)
    }

    /// The project and the region.
    pub(crate) fn cloudrun_connect(
        &self,
        args: &CloudrunArgs,
    ) -> Result<slsml_cloudrun::Connect, CloudRunError> {
        let from_environment = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let project = args.project.clone().or_else(|| self.cloudrun.project.clone());
        let project = project.or_else(|| from_environment("GOOGLE_CLOUD_PROJECT"));
        let region = args.region.clone().or_else(|| self.cloudrun.region.clone());
        Ok(slsml_cloudrun::Connect {
            project: project.ok_or(CloudRunError::NoProject)?,
            region: region.ok_or(CloudRunError::NoRegion)?,
            endpoint: None,
        })
    }

    /// Where a service's image goes.
    pub(crate) fn repository(
        &self,
        flag: Option<String>,
        place: &CloudrunPlace,
        service: &str,
    ) -> Result<String, Failure> {
        let (project, region) = (place.google.project(), place.google.region());
        if let Some(registry) = &place.registry {
            // Registries of a cloud mean nothing here.
            let path = flag.unwrap_or_else(|| format!("{project}/slsml/{service}"));
            return Ok(format!("{registry}/{path}"));
        }
        let usual = || format!("{region}-docker.pkg.dev/{project}/slsml/{service}");
        Ok(flag.or_else(|| self.cloudrun.repository.clone()).unwrap_or_else(usual))
    }

    /// How traffic moves on Cloud Run; `--traffic` is short for a canary that waits for a person.
    pub(crate) fn cloudrun_strategy(
        &self,
        args: &ReleaseArgs,
        traffic: Option<u32>,
    ) -> Result<Strategy, Failure> {
        let Some(percent) = traffic else { return self.strategy(args) };
        let steps = vec![StepSetting::Percent(percent.into()), StepSetting::Word("pause".into())];
        let canary = ReleaseArgs {
            strategy: Some(StrategyName::Canary),
            steps: Some(steps),
            ..args.clone()
        };
        self.strategy(&canary)
    }

    /// What a service should be.
    pub(crate) fn cloudrun_spec(
        &self,
        args: DeployCloudrun,
        name: String,
        model: String,
        image: String,
        project: &str,
    ) -> Result<ServiceSpec, Failure> {
        let letters =
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
        // With the tag `candidate` a name has at most 46 characters.
        if !letters || !begins || name.ends_with('-') || name.len() > 37 {
            return Err(Failure::usage(format!(
                "`{name}` is no name of a service: lower-case letters, digits and hyphens, at most 37, \
                 beginning with a letter"
            ))
            .help("pass --service NAME, or service under [cloudrun]"));
        }
        let file = &self.cloudrun;
        let ranges = [
            ("concurrency", args.concurrency.or(file.concurrency), 1, 1000),
            ("timeout_s", args.timeout_s.or(file.timeout_s), 1, 3600),
        ];
        for (key, value, low, high) in ranges {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                return Err(Failure::usage(format!(
                    "{key} under [cloudrun] is {value}; it must lie from {low} to {high}"
                )));
            }
        }
        // A flag for the one means that the file's other is not meant.
        let (direct, connector) =
            (args.network.is_some() || args.subnet.is_some(), args.vpc_connector);
        let from_file = |value: &Option<String>, is_meant: bool| value.clone().filter(|_| is_meant);
        let by_connector = connector.is_some();
        // A subnet is one of its network.
        let other_network = args.network.is_some() && args.network != file.network;
        let vpc = Vpc {
            network: args.network.or_else(|| from_file(&file.network, !by_connector)),
            subnet: args
                .subnet
                .or_else(|| from_file(&file.subnet, !by_connector && !other_network)),
            connector: connector.or_else(|| from_file(&file.vpc_connector, !direct)),
            egress: args.vpc_egress.or(file.vpc_egress).map(|egress| match egress {
                EgressName::AllTraffic => Egress::All,
                EgressName::PrivateRangesOnly => Egress::Private,
            }),
        };
        if vpc.connector.is_some() && (vpc.network.is_some() || vpc.subnet.is_some()) {
            return Err(Failure::usage(
                "[cloudrun] has a vpc_connector and a network or subnet: an instance has one of both",
            ));
        }
        let mut environment = with_flags(&file.environment, &args.environment);
        let mut secrets = with_flags(&file.secrets, &args.secrets);
        // A flag for the one means that the file's other is not meant.
        let is_flag =
            |flags: &[(String, String)], name: &String| flags.iter().any(|(flag, _)| flag == name);
        environment
            .retain(|name, _| is_flag(&args.environment, name) || !is_flag(&args.secrets, name));
        secrets.retain(|name, _| is_flag(&args.secrets, name) || !is_flag(&args.environment, name));
        if let Some(both) = environment.keys().find(|name| secrets.contains_key(*name)) {
            return Err(Failure::usage(format!("the variable {both} has a value and is a secret")));
        }
        let cpu = args.cpu.or_else(|| file.cpu.clone());
        let memory = args.memory.or_else(|| file.memory.clone());
        slsml_cloudrun::check_resources(cpu.as_deref(), memory.as_deref())?;
        let invokers = file.invokers.iter().cloned().chain(args.invokers).collect::<BTreeSet<_>>();
        if let Some(odd) = invokers.iter().find(|member| !member.contains(':')) {
            return Err(Failure::usage(format!("`{odd}` is nobody who can be let in")).help(
                "name them as serviceAccount:EMAIL, user:EMAIL, group:EMAIL or domain:NAME",
            ));
        }
        Ok(ServiceSpec {
            name,
            project: project.into(),
            model,
            image,
            cpu,
            memory,
            min_instances: args.min_instances.or(file.min_instances),
            max_instances: args.max_instances.or(file.max_instances),
            revision_min_instances: args.revision_min_instances.or(file.revision_min_instances),
            service_max_instances: args.service_max_instances.or(file.service_max_instances),
            concurrency: args.concurrency.or(file.concurrency),
            timeout_s: args.timeout_s.or(file.timeout_s),
            cpu_boost: args.cpu_boost.or(file.cpu_boost),
            cpu_always: args.cpu_always.or(file.cpu_always),
            ingress: args.ingress.or(file.ingress).map(|ingress| match ingress {
                IngressName::All => Ingress::All,
                IngressName::Internal => Ingress::Internal,
                IngressName::LoadBalancer => Ingress::LoadBalancer,
            }),
            service_account: args.service_account.or_else(|| file.service_account.clone()),
            environment,
            secrets,
            vpc,
            public: args.public.or(file.public),
            invokers: invokers.into_iter().collect(),
        })
    }

    /// The function's name, if flags or settings say it.
    pub(crate) fn function(&self, flag: Option<String>) -> Option<String> {
        flag.or_else(|| self.lambda.function.clone()).or_else(|| self.model.name.clone())
    }

    pub(crate) fn alias(&self, flag: Option<String>) -> String {
        flag.or_else(|| self.lambda.alias.clone()).unwrap_or_else(|| "live".into())
    }

    pub(crate) fn strategy(&self, args: &ReleaseArgs) -> Result<Strategy, Failure> {
        let file = &self.release;
        let name = args.strategy.or(file.strategy).unwrap_or(StrategyName::AllAtOnce);
        self.refuse_foreign_keys(args, name)?;
        let time = |flag: Option<Time>, key: Option<Time>, default: u64| {
            flag.or(key).map_or(Duration::from_secs(default), |time| time.0)
        };
        let bake = time(args.bake, file.bake, 300);
        let keep = match name {
            StrategyName::BlueGreen => time(args.keep, file.keep, 900),
            _ => time(args.keep, file.keep, 0),
        };
        let watch = |percent| -> Result<Stage, Failure> {
            Ok(Stage::Watch { weight: Weight::percent(percent).map_err(Failure::usage)?, bake })
        };
        let usual_warm_up = if name == StrategyName::BlueGreen { 20 } else { 3 };
        let requests = args.warm_up.or(file.warm_up).unwrap_or(usual_warm_up);
        let mut stages = vec![Stage::WarmUp { requests }];
        match name {
            StrategyName::AllAtOnce | StrategyName::BlueGreen => {}
            StrategyName::Canary => {
                let usual = || vec![StepSetting::Percent(10.0), StepSetting::Percent(50.0)];
                let steps = args.steps.clone().or_else(|| file.steps.clone()).unwrap_or_else(usual);
                if steps.is_empty() {
                    return Err(StrategyError::NoSteps(slsml_release::StrategyName::Canary).into());
                }
                for step in steps {
                    stages.push(match step {
                        StepSetting::Percent(percent) => watch(percent)?,
                        StepSetting::Word(word) if word == "pause" => Stage::Pause,
                        StepSetting::Word(word) => {
                            return Err(Failure::usage(format!(
                                "`{word}` is no step: give a share in percent, or \"pause\""
                            )));
                        }
                    });
                }
            }
            StrategyName::Linear => {
                let increment = args.increment.or(file.increment).unwrap_or(20.0);
                if !(0.1..100.0).contains(&increment) {
                    return Err(Failure::usage(format!(
                        "an increment of {increment} % makes no steps: it must be from 0.1 to below 100"
                    )));
                }
                let mut percent = increment;
                while percent < 100.0 {
                    stages.push(watch((percent * 100.0).round() / 100.0)?);
                    percent += increment;
                }
            }
        }
        stages.push(Stage::at_once(keep));
        let strategy = Strategy {
            name: name.into(),
            checks: self.checks(args, &stages)?,
            stages,
            alpha: args.alpha.or(file.alpha).unwrap_or(0.05),
            on_inconclusive: match args.on_inconclusive.or(file.on_inconclusive) {
                None | Some(InconclusiveName::Hold) => OnInconclusive::Hold,
                Some(InconclusiveName::Abort) => OnInconclusive::Abort,
                Some(InconclusiveName::Promote) => OnInconclusive::Promote,
            },
            hold: time(args.hold, file.hold, 1800),
            deadline: time(args.deadline, file.deadline, 24 * 3600),
        };
        strategy.validate()?;
        Ok(strategy)
    }

    /// What was asked to be watched must not be released unwatched.
    fn refuse_foreign_keys(&self, args: &ReleaseArgs, name: StrategyName) -> Result<(), Failure> {
        use StrategyName::{AllAtOnce, BlueGreen, Canary, Linear};
        let file = &self.release;
        let keys: [(&str, bool, &[StrategyName]); 6] = [
            ("steps", args.steps.is_some() || file.steps.is_some(), &[Canary]),
            ("increment", args.increment.is_some() || file.increment.is_some(), &[Linear]),
            ("bake", args.bake.is_some() || file.bake.is_some(), &[Canary, Linear]),
            (
                "max_error_rate",
                args.max_error_rate.is_some() || file.max_error_rate.is_some(),
                &[Canary, Linear, BlueGreen],
            ),
            (
                "min_requests",
                args.min_requests.is_some() || file.min_requests.is_some(),
                &[Canary, Linear, BlueGreen],
            ),
            ("hold", args.hold.is_some() || file.hold.is_some(), &[Canary, Linear, BlueGreen]),
        ];
        // All at once may be watched, too, and then everything makes sense but steps.
        let kept = args.keep.or(file.keep).is_some();
        for (key, given, belongs) in keys {
            let fits = belongs.contains(&name)
                || name == AllAtOnce && kept && belongs.contains(&BlueGreen);
            if given && !fits {
                let names: Vec<String> = belongs.iter().map(ToString::to_string).collect();
                let wanted = belongs.first().map(ToString::to_string).unwrap_or_default();
                return Err(Failure::usage(format!(
                    "{key} belongs to {}, and the strategy is {name}",
                    names.join(" and ")
                ))
                .help(format!(
                    "add --strategy {wanted}, or strategy = \"{wanted}\" under [release]"
                )));
            }
        }
        Ok(())
    }

    fn checks(&self, args: &ReleaseArgs, stages: &[Stage]) -> Result<Vec<Check>, Failure> {
        let file = &self.release;
        let texts = if args.checks.is_empty() { &file.checks } else { &args.checks };
        let mut rules = texts
            .iter()
            .map(|text| text.parse::<Rule>().map_err(Failure::usage))
            .collect::<Result<Vec<Rule>, Failure>>()?;
        if let Some(limit) = args.max_error_rate.or(file.max_error_rate) {
            rules.push(Rule { metric: Measure::Errors, against: Against::Limit(limit) });
        }
        let beside =
            |stage: &Stage| matches!(*stage, Stage::Watch { weight, .. } if weight != Weight::ALL);
        let alone = |stage: &Stage| matches!(*stage, Stage::Watch { weight: Weight::ALL, bake } if bake > Duration::ZERO);
        if rules.is_empty() && stages.iter().any(beside) {
            let against = Against::Stable { tolerance: 0.01 };
            rules.push(Rule { metric: Measure::Errors, against });
        }
        let limited = rules.iter().any(|rule| matches!(rule.against, Against::Limit(_)));
        if !limited && texts.is_empty() && stages.iter().any(alone) {
            rules.push(Rule { metric: Measure::Errors, against: Against::Limit(0.02) });
        }
        let min_requests = args.min_requests.or(file.min_requests).unwrap_or(50);
        let check = |Rule { metric, against }| Check { metric, against, min_requests };
        Ok(rules.into_iter().map(check).collect())
    }

    /// The infer request a candidate is warmed with, if one is named.
    pub(crate) fn warm_up_request(&self, flag: Option<&Path>) -> Option<PathBuf> {
        let key = self.release.request.as_ref().map(|path| self.folder.join(path));
        flag.map(Path::to_owned).or(key)
    }

    /// Who is told of a release.
    pub(crate) fn webhook(&self, flag: Option<&str>) -> Result<Option<Webhook>, Failure> {
        flag.or(self.release.webhook.as_deref()).map(Webhook::start).transpose()
    }

    /// The bucket of Cloud Storage for journals.
    pub(crate) fn journal_bucket(&self, flag: Option<String>) -> Option<String> {
        flag.or_else(|| self.cloudrun.bucket.clone())
    }

    /// The bucket for zips and journals.
    pub(crate) fn bucket(&self, flag: Option<String>) -> Option<String> {
        flag.or_else(|| self.lambda.bucket.clone())
    }
}

impl From<StrategyName> for slsml_release::StrategyName {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::AllAtOnce => Self::AllAtOnce,
            StrategyName::BlueGreen => Self::BlueGreen,
            StrategyName::Canary => Self::Canary,
            StrategyName::Linear => Self::Linear,
        }
    }
}

/// The name of the service that serves a model, where none is said.
pub(crate) fn service_of(model: &str) -> String {
    model.to_lowercase().replace('_', "-")
}

fn check_word(what: &str, text: &str, longest: usize) -> Result<(), Failure> {
    if is_word(text, longest) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "`{text}` is not {what}: up to {longest} letters, digits, hyphens and underscores"
    )))
}

fn is_word(text: &str, longest: usize) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=longest).contains(&text.len()) && text.bytes().all(word)
}

/// Model names become function names, paths and URLs.
fn check_name(name: &str) -> Result<(), Failure> {
    if is_word(name, 64) {
        return Ok(());
    }
    Err(Failure::usage(format!("`{name}` is no name for a model"))
        .help("pass --name with up to 64 letters, digits, hyphens and underscores"))
}

/// The key somebody probably meant.
fn suggestion(unknown: &str) -> String {
    let (section, key) = unknown.rsplit_once('.').unwrap_or(("", unknown));
    let known = keys(section);
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
    let place = if section.is_empty() {
        "the sections are".to_owned()
    } else {
        format!("[{section}] takes")
    };
    match nearest {
        Some(nearest) if strsim::jaro_winkler(nearest, key) > 0.75 => {
            format!("did you mean `{nearest}`?")
        }
        _ => format!("{place} {}", known.join(", ")),
    }
}

/// The keys of a section, from the schema; the sections themselves for none.
fn keys(section: &str) -> Vec<String> {
    let schema = schema();
    let root = schema.as_value();
    let names = |value: Option<&serde_json::Value>| -> Vec<String> {
        let properties =
            value.and_then(|value| value.get("properties")).and_then(|value| value.as_object());
        properties.map(|properties| properties.keys().cloned().collect()).unwrap_or_default()
    };
    if section.is_empty() {
        return names(Some(root));
    }
    let reference =
        root.pointer(&format!("/properties/{section}/$ref")).and_then(|value| value.as_str());
    let target = reference.and_then(|reference| root.pointer(reference.trim_start_matches('#')));
    names(target)
}

impl fmt::Display for StrategyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllAtOnce => "all-at-once",
            Self::BlueGreen => "blue-green",
            Self::Canary => "canary",
            Self::Linear => "linear",
        })
    }
}

/// What the file says, with what flags say.
fn with_flags(
    file: &BTreeMap<String, String>,
    flags: &[(String, String)],
) -> BTreeMap<String, String> {
    file.clone().into_iter().chain(flags.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, Failure> {
        Settings::parse(text, Path::new("slsml.toml"))
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest_one() {
        let failure = parse("[lambda]\nmemory = 512\n").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("unknown key `lambda.memory`"), "{failure}");
        assert_eq!(failure.help.unwrap(), "did you mean `memory_mb`?");
        let failure = parse("[realease]\nbake = \"5s\"\n").unwrap_err();
        assert_eq!(failure.help.unwrap(), "did you mean `release`?");
        let failure = parse("[lambda]\nxyz = 1\n").unwrap_err();
        assert!(failure.help.unwrap().starts_with("[lambda] takes alias, bucket"));
    }

    #[test]
    fn wrong_types_and_times_name_their_place() {
        let failure = parse("[lambda]\nmemory_mb = \"much\"\n").unwrap_err();
        assert!(failure.message.contains("memory_mb"), "{failure}");
        let failure = parse("[release]\nbake = \"soon\"\n").unwrap_err();
        assert!(failure.message.contains("`soon` is not a length of time"), "{failure}");
    }

    fn bakes(strategy: &Strategy) -> Vec<(f64, u64)> {
        let bake = |stage: &Stage| match stage {
            Stage::Watch { weight, bake } => Some((weight.as_percent(), bake.as_secs())),
            _ => None,
        };
        strategy.stages.iter().filter_map(bake).collect()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let settings =
            parse("[release]\nstrategy = \"canary\"\nsteps = [25]\nmin_requests = 7\n").unwrap();
        let strategy = settings.strategy(&ReleaseArgs::default()).unwrap();
        assert_eq!(bakes(&strategy), [(25.0, 300), (100.0, 0)]);
        let steps = Some(vec![StepSetting::Percent(1.0), StepSetting::Percent(2.0)]);
        let args = ReleaseArgs { steps, ..ReleaseArgs::default() };
        let strategy = settings.strategy(&args).unwrap();
        assert_eq!(bakes(&strategy), [(1.0, 300), (2.0, 300), (100.0, 0)]);
        assert_eq!(strategy.checks[0].min_requests, 7);
    }

    #[test]
    fn each_strategy_has_the_stages_and_checks_its_name_promises() {
        let strategy = |text: &str| {
            parse(&format!("[release]\n{text}\n")).unwrap().strategy(&ReleaseArgs::default())
        };
        let linear = strategy("strategy = \"linear\"\nincrement = 40\nbake = \"1min\"").unwrap();
        assert_eq!(bakes(&linear), [(40.0, 60), (80.0, 60), (100.0, 0)]);
        let blue_green = strategy("strategy = \"blue-green\"").unwrap();
        assert_eq!(bakes(&blue_green), [(100.0, 900)]);
        assert_eq!(blue_green.checks[0].against, Against::Limit(0.02));
        let gated = strategy("strategy = \"canary\"\nsteps = [10, \"pause\", 50]").unwrap();
        assert_eq!(gated.stages[2], Stage::Pause);
        assert!(strategy("strategy = \"canary\"\nsteps = [\"pause\", 50]").is_err());
        assert!(strategy("strategy = \"canary\"\nchecks = [\"cpu <= 1\"]").is_err());
        assert!(strategy("bake = \"1min\"").is_err(), "nothing is watched all at once");
        assert!(strategy("").unwrap().checks.is_empty());
    }

    #[test]
    fn a_canary_that_makes_no_sense_is_refused() {
        let settings = parse("[release]\nstrategy = \"canary\"\n").unwrap();
        for steps in [vec![0.0], vec![100.0], vec![50.0, 10.0], vec![101.0], vec![-1.0], vec![]] {
            let steps = Some(steps.into_iter().map(StepSetting::Percent).collect());
            let args = ReleaseArgs { steps, ..ReleaseArgs::default() };
            let failure = settings.strategy(&args).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{failure}");
        }
    }
}
