//! Loading and running a packaged model.

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tract_core::prelude::*;

use crate::container::Front;
use crate::graph::{self, ALIGNMENT, FileBytes, Graphs};
use crate::{ContainerError, Header, Signature, Tensor, heap, processor};

/// What a graph takes in memory for each byte of its stored operators, once it is ready: 120 to 240
/// were measured.
const GRAPH_BYTES_PER_PLAN_BYTE: u64 = 160;

/// What a request takes for each element of its inputs: twice some seven characters, and the number.
const REQUEST_BYTES_PER_ELEMENT: u64 = 16;

/// No request takes more: Lambda brings 6 MB at most.
const MOST_REQUEST_BYTES: u64 = 16 << 20;

/// A model that is ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    header: Header,
    plan: Plan,
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

/// A warm-up run is not worth more memory than this many input elements.
const WARM_UP_ELEMENTS: usize = 16 << 20;

impl Model {
    /// Loads the packaged model at `path`, which stays mapped: it must not be written to.
    pub fn load(path: &Path) -> Result<Model, LoadError> {
        Model::read(map(path)?, path, &|_, _| {})
    }

    /// Loads the packaged model at `path` in a process that is there to serve it: the processor is
    /// asked once, memory is set up for it and provided beside the loading. To be called once, at
    /// the start.
    pub fn load_to_serve(path: &Path) -> Result<Model, LoadError> {
        processor::name_vendor();
        let file = map(path)?;
        heap::make_one_piece(file.len() as u64);
        let provide = |header: &Header, to_load: u64| {
            heap::touch_ahead(to_load.saturating_add(bytes_to_answer(header)));
        };
        Model::read(file, path, &provide)
    }

    /// Loads a packaged model from its bytes, which are copied; `path` names it in errors.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Model, LoadError> {
        let copied = Blob::from_bytes_alignment(bytes, ALIGNMENT);
        let copied = copied.map_err(|error| LoadError::Read {
            path: path.to_owned(),
            source: std::io::Error::other(error),
        })?;
        Model::read(FileBytes::Copied(copied), path, &|_, _| {})
    }

    /// `provide` learns how many bytes of memory loading is going to take, as soon as that is known.
    fn read(
        file: FileBytes,
        path: &Path,
        provide: &dyn Fn(&Header, u64),
    ) -> Result<Model, LoadError> {
        let container = |source| LoadError::Container { path: path.to_owned(), source };
        let file = Arc::new(file);
        let mut rest = &file[..];
        let front = Front::read(&mut rest, file.len() as u64).map_err(container)?;
        let weights = file.len() - rest.len();
        let refuse = |cause| LoadError::Graph {
            path: path.to_owned(),
            made_by: front.header.slsml_version.clone(),
            cause,
        };
        // The checksums prove the bytes are as slsml wrote them, not that tract copes with them.
        let guarded = AssertUnwindSafe(|| -> Result<_, LoadError> {
            let graphs = Graphs::parse(&front.plan).map_err(|error| refuse(chain(&error)))?;
            let graph = (front.plan.len() as u64).saturating_mul(GRAPH_BYTES_PER_PLAN_BYTE);
            let (copied, largest) = graphs.bytes_to_copy();
            provide(&front.header, graph.saturating_add(copied).saturating_add(largest));
            front.check_weights(&file[weights..]).map_err(container)?;
            let model = graph::load(graphs, file.clone(), weights);
            let ready = model.and_then(TypedModel::into_runnable);
            ready.map_err(|error| refuse(chain(&error)))
        });
        let plan = catch_unwind(guarded).map_err(|panic| refuse(panic_text(panic)))??;
        let (takes, gives) = (plan.model().inputs.len(), plan.model().outputs.len());
        let signature = &front.header.signature;
        if takes != signature.inputs.len() || gives != signature.outputs.len() {
            return Err(refuse("its graph does not fit its signature".into()));
        }
        Ok(Model { header: front.header, plan: Plan(plan) })
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.header.signature
    }

    /// Whether every row along the first dimension of the outputs depends on nothing but that row of the
    /// inputs, and has the same bits among others as alone, so that requests may run together.
    pub fn has_independent_rows(&self) -> bool {
        // The file says it, and is not believed where it cannot be.
        self.header.independent_rows && self.signature().has_rows()
    }

    /// What is known of the model's making.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Runs the model on inputs in the signature's order; outputs come in the signature's order.
    /// A panic inside tract is an error of this run alone.
    pub fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        self.plan.run(inputs)
    }

    /// Runs the model once on zeros, unless they would take too much memory.
    pub fn warm_up(&self) -> Result<(), RunError> {
        let inputs = self.signature().zeros(WARM_UP_ELEMENTS);
        inputs.map_or(Ok(()), |inputs| self.run(inputs).map(drop))
    }
}

/// What one request and its answer take in memory.
fn bytes_to_answer(header: &Header) -> u64 {
    let elements = header.signature.input_elements() as u64;
    let request = elements.saturating_mul(REQUEST_BYTES_PER_ELEMENT).min(MOST_REQUEST_BYTES);
    request.saturating_add(header.activation_bytes.unwrap_or_default())
}

/// A file as memory; the system reads it when it is looked at.
fn map(path: &Path) -> Result<FileBytes, LoadError> {
    let refuse = |source| LoadError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(refuse)?;
    // SAFETY: whoever writes to the file while it is mapped ends this process or changes its
    // answers, as whoever writes to its program does. Lambda's and a container's files stay as
    // they are.
    #[allow(unsafe_code)]
    let mapped = unsafe { memmap2::Mmap::map(&file) };
    mapped.map(FileBytes::Mapped).map_err(refuse)
}

/// A graph that tract made ready, wherever it came from.
#[derive(Clone, Debug)]
pub struct Plan(Arc<TypedRunnableModel>);

impl Plan {
    /// A plan of tract's; only importers and this crate deal in these.
    pub fn new(plan: Arc<TypedRunnableModel>) -> Plan {
        Plan(plan)
    }

    /// Runs it. A panic inside tract is an error of this run alone.
    pub fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        catch_unwind(AssertUnwindSafe(|| self.run_unguarded(inputs)))
            .map_err(|panic| RunError::Panicked(panic_text(panic)))?
            .map_err(|error| RunError::Failed(chain(&error)))
    }

    fn run_unguarded(&self, inputs: Vec<Tensor>) -> TractResult<Vec<Tensor>> {
        let inputs = inputs.into_iter().map(|tensor| Ok(tensor.into_tract()?.into_tvalue()));
        let outputs = self.0.run(inputs.collect::<TractResult<TVec<TValue>>>()?)?;
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
