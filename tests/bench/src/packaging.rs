//! What `slsml package` makes of a model, how long it takes, and how long `zip -6` takes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use slsml_import::{DimOverride, ShapeOverride};

use crate::Error;
use crate::figures::Series;
use crate::peers::Peers;

/// Rounds of packaging.
const RUNS: usize = 5;

pub(crate) struct Package {
    pub(crate) package_ms: Series,
    /// Info-ZIP's or Python's zip at level 6 over the same files.
    pub(crate) zip6_ms: Series,
    /// The unpacked function.
    pub(crate) task: PathBuf,
    pub(crate) zip_bytes: u64,
    pub(crate) zip_bytes_without_model: u64,
    pub(crate) model_bytes: u64,
}

/// Packages a model in `scratch`.
pub(crate) fn measure(
    slsml: &Path,
    model: &Path,
    flags: &[String],
    peers: &Peers,
    scratch: &Path,
) -> Result<Package, Error> {
    let out = scratch.join("dist");
    let task = scratch.join("task");
    let zip = out.join("bench/lambda.zip");
    let (mut package_ms, mut zip6_ms) = (Series::default(), Series::default());
    for _ in 0..RUNS {
        let began = Instant::now();
        let output = Command::new(slsml)
            .args(["--json", "package", "--name", "bench", "--out"])
            .arg(&out)
            .args(flags)
            .arg(model)
            .output()
            .map_err(|error| format!("{}: {error}", slsml.display()))?;
        package_ms.push(began.elapsed());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            return Err(format!("slsml package failed: {said}").into());
        }
        if !task.exists() {
            zip::ZipArchive::new(File::open(&zip)?)?.extract(&task)?;
        }
        zip6_ms.push(peers.zip6(&task, &scratch.join("zip6.zip"))?);
    }
    let zip_bytes = zip.metadata()?.len();
    let mut archive = zip::ZipArchive::new(File::open(&zip)?)?;
    let model = archive.by_name("model.slsml")?;
    let (model_bytes, compressed) = (model.size(), model.compressed_size());
    Ok(Package {
        package_ms,
        zip6_ms,
        task,
        zip_bytes,
        zip_bytes_without_model: zip_bytes - compressed,
        model_bytes,
    })
}

/// Shapes and dimensions as `slsml package` takes them.
pub(crate) fn flags(shapes: &[ShapeOverride], dims: &[DimOverride]) -> Vec<String> {
    let shapes = shapes.iter().flat_map(|shape| {
        let dim = |dim: &Option<usize>| dim.map_or("?".into(), |length| length.to_string());
        let dims = shape.dims.iter().map(dim).collect::<Vec<_>>().join("x");
        ["--shape".to_owned(), format!("{}={dims}", shape.input)]
    });
    let dims =
        dims.iter().flat_map(|dim| ["--dim".to_owned(), format!("{}={}", dim.name, dim.length)]);
    shapes.chain(dims).collect()
}
