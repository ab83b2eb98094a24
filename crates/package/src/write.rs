//! Putting an artifact on disk: whole files appear or nothing changes, the record last.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use slsml_model::{Header, MANIFEST_FILE, MODEL_FILE, Manifest};
use thiserror::Error;

use crate::{
    ARTIFACT_FILE, ArchiveError, Artifact, Entry, EntryRecord, LambdaZip, ModelRecord, Runtime,
    sha256_hex, zip,
};

const ZIP_FILE: &str = "lambda.zip";

/// Why an artifact could not be written.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum WriteError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot write {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot describe the artifact: {0}")]
    Json(#[from] serde_json::Error),
}

/// Builds the Lambda zip of a packaged model and writes it with its record into `folder`.
pub fn package_lambda(
    folder: &Path,
    name: &str,
    model: &[u8],
    header: &Header,
    runtime: &Runtime,
) -> Result<Artifact, WriteError> {
    let model_sha256 = sha256_hex(model);
    let manifest = Manifest {
        name: name.into(),
        model_sha256: model_sha256.clone(),
        slsml_version: env!("CARGO_PKG_VERSION").into(),
    };
    let mut manifest = serde_json::to_vec_pretty(&manifest)?;
    manifest.push(b'\n');
    let entries = [
        Entry { path: "bootstrap", bytes: &runtime.bytes, executable: true },
        Entry { path: MANIFEST_FILE, bytes: &manifest, executable: false },
        Entry { path: MODEL_FILE, bytes: model, executable: false },
    ];
    let bytes = zip(&entries)?;
    let record = |entry: &Entry<'_>| EntryRecord {
        path: entry.path.into(),
        bytes: entry.bytes.len() as u64,
        sha256: sha256_hex(entry.bytes),
    };
    let artifact = Artifact {
        schema: Artifact::schema(),
        name: name.into(),
        slsml_version: env!("CARGO_PKG_VERSION").into(),
        model: ModelRecord {
            sha256: model_sha256,
            source_sha256: header.source_sha256.clone(),
            bytes: model.len() as u64,
            signature: header.signature.clone(),
        },
        lambda: LambdaZip {
            file: ZIP_FILE.into(),
            arch: runtime.arch,
            bytes: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            unzipped_bytes: entries.iter().map(|entry| entry.bytes.len() as u64).sum(),
            entries: entries.iter().map(record).collect(),
        },
    };
    let mut json = serde_json::to_vec_pretty(&artifact)?;
    json.push(b'\n');
    std::fs::create_dir_all(folder)
        .map_err(|source| WriteError::Io { path: folder.to_owned(), source })?;
    write_whole(&folder.join(ZIP_FILE), &bytes)?;
    write_whole(&folder.join(ARTIFACT_FILE), &json)?;
    Ok(artifact)
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
