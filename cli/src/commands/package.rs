//! `slsml package`.

use serde_json::json;
use slsml_package::{Runtime, package_lambda};

use crate::args;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;

pub(crate) fn run(
    settings: &Settings,
    args: args::Package,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let plan = settings.package(args)?;
    let runtime = Runtime::read(&plan.runtime)?;
    let step = printer.step(&format!("Packaging {}", plan.model.display()));
    let packaged = slsml_import::import(&plan.model, &plan.shapes)?;
    let folder = plan.out.join(&plan.name);
    let artifact =
        package_lambda(&folder, &plan.name, &packaged.bytes, packaged.model.header(), &runtime)?;
    drop(step);
    let zip = folder.join(&artifact.lambda.file);
    let value = json!({ "artifact": folder.join(slsml_package::ARTIFACT_FILE), "zip": zip, "built": artifact });
    printer.result(&value, || {
        let signature = &artifact.model.signature;
        let list = |all: &[slsml_model::TensorSpec]| {
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        format!(
            "Packaged {name} for AWS Lambda on {arch}\n  \
             takes   {takes}\n  \
             gives   {gives}\n  \
             zip     {zip}\n  \
             size    {size} ({model} of it the model, {unzipped} unpacked)\n  \
             sha256  {digest}\n\n\
             Next: slsml deploy lambda --alias live --artifact {folder}",
            name = artifact.name,
            arch = artifact.lambda.arch,
            takes = list(&signature.inputs),
            gives = list(&signature.outputs),
            zip = zip.display(),
            size = bytes(artifact.lambda.bytes),
            model = bytes(artifact.model.bytes),
            unzipped = bytes(artifact.lambda.unzipped_bytes),
            digest = artifact.lambda.sha256,
            folder = folder.display(),
        )
    })
}

/// A size for people.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
