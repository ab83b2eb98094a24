//! How long packaging takes and what it makes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{Error, Spread};

const RUNS: usize = 5;

pub(crate) struct Package {
    pub(crate) took_ms: Spread,
    pub(crate) zip: PathBuf,
    pub(crate) zip_bytes: u64,
    pub(crate) zip_bytes_without_model: u64,
    pub(crate) model_bytes: u64,
}

pub(crate) fn measure(slsml: &Path, model: &Path, scratch: &Path) -> Result<Package, Error> {
    let out = scratch.join("dist");
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        let output = Command::new(slsml)
            .args(["--json", "package", "--name", "bench", "--out"])
            .arg(&out)
            .arg(model)
            .output()
            .map_err(|error| format!("{}: {error}", slsml.display()))?;
        times.push(began.elapsed());
        if !output.status.success() {
            return Err(format!(
                "slsml package failed: {}",
                String::from_utf8_lossy(&output.stdout)
            )
            .into());
        }
    }
    let zip = out.join("bench/lambda.zip");
    let zip_bytes = zip.metadata()?.len();
    let mut archive = zip::ZipArchive::new(File::open(&zip)?)?;
    let model = archive.by_name("model.slsml")?;
    let (model_bytes, compressed) = (model.size(), model.compressed_size());
    drop(model);
    let zip_bytes_without_model = zip_bytes - compressed;
    Ok(Package { took_ms: Spread::of(times), zip, zip_bytes, zip_bytes_without_model, model_bytes })
}

/// Unpacks a zip as Lambda would.
pub(crate) fn unpack(zip: &Path, folder: &Path) -> Result<(), Error> {
    Ok(zip::ZipArchive::new(File::open(zip)?)?.extract(folder)?)
}
