//! Files in, bytes out: what slsml ships and the record of it.
//!
//! Same input, same bytes: nothing here reads a clock, a umask, a locale or a directory's order.
//! It knows how an artifact looks, and no cloud that takes it.
#![forbid(unsafe_code)]

mod archive;
mod artifact;
mod budget;
mod dockerfile;
mod explain;
mod image;
mod runtime;
mod treemap;
mod write;

pub use archive::{ArchiveError, Entry, Method, zip};
pub use artifact::{ARTIFACT_FILE, Artifact, ArtifactError, EntryRecord, LambdaZip, ModelRecord};
pub use budget::{Budgets, LAMBDA_DIRECT_BYTES, LAMBDA_UNZIPPED_BYTES, OverBudget};
pub use dockerfile::DOCKERFILE_FOLDER;
pub use explain::{ExplainError, Part, explain};
pub use image::{
    Holds, IMAGE_FOLDER, Image, ImageError, ImageParts, Layer, Made, Platform, SERVER, make_image,
};
pub use runtime::{Arch, BOOTSTRAP, Program, Runtime, RuntimeError};
pub use treemap::treemap;
pub use write::{AlsoAs, Ingredients, WriteError, package_image, package_lambda};

pub use slsml_model::sha256_hex;
