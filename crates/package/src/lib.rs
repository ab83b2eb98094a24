//! Files in, bytes out: what slsml ships and the record of it.
//!
//! Same input, same bytes: nothing here reads a clock, a umask, a locale or a directory's order.
//! It knows how an artifact looks, and no cloud that takes it.
#![forbid(unsafe_code)]

mod archive;
mod artifact;
mod runtime;
mod write;

pub use archive::{ArchiveError, Entry, zip};
pub use artifact::{ARTIFACT_FILE, Artifact, ArtifactError, EntryRecord, LambdaZip, ModelRecord};
pub use runtime::{Arch, Runtime, RuntimeError};
pub use write::{WriteError, package_lambda};

pub use slsml_model::sha256_hex;
