//! Putting an artifact on disk: whole files appear or nothing changes, the record last.

use std::fs::{File, Permissions};
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use slsml_model::{
    CountedOutput, Fidelity, Header, MANIFEST_FILE, MODEL_FILE, Manifest, Precision,
};
use thiserror::Error;

use crate::archive::deflated_share;
use crate::budget::{self, LAMBDA_DIRECT_BYTES};
use crate::dockerfile::{self, DOCKERFILE_FOLDER};
use crate::image::write_layout;
use crate::{
    ARTIFACT_FILE, Arch, ArchiveError, Artifact, BOOTSTRAP, Budgets, Entry, EntryRecord,
    IMAGE_FOLDER, ImageError, ImageParts, LambdaZip, Method, ModelRecord, OverBudget, Runtime,
    make_image, sha256_hex, zip,
};

const ZIP_FILE: &str = "lambda.zip";

/// Deflating that leaves more than this share of a file is not worth its time: the zip is made
/// and unpacked faster without.
const WORTH_DEFLATING: f64 = 0.9;

/// Why an artifact could not be written.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum WriteError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    #[error("cannot read back the zip: {0}")]
    Unreadable(#[from] zip::result::ZipError),
    #[error("cannot write {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot describe the artifact: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a zip for Lambda holds one runtime, not {0}")]
    Runtimes(usize),
}

/// What an artifact is made from.
#[derive(Debug)]
pub struct Ingredients<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The packaged model's file.
    pub model: &'a [u8],
    /// What that file says of itself.
    pub header: &'a Header,
    /// How its weights are stored.
    pub precision: Precision,
    /// How its answers compare with the original's.
    pub parity: &'a Fidelity,
    /// Names of constants that hold NaN.
    pub not_numbers: &'a [String],
    /// Which of its answers are counted as metrics, if any are.
    pub counted: Option<CountedOutput>,
    /// The programs that serve it: one for Lambda, one for each processor of an image.
    pub runtimes: &'a [Runtime],
    /// What the artifact may weigh.
    pub budgets: Budgets,
    /// Whether size is worth a minute.
    pub smallest: bool,
    /// The time files carry, in seconds since 1970.
    pub modified: Option<i64>,
    /// The repository the model comes from, and the commit.
    pub source: Option<&'a str>,
    /// The commit.
    pub revision: Option<&'a str>,
    /// The model's version, for an image.
    pub version: Option<&'a str>,
}

/// In what else an image is written, beside its OCI layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlsoAs<'a> {
    /// A file for `docker load`.
    pub docker_archive: Option<&'a Path>,
    /// A folder with a Dockerfile that makes the same.
    pub dockerfile: bool,
}

/// Builds the Lambda zip of a packaged model and writes it with its record into `folder`, unless
/// it is over budget.
pub fn package_lambda(folder: &Path, from: &Ingredients<'_>) -> Result<Artifact, WriteError> {
    let (model_sha256, manifest) = manifest(from)?;
    let method = if from.smallest { Method::Zopfli } else { Method::Deflated };
    let file = |path, bytes| Entry { path, bytes, executable: false, method, zipped: None };
    let [runtime] = from.runtimes else {
        return Err(WriteError::Runtimes(from.runtimes.len()));
    };
    let zipped = runtime.zipped.as_deref();
    let mut entries = [
        Entry {
            executable: true,
            zipped,
            method: if zipped.is_some() { Method::Zopfli } else { method },
            ..file(BOOTSTRAP, &runtime.bytes)
        },
        file(MANIFEST_FILE, &manifest),
        file(MODEL_FILE, from.model),
    ];
    if !from.smallest {
        choose_methods(&mut entries);
    }
    let bytes = zip(&entries, from.modified)?;
    let mut archive = zip::ZipArchive::new(Cursor::new(&bytes))?;
    let mut record = |entry: &Entry<'_>| -> Result<EntryRecord, WriteError> {
        Ok(EntryRecord {
            path: entry.path.into(),
            bytes: entry.bytes.len() as u64,
            zipped_bytes: archive.by_name(entry.path)?.compressed_size(),
            method: entry.method,
            sha256: sha256_hex(entry.bytes),
        })
    };
    let lambda = LambdaZip {
        file: ZIP_FILE.into(),
        arch: runtime.arch,
        bytes: bytes.len() as u64,
        sha256: sha256_hex(&bytes),
        unzipped_bytes: entries.iter().map(|entry| entry.bytes.len() as u64).sum(),
        entries: entries.iter().map(&mut record).collect::<Result<_, _>>()?,
    };
    budget::check(&lambda, &from.budgets)?;
    let _lock = lock(folder)?;
    let artifact = Artifact { lambda: Some(lambda), ..record_in(folder, from, &model_sha256)? };
    write_whole(&folder.join(ZIP_FILE), &bytes)?;
    write_record(folder, &artifact)?;
    Ok(artifact)
}

/// Builds the container image of a packaged model and writes its layout with its record into
/// `folder`, and what else is asked for.
pub fn package_image(
    folder: &Path,
    from: &Ingredients<'_>,
    also: AlsoAs<'_>,
) -> Result<Artifact, WriteError> {
    let (model_sha256, manifest) = manifest(from)?;
    let programs: Vec<(Arch, &[u8])> =
        from.runtimes.iter().map(|runtime| (runtime.arch, &*runtime.bytes)).collect();
    let parts = ImageParts {
        name: from.name,
        programs: &programs,
        model: from.model,
        model_sha256: &model_sha256,
        manifest: &manifest,
        slsml_version: env!("CARGO_PKG_VERSION"),
        source: from.source,
        revision: from.revision,
        version: from.version,
        modified: from.modified,
        smallest: from.smallest,
    };
    let made = make_image(&parts)?;
    budget::check_image(&made.image, &from.budgets)?;
    let _lock = lock(folder)?;
    let artifact =
        Artifact { image: Some(made.image.clone()), ..record_in(folder, from, &model_sha256)? };
    // First what may fail: an image that is in its folder and not in the record is of no use.
    if let Some(path) = also.docker_archive {
        write_whole(path, &made.docker_archive(from.name, from.modified)?)?;
    }
    if also.dockerfile {
        replace(folder, DOCKERFILE_FOLDER, |place| dockerfile::write(&parts, place))?;
    }
    replace(folder, IMAGE_FOLDER, |place| {
        write_layout(&made, place)
            .map_err(|source| WriteError::Io { path: place.to_owned(), source })
    })?;
    write_record(folder, &artifact)?;
    Ok(artifact)
}

fn remove(folder: &Path) -> Result<(), WriteError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(WriteError::Io { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// A folder appears as a whole in the place of an older one.
fn replace(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&Path) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let place = folder.join(name);
    let failed = |source| WriteError::Io { path: place.clone(), source };
    let staged = tempfile::Builder::new().prefix(".slsml-").tempdir_in(folder).map_err(failed)?;
    let fresh = staged.path().join(name);
    write(&fresh)?;
    match std::fs::rename(&place, staged.path().join("older")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::fs::rename(&fresh, &place).map_err(failed)
}

/// The model's digest, and the manifest that goes with it.
fn manifest(from: &Ingredients<'_>) -> Result<(String, Vec<u8>), WriteError> {
    let manifest = Manifest {
        name: from.name.into(),
        model_sha256: sha256_hex(from.model),
        slsml_version: env!("CARGO_PKG_VERSION").into(),
        counted: from.counted.clone(),
    };
    let mut json = serde_json::to_vec_pretty(&manifest)?;
    json.push(b'\n');
    Ok((manifest.model_sha256, json))
}

/// The record in a folder. What was made of the very same model for another target stays
/// in it, and so does a Dockerfile; one of another model would be built by mistake.
fn record_in(
    folder: &Path,
    from: &Ingredients<'_>,
    model_sha256: &str,
) -> Result<Artifact, WriteError> {
    let fresh = Artifact {
        schema: Artifact::schema(),
        name: from.name.into(),
        slsml_version: env!("CARGO_PKG_VERSION").into(),
        model: ModelRecord {
            sha256: model_sha256.into(),
            source_sha256: from.header.source_sha256.clone(),
            bytes: from.model.len() as u64,
            signature: from.header.signature.clone(),
            precision: from.precision,
            parity: from.parity.clone(),
            not_numbers: from.not_numbers.to_vec(),
        },
        lambda: None,
        image: None,
    };
    // What was measured of it may differ, by the samples it was measured with.
    let what = |of: &Artifact| {
        let model = (of.model.sha256.clone(), of.model.source_sha256.clone());
        (of.name.clone(), model, of.slsml_version.clone())
    };
    let same = |there: &Artifact| what(there) == what(&fresh);
    // One that cannot be read is replaced.
    match Artifact::read(folder).ok().filter(same) {
        Some(Artifact { lambda, image, .. }) => Ok(Artifact { lambda, image, ..fresh }),
        None => {
            remove(&folder.join(DOCKERFILE_FOLDER))?;
            Ok(fresh)
        }
    }
}

/// Makes a folder, and keeps others who package into it out until this is dropped: they add to one
/// record.
fn lock(folder: &Path) -> Result<File, WriteError> {
    let failed = |source| WriteError::Io { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file = File::open(folder).map_err(failed)?;
    match file.lock() {
        // Some network file systems know no locks.
        Err(error) if error.kind() != std::io::ErrorKind::Unsupported => Err(failed(error)),
        _ => Ok(file),
    }
}

fn write_record(folder: &Path, artifact: &Artifact) -> Result<(), WriteError> {
    let mut json = serde_json::to_vec_pretty(artifact)?;
    json.push(b'\n');
    write_whole(&folder.join(ARTIFACT_FILE), &json)
}

/// Stores what hardly deflates, unless only deflating keeps the zip below what Lambda takes
/// without a bucket.
fn choose_methods(entries: &mut [Entry<'_>]) {
    let share = |entry: &Entry<'_>| match entry.zipped {
        Some(zipped) => zipped.len() as f64 / entry.bytes.len() as f64,
        None => deflated_share(entry.bytes),
    };
    let shares: Vec<f64> = entries.iter().map(share).collect();
    let size = |entries: &[Entry<'_>], stored: bool| -> f64 {
        let each = entries.iter().zip(&shares);
        each.map(|(entry, share)| {
            let share = if stored && *share > WORTH_DEFLATING { 1.0 } else { *share };
            entry.bytes.len() as f64 * share
        })
        .sum()
    };
    let limit = LAMBDA_DIRECT_BYTES as f64;
    if size(entries, true) > limit && size(entries, false) <= limit {
        return;
    }
    for (entry, share) in entries.iter_mut().zip(&shares) {
        if *share > WORTH_DEFLATING && entry.zipped.is_none() {
            entry.method = Method::Stored;
        }
    }
}

/// Writes beside the target and renames, so that no reader and no crash sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let failed = |source| WriteError::Io { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    // Readable as the umask says; temporary files are private otherwise.
    let mut file = tempfile::Builder::new()
        .prefix(".slsml-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
