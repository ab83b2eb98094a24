//! `slsml package`.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;
use slsml_import::{Options, Packaged};
use slsml_inference::{InferRequest, Limits};
use slsml_model::{
    CountedBy, CountedOutput, Fidelity, Model, Precision, SampleSource, Signature, Tensor,
    TensorSpec,
};
use slsml_package::{
    AlsoAs, Arch, Artifact, DOCKERFILE_FOLDER, Holds, Image, Ingredients, LambdaZip, Method,
    Runtime, package_image, package_lambda,
};

use crate::args::{self, TargetName};
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::{PackagePlan, Settings};

pub(crate) fn run(
    settings: &Settings,
    args: args::Package,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let plan = settings.package(args)?;
    let modified = source_date_epoch()?;
    let runtimes = read_runtimes(&plan)?;
    let samples = plan.samples.as_deref().map(read_samples).transpose()?;
    let step = printer.step(&format!("Packaging {}", plan.model.display()));
    let bind = |signature: &Signature| bind_samples(samples.as_deref().unwrap_or(&[]), signature);
    let packaged = slsml_import::import(
        &plan.model,
        &Options {
            shapes: plan.shapes.clone(),
            precision: plan.precision,
            samples: plan.samples.is_some().then_some(&bind),
            tolerance: plan.tolerance,
        },
    )?;
    let signature = packaged.model.signature();
    let counted = settings.counted(&plan, signature)?;
    let ready = ready(&plan, &packaged)?;
    let folder = plan.out.join(&plan.name);
    let ingredients = Ingredients {
        name: &plan.name,
        model: &packaged.bytes,
        header: packaged.model.header(),
        precision: plan.precision,
        parity: &packaged.fidelity,
        not_numbers: &packaged.not_numbers,
        counted: counted.clone(),
        runtimes: &runtimes,
        budgets: plan.budgets,
        smallest: plan.smallest,
        modified,
        source: plan.source.as_deref(),
        revision: plan.revision.as_deref(),
        version: plan.version.as_deref(),
    };
    let also =
        AlsoAs { docker_archive: plan.docker_archive.as_deref(), dockerfile: plan.dockerfile };
    let artifact = match plan.target {
        TargetName::Lambda => package_lambda(&folder, &ingredients)?,
        TargetName::Cloudrun => package_image(&folder, &ingredients, also)?,
    };
    drop(step);
    if !packaged.not_numbers.is_empty() {
        printer.note(&format!("Constants that hold NaN: {}", packaged.not_numbers.join(", ")));
    }
    for (runtime, path) in runtimes.iter().zip(&plan.runtimes) {
        if plan.target == TargetName::Cloudrun && !runtime.is_static() {
            printer.note(&format!(
                "{} is linked dynamically: it cannot start in an image that holds nothing else",
                path.display()
            ));
        }
    }
    let dockerfile = plan.dockerfile.then(|| folder.join(DOCKERFILE_FOLDER).join("Dockerfile"));
    for (what, path) in
        [("The Dockerfile", &dockerfile), ("The archive for docker load", &plan.docker_archive)]
    {
        if let Some(path) = path {
            printer.note(&format!("{what} is {}", path.display()));
        }
    }
    let value = json!({
        "artifact": folder.join(slsml_package::ARTIFACT_FILE),
        "zip": artifact.lambda.as_ref().map(|zip| folder.join(&zip.file)),
        "image": artifact.image.as_ref().map(|image| folder.join(&image.folder)),
        "dockerfile": dockerfile,
        "docker_archive": plan.docker_archive,
        "built": artifact,
        "counted": counted,
        "full_weights_bytes": packaged.full_weights,
        "stored_weights_bytes": packaged.stored_weights,
        "ready_ms": ready.map(|ready| ready.as_secs_f64() * 1e3),
    });
    printer.result(&value, || text(&folder, &artifact, &packaged, counted.as_ref(), plan.target))
}

/// The programs to package: one for each processor, those that were asked for.
fn read_runtimes(plan: &PackagePlan) -> Result<Vec<Runtime>, Failure> {
    let mut runtimes: Vec<Runtime> = Vec::new();
    for path in &plan.runtimes {
        let runtime = Runtime::read(path)?;
        let (path, arch) = (path.display(), runtime.arch);
        if !plan.arches.is_empty() && !plan.arches.contains(&arch) {
            let wanted = plan.arches.iter().map(Arch::to_string).collect::<Vec<_>>().join(", ");
            return Err(Failure::usage(format!(
                "{path} is a runtime for {arch}, not for {wanted}"
            ))
            .help("leave out --runtime, or name one for that processor"));
        }
        if runtimes.iter().any(|other| other.arch == arch) {
            return Err(Failure::usage(format!("{path} is a second runtime for {arch}"))
                .help("name one for each processor"));
        }
        runtimes.push(runtime);
    }
    let is_there = |arch: &&Arch| runtimes.iter().any(|runtime| runtime.arch == **arch);
    if let Some(missing) = plan.arches.iter().find(|arch| !is_there(arch)) {
        return Err(Failure::usage(format!("no --runtime is for {missing}"))
            .help("leave out --runtime, or name one for each processor"));
    }
    Ok(runtimes)
}

/// The samples' file: one infer request, an array of them, or one after the other.
fn read_samples(path: &Path) -> Result<Vec<Box<RawValue>>, Failure> {
    let unusable = |why: String| {
        Failure::usage(format!("the samples {} cannot be used: {why}", path.display()))
            .help("write infer requests: one, an array of them, or one a line")
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    let mut samples = Vec::new();
    for value in serde_json::Deserializer::from_str(&text).into_iter::<Box<RawValue>>() {
        let value = value.map_err(|error| unusable(error.to_string()))?;
        match value.get().starts_with('[') {
            true => samples.extend(
                serde_json::from_str::<Vec<Box<RawValue>>>(value.get())
                    .map_err(|error| unusable(error.to_string()))?,
            ),
            false => samples.push(value),
        }
    }
    if samples.is_empty() { Err(unusable("it holds none".into())) } else { Ok(samples) }
}

fn bind_samples(
    samples: &[Box<RawValue>],
    signature: &Signature,
) -> Result<Vec<Vec<Tensor>>, String> {
    let limits = Limits { body_bytes: usize::MAX, ..Limits::default() };
    let bind = |(number, sample): (usize, &RawValue)| {
        InferRequest::parse(sample.get().as_bytes(), signature, &limits)
            .map(|request| request.inputs)
            .map_err(|error| format!("sample {number}: {error}"))
    };
    (1..).zip(samples.iter().map(AsRef::as_ref)).map(bind).collect()
}

/// The time files carry, where reproducible builds say it.
/// <https://reproducible-builds.org/specs/source-date-epoch/>
fn source_date_epoch() -> Result<Option<i64>, Failure> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(None),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|_| {
            Failure::usage(format!("SOURCE_DATE_EPOCH is `{text}`, which is no number of seconds"))
                .help("unset it, or set it to the seconds since 1970 of a commit")
        }),
    }
}

/// How long the model takes to load here, if there is a budget for it: the shortest of some
/// times, as other work on the machine only ever adds.
fn ready(plan: &PackagePlan, packaged: &Packaged) -> Result<Option<Duration>, Failure> {
    const LOADS: usize = 5;
    let Some(budget) = plan.max_ready_ms else { return Ok(None) };
    let mut shortest = Duration::MAX;
    for _ in 0..LOADS {
        let began = Instant::now();
        Model::from_bytes(&packaged.bytes, &plan.model)
            .map_err(|error| Failure::new(Exit::Model, error))?;
        shortest = shortest.min(began.elapsed());
    }
    let took = shortest.as_secs_f64() * 1e3;
    if took > budget {
        return Err(Failure::new(
            Exit::Model,
            format!("the model takes {took:.1} ms to load here, the budget is {budget} ms"),
        )
        .help("slsml inspect shows every stage; raise max_ready_ms, or take a smaller model"));
    }
    Ok(Some(shortest))
}

fn text(
    folder: &Path,
    artifact: &Artifact,
    packaged: &Packaged,
    counted: Option<&CountedOutput>,
    target: TargetName,
) -> String {
    let signature = &artifact.model.signature;
    let weights = match artifact.model.precision {
        Precision::Full => String::new(),
        Precision::F16 => format!(
            "\n  weights {} in half precision, {} before",
            bytes(packaged.stored_weights),
            bytes(packaged.full_weights)
        ),
    };
    let counted = counted.map_or(String::new(), |CountedOutput { output, by }| {
        let by = match by {
            CountedBy::LargestOf { classes } => format!("the largest of {classes}"),
            CountedBy::Label => "labels".into(),
            CountedBy::Score { low, high } => format!("scores from {low} to {high}"),
        };
        format!("\n  counts  {output}, {by}")
    });
    let model = format!(
        "takes   {takes}\n  \
         gives   {gives}\n  \
         parity  {parity}{weights}{counted}",
        takes = tensors(&signature.inputs),
        gives = tensors(&signature.outputs),
        parity = parity(&artifact.model.parity),
    );
    match (target, &artifact.lambda, &artifact.image) {
        (TargetName::Lambda, Some(lambda), _) => zip_text(folder, artifact, lambda, &model),
        (TargetName::Cloudrun, _, Some(image)) => image_text(folder, artifact, image, &model),
        _ => format!("Packaged {}\n  {model}", artifact.name),
    }
}

fn zip_text(folder: &Path, artifact: &Artifact, lambda: &LambdaZip, model: &str) -> String {
    let stored: Vec<&str> = lambda
        .entries
        .iter()
        .filter(|entry| entry.method == Method::Stored)
        .map(|entry| entry.path.as_str())
        .collect();
    let stored = match stored.as_slice() {
        [] => String::new(),
        paths => format!("; stored, as it hardly deflates: {}", paths.join(", ")),
    };
    format!(
        "Packaged {name} for AWS Lambda on {arch}\n  \
         {model}\n  \
         zip     {zip}\n  \
         size    {size} ({share} of it the model, {unzipped} unpacked{stored})\n  \
         sha256  {digest}\n\n\
         Next: slsml deploy lambda --alias live --artifact {folder}",
        name = artifact.name,
        arch = lambda.arch,
        zip = folder.join(&lambda.file).display(),
        size = bytes(lambda.bytes),
        share = bytes(artifact.model.bytes),
        unzipped = bytes(lambda.unzipped_bytes),
        digest = lambda.sha256,
        folder = folder.display(),
    )
}

fn image_text(folder: &Path, artifact: &Artifact, image: &Image, model: &str) -> String {
    let of = |holds: Holds| {
        let layers = image.platforms.iter().map(|platform| {
            platform
                .layers
                .iter()
                .filter(|layer| layer.holds == holds)
                .map(|layer| layer.bytes)
                .sum()
        });
        layers.map(bytes).collect::<Vec<_>>()
    };
    let arches = image.platforms.iter().map(|platform| platform.arch.to_string());
    let layout = folder.join(&image.folder);
    let layout = layout.display();
    format!(
        "Packaged {name} for Google Cloud Run on {arch}\n  \
         {model}\n  \
         image   {layout}, an OCI layout\n  \
         size    {size} (program {program}, model {weights})\n  \
         digest  {digest}\n\n\
         Next: slsml push REGISTRY/{name} --artifact {folder}",
        name = artifact.name,
        arch = arches.collect::<Vec<_>>().join(" and "),
        folder = folder.display(),
        size = bytes(image.bytes),
        program = of(Holds::Runtime).join(" and "),
        weights = of(Holds::Model).first().map_or("", String::as_str),
        digest = image.digest,
    )
}

fn parity(parity: &Fidelity) -> String {
    let kind = match parity.source {
        SampleSource::Generated => "made-up",
        SampleSource::File => "given",
    };
    if parity.samples == 0 {
        return "not known: the original runs none of the made-up samples; pass --samples".into();
    }
    let largest = parity.outputs.iter().map(|output| output.largest).fold(0.0, f64::max);
    let mean = parity.outputs.iter().map(|output| output.mean).fold(0.0, f64::max);
    format!(
        "as the original on {} {kind} samples: off by {largest:.1e} at most, {mean:.1e} on average",
        parity.samples
    )
}

/// Inputs or outputs for people.
pub(crate) fn tensors(all: &[TensorSpec]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A size for people.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
