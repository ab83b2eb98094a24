//! Loading and running a packaged model.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tract_core::prelude::{IntoTValue, TValue, TVec, TypedRunnableModel};

use crate::{Container, ContainerError, Header, Signature, Tensor, graph};

/// A model that is ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    header: Header,
    plan: Arc<TypedRunnableModel>,
}

/// Why a packaged model could not be loaded.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum LoadError {
    #[error("cannot read the model {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot load the model {path}: {source}")]
    Container { path: PathBuf, source: ContainerError },
    #[error("cannot prepare the model {path}, packaged by slsml {made_by}: {cause}")]
    Graph { path: PathBuf, made_by: String, cause: String },
}

/// Why one run failed. The model stays usable.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum RunError {
    #[error("the model failed on this request: {0}")]
    Failed(String),
    #[error("the model panicked on this request: {0}")]
    Panicked(String),
}

impl Model {
    /// Loads the packaged model at `path`.
    pub fn load(path: &Path) -> Result<Model, LoadError> {
        let bytes = std::fs::read(path)
            .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        Model::from_bytes(&bytes, path)
    }

    /// Loads a packaged model from its bytes; `path` names it in errors.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Model, LoadError> {
        let container = Container::parse(bytes)
            .map_err(|source| LoadError::Container { path: path.to_owned(), source })?;
        let refuse = |cause| LoadError::Graph {
            path: path.to_owned(),
            made_by: container.header.slsml_version.clone(),
            cause,
        };
        // The checksum proves the bytes are as slsml wrote them, not that tract copes with them.
        let plan = catch_unwind(|| graph::load(container.graph))
            .map_err(|panic| refuse(panic_text(panic)))?
            .map_err(|error| refuse(chain(&error)))?;
        let (takes, gives) = (plan.model().inputs.len(), plan.model().outputs.len());
        let signature = &container.header.signature;
        if takes != signature.inputs.len() || gives != signature.outputs.len() {
            return Err(refuse("its graph does not fit its signature".into()));
        }
        Ok(Model { header: container.header, plan })
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.header.signature
    }

    /// What is known of the model's making.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Runs the model on inputs in the signature's order; outputs come in the signature's order.
    /// A panic inside tract is an error of this run alone.
    pub fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        catch_unwind(AssertUnwindSafe(|| self.run_plan(inputs)))
            .map_err(|panic| RunError::Panicked(panic_text(panic)))?
            .map_err(|error| RunError::Failed(chain(&error)))
    }

    fn run_plan(&self, inputs: Vec<Tensor>) -> tract_core::prelude::TractResult<Vec<Tensor>> {
        let inputs: TVec<TValue> = inputs
            .into_iter()
            .map(|tensor| Ok(tensor.into_tract()?.into_tvalue()))
            .collect::<tract_core::prelude::TractResult<_>>()?;
        let outputs = self.plan.run(inputs)?;
        outputs.iter().map(|value| Tensor::from_tract(value)).collect()
    }
}

fn chain(error: &tract_core::prelude::TractError) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast_ref::<&str>() {
            Some(text) => (*text).to_owned(),
            None => "no message".to_owned(),
        },
    }
}
