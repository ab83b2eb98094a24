//! Where the bytes of an artifact are: parts that sum to the file, and parts of parts.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use serde::Serialize;
use slsml_model::{ContainerError, container};
use thiserror::Error;
use zip::ZipArchive;

use crate::{ARTIFACT_FILE, Artifact, ArtifactError};

/// A part of a file. Where it has parts of its own, they sum to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What it consists of, if that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// Why a file cannot be explained.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ExplainError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("{path} is neither an artifact's folder, a zip nor a packaged model")]
    Unknown { path: PathBuf },
    #[error("{path} is not a whole zip: {source}")]
    Zip { path: PathBuf, source: zip::result::ZipError },
    #[error("{path}: {source}")]
    Model { path: PathBuf, source: ContainerError },
}

impl Part {
    fn leaf(name: impl Into<String>, bytes: u64) -> Part {
        Part { name: name.into(), bytes, parts: vec![] }
    }

    fn whole(name: impl Into<String>, parts: Vec<Part>) -> Part {
        Part { name: name.into(), bytes: parts.iter().map(|part| part.bytes).sum(), parts }
    }
}

/// The parts of the artifact, zip or packaged model at `path`: first of the file itself; for a
/// zip, then of what is in it, unpacked.
pub fn explain(path: &Path) -> Result<Vec<Part>, ExplainError> {
    if path.join(ARTIFACT_FILE).is_file() {
        let artifact = Artifact::read(path)?;
        let bytes = artifact.lambda_zip(path)?;
        return zip_parts(&path.join(&artifact.for_lambda()?.file), &bytes);
    }
    let bytes = std::fs::read(path)
        .map_err(|source| ExplainError::Read { path: path.to_owned(), source })?;
    if bytes.starts_with(b"PK\x03\x04") {
        zip_parts(path, &bytes)
    } else if bytes.starts_with(b"SLSMLPM\0") {
        Ok(vec![model_parts(path, &name(path), &bytes)?])
    } else {
        Err(ExplainError::Unknown { path: path.to_owned() })
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn zip_parts(path: &Path, bytes: &[u8]) -> Result<Vec<Part>, ExplainError> {
    let failed = |source| ExplainError::Zip { path: path.to_owned(), source };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(failed)?;
    let (mut zipped, mut unpacked) = (Vec::new(), Vec::new());
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(failed)?;
        let (entry, compressed) =
            (file.name().map_err(failed)?.into_owned(), file.compressed_size());
        let mut content = Vec::new();
        std::io::copy(&mut file, &mut content).map_err(|error| failed(error.into()))?;
        let part = match content.starts_with(b"SLSMLPM\0") {
            true => model_parts(path, &entry, &content)?,
            false => Part::leaf(&entry, content.len() as u64),
        };
        // What is stored lies in the zip byte for byte.
        let is_stored = compressed == part.bytes;
        zipped.push(if is_stored { part.clone() } else { Part::leaf(entry, compressed) });
        unpacked.push(part);
    }
    let data: u64 = zipped.iter().map(|part| part.bytes).sum();
    zipped.push(Part::leaf("the zip's own records", bytes.len() as u64 - data));
    Ok(vec![Part::whole(name(path), zipped), Part::whole("unpacked", unpacked)])
}

fn model_parts(path: &Path, name: &str, bytes: &[u8]) -> Result<Part, ExplainError> {
    let parts = container::parts(bytes)
        .map_err(|source| ExplainError::Model { path: path.to_owned(), source })?;
    let parts = parts.into_iter().map(|(name, bytes)| Part::leaf(name, bytes)).collect();
    Ok(Part::whole(name, parts))
}
