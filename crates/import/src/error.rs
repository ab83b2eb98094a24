//! Why a file cannot be packaged, in words its owner can act on.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tract_onnx::tract_core::prelude::TractError;

use crate::Difference;

/// Why an ONNX file could not become a packaged model.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ImportError {
    #[error("no such file: {path}")]
    NoSuchFile { path: PathBuf },
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not an ONNX file")]
    NotOnnx { path: PathBuf },
    #[error("{path} is truncated or damaged: {cause}")]
    Truncated { path: PathBuf, cause: String },
    #[error("{path} keeps the tensor `{tensor}` outside the model's folder, in `{location}`")]
    ExternalData { path: PathBuf, tensor: String, location: String },
    #[error("{path} keeps the tensor `{tensor}` in `{location}`, which is not there")]
    ExternalDataMissing { path: PathBuf, tensor: String, location: String },
    #[error(
        "tract has no operator `{operator}` ({domain}, opset {opset}), used by node `{node}` of {path}{more}"
    )]
    Operator {
        path: PathBuf,
        node: String,
        operator: String,
        domain: String,
        opset: i64,
        /// " and n other nodes", or nothing.
        more: String,
    },
    #[error("{path} has no input `{input}`; it has {known}")]
    UnknownInput { path: PathBuf, input: String, known: String },
    #[error("{path} has no dimension `{dim}`; it has {known}")]
    UnknownDim { path: PathBuf, dim: String, known: String },
    #[error("input `{input}` of {path} has {has} dimensions, --shape gives {given}")]
    Rank { path: PathBuf, input: String, has: usize, given: usize },
    #[error("input `{input}` of {path} is {fixed} long in dimension {axis}, --shape says {given}")]
    FixedDim { path: PathBuf, input: String, axis: usize, fixed: usize, given: usize },
    #[error("tract cannot resolve the shapes of {path} while {dims} stay dynamic: {cause}")]
    Dynamic {
        path: PathBuf,
        /// The open dimensions as "`batch` of input `x`".
        dims: String,
        /// The flags that would fix them.
        flags: String,
        cause: String,
    },
    #[error("tract cannot run {path} (opset {opset}): {cause}")]
    Analysis { path: PathBuf, opset: i64, cause: String },
    #[error("tract cannot cope with {path}: it panicked")]
    Panicked { path: PathBuf },
    #[error("{name} of {path} has type {datatype}, which no request can carry")]
    Datatype { path: PathBuf, name: String, datatype: String },
    #[error("tract cannot store the graph of {path}: {cause}")]
    Unstorable { path: PathBuf, cause: String },
    #[error("packaged {path}, but cannot load the result: {cause}")]
    Unloadable { path: PathBuf, cause: slsml_model::LoadError },
    #[error("the samples cannot be used: {cause}")]
    Samples { cause: String },
    #[error("{path} itself does not run sample {sample}: {cause}")]
    Unfit { path: PathBuf, sample: usize, cause: String },
    #[error("the packaged model does not run sample {sample}, which {path} runs: {cause}")]
    Fails { path: PathBuf, sample: usize, cause: String },
    #[error("the packaged model gives `{output}` in another type or shape than {path}")]
    OtherForm { path: PathBuf, output: String },
    #[error("the packaged model answers differently than {path}: {difference}")]
    Different { path: PathBuf, difference: Box<Difference> },
    #[error("cannot write the package of {path}: {cause}")]
    Container { path: PathBuf, cause: slsml_model::ContainerError },
}

impl ImportError {
    /// What to type or change next, where there is something.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoSuchFile { .. } | Self::Unreadable { .. } => {
                "give the path of a model.onnx that you can read".into()
            }
            Self::NotOnnx { .. } => {
                "export the model to ONNX first, for example with torch.onnx.export or skl2onnx".into()
            }
            Self::Truncated { .. } => "copy or export the file again and compare its size".into(),
            Self::ExternalData { .. } => {
                "move the data into the model's own folder and save the model again".into()
            }
            Self::ExternalDataMissing { .. } => {
                "keep the model and its external data files in one folder".into()
            }
            Self::Operator { .. } => {
                "export with plain ai.onnx operators (opset 9 to 18), without runtime-specific fusions".into()
            }
            Self::Dynamic { flags, .. } => format!("fix them: {flags}"),
            Self::Analysis { .. } | Self::Panicked { .. } => {
                "check the model with onnx.checker; opsets 9 to 18 are the well-tested ones".into()
            }
            Self::UnknownInput { .. }
            | Self::UnknownDim { .. }
            | Self::Rank { .. }
            | Self::FixedDim { .. } => "use the names and lengths the model states".into(),
            Self::Datatype { .. } | Self::Unstorable { .. } | Self::Unloadable { .. } => return None,
            Self::Container { .. } | Self::Fails { .. } | Self::OtherForm { .. } => return None,
            Self::Samples { .. } | Self::Unfit { .. } => {
                "a sample is an infer request with the model's inputs; see slsml inspect".into()
            }
            Self::Different { .. } => {
                "package with full precision, or allow more with --tolerance".into()
            }
        })
    }

    pub(crate) fn unstorable(path: &Path, cause: &TractError) -> Self {
        Self::Unstorable { path: path.to_owned(), cause: chain(cause) }
    }
}

/// tract's chain of causes on one line.
pub(crate) fn chain(error: &TractError) -> String {
    let mut causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.dedup();
    causes.join(": ")
}
