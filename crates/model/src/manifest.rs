//! What lies beside a packaged model in an artifact, for the runtime that serves it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::CountedOutput;

/// The packaged model's file name in an artifact.
pub const MODEL_FILE: &str = "model.slsml";

/// The manifest's file name in an artifact.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The served model's identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The model's name in the protocol's paths.
    pub name: String,
    /// SHA-256 of the packaged model, hexadecimal.
    pub model_sha256: String,
    /// The slsml that made the artifact.
    pub slsml_version: String,
    /// Which answers are counted as metrics, if any are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<CountedOutput>,
}

/// Why a manifest cannot be used.
#[derive(Debug, Error)]
#[error("cannot read the manifest {path}: {cause}")]
pub struct ManifestError {
    path: std::path::PathBuf,
    cause: String,
}

impl Manifest {
    /// Reads the manifest at `path`.
    pub fn read(path: &Path) -> Result<Manifest, ManifestError> {
        let refuse = |cause: String| ManifestError { path: path.to_owned(), cause };
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))
    }
}
