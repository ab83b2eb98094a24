//! `artifact.json`: what was built. Deploying reads nothing else to know what to deploy.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use slsml_model::{Fidelity, Precision, Signature};
use thiserror::Error;

use crate::{Arch, Image, Method};

/// The record's file name.
pub const ARTIFACT_FILE: &str = "artifact.json";

/// The shape of the record this build reads and writes.
const SCHEMA: u32 = 4;

/// Everything that was built from one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Version of this record's shape.
    pub schema: u32,
    /// The model's name.
    pub name: String,
    /// The slsml that built it.
    pub slsml_version: String,
    /// The model inside.
    pub model: ModelRecord,
    /// The zip for AWS Lambda, if it was packaged for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<LambdaZip>,
    /// The container image, if it was packaged for Cloud Run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// The packaged model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// SHA-256 of the packaged model, hexadecimal.
    pub sha256: String,
    /// SHA-256 of the ONNX file it came from, hexadecimal.
    pub source_sha256: String,
    /// Size of the packaged model.
    pub bytes: u64,
    /// What it takes and gives.
    pub signature: Signature,
    /// How its weights are stored.
    pub precision: Precision,
    /// How its answers compare with those of the ONNX file.
    pub parity: Fidelity,
    /// Names of constants that hold NaN.
    pub not_numbers: Vec<String>,
}

/// A zip for AWS Lambda.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LambdaZip {
    /// File name, beside the record.
    pub file: String,
    /// What its runtime runs on.
    pub arch: Arch,
    /// Size of the zip.
    pub bytes: u64,
    /// SHA-256 of the zip, hexadecimal.
    pub sha256: String,
    /// Size of what is inside, uncompressed.
    pub unzipped_bytes: u64,
    /// The files inside.
    pub entries: Vec<EntryRecord>,
}

/// A file inside an archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Path inside the archive.
    pub path: String,
    /// Size, uncompressed.
    pub bytes: u64,
    /// Size inside the archive.
    pub zipped_bytes: u64,
    /// How it was put into the archive.
    pub method: Method,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// Why a record or what it names cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ArtifactError {
    #[error("no artifact at {path}")]
    Missing { path: PathBuf },
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not an artifact record: {source}")]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{path} names the file `{file}`, which does not lie beside it")]
    Elsewhere { path: PathBuf, file: String },
    #[error("{path} has schema {found}, this slsml reads schema {SCHEMA}: package the model again")]
    Schema { path: PathBuf, found: u64 },
    #[error("the artifact of {name} holds no {what}")]
    NotFor { name: String, what: &'static str },
    #[error(
        "{path} is not the file its artifact.json describes (SHA-256 {found}, recorded {recorded})"
    )]
    Digest { path: PathBuf, found: String, recorded: String },
}

impl Artifact {
    pub(crate) const fn schema() -> u32 {
        SCHEMA
    }

    /// Reads the record in `folder`.
    pub fn read(folder: &Path) -> Result<Artifact, ArtifactError> {
        let path = folder.join(ARTIFACT_FILE);
        let bytes = read(&path)?;
        let malformed = |source| ArtifactError::Malformed { path: path.clone(), source };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(malformed)?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(found) if found != u64::from(SCHEMA) => Err(ArtifactError::Schema { path, found }),
            _ => serde_json::from_value(value).map_err(malformed),
        }
    }

    /// The record of the zip.
    pub fn for_lambda(&self) -> Result<&LambdaZip, ArtifactError> {
        let missing = || ArtifactError::NotFor { name: self.name.clone(), what: "zip for Lambda" };
        self.lambda.as_ref().ok_or_else(missing)
    }

    /// The record of the image.
    pub fn for_cloudrun(&self) -> Result<&Image, ArtifactError> {
        let missing = || ArtifactError::NotFor { name: self.name.clone(), what: "container image" };
        self.image.as_ref().ok_or_else(missing)
    }

    /// The zip's bytes from `folder`, if they are what the record says.
    pub fn lambda_zip(&self, folder: &Path) -> Result<Vec<u8>, ArtifactError> {
        let lambda = self.for_lambda()?;
        if Path::new(&lambda.file).file_name() != Some(lambda.file.as_ref()) {
            let path = folder.join(ARTIFACT_FILE);
            return Err(ArtifactError::Elsewhere { path, file: lambda.file.clone() });
        }
        let path = folder.join(&lambda.file);
        let bytes = read(&path)?;
        let found = crate::sha256_hex(&bytes);
        if found == lambda.sha256 {
            return Ok(bytes);
        }
        Err(ArtifactError::Digest { path, found, recorded: lambda.sha256.clone() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ArtifactError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ArtifactError::Missing { path: path.to_owned() },
        _ => ArtifactError::Unreadable { path: path.to_owned(), source },
    })
}
