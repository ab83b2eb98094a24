//! A packaged model: what it takes and gives ([`Signature`]), its file ([`container`]), and the
//! one path that loads and runs it ([`Model`]).
//!
//! This crate is linked into the served binaries, so it holds no ONNX importer (that is
//! `slsml-import`), no network, no cloud and no protocol. tract's types never leave it, except
//! through [`graph`], which the importer needs to write what [`Model`] reads.
#![deny(unsafe_code)]

pub mod container;
mod counted;
mod fidelity;
pub mod graph;
mod heap;
mod manifest;
mod model;
mod processor;
mod signature;
mod tensor;

pub use container::{ContainerError, Header};
pub use counted::{BINS, CountedBy, CountedOutput};
pub use fidelity::{Fidelity, OutputFidelity, Precision, SampleSource, Tolerance};
pub use heap::give_back_memory;
pub use manifest::{MANIFEST_FILE, MODEL_FILE, Manifest, ManifestError};
pub use model::{LoadError, Model, Plan, RunError};
pub use signature::{Dim, Signature, TensorSpec};
/// The SHA-256 of bytes, hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub use tensor::{Data, Datatype, ShapeMismatch, Tensor};
