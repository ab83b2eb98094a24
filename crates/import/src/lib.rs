//! An ONNX file in, a packaged model out. It runs once, on the user's machine; nothing that
//! serves links it.
//!
//! The way of a file through here: [`read`] it, refuse external data that leaves its folder and
//! operators tract does not have ([`check`]), fix the dimensions the user named ([`shape`]), let
//! tract analyse and declutter the graph ([`convert`]), write it, load it again through the very code
//! that will serve it, and compare what both give for the same inputs ([`fidelity`]).
#![forbid(unsafe_code)]

mod bodies;
mod check;
mod convert;
mod error;
mod fidelity;
mod foreign;
mod inspect;
mod plain;
mod precision;
mod read;
mod samples;
mod settle;
mod shape;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use slsml_model::{
    Fidelity, Header, Model, Plan, Precision, Signature, Tensor, Tolerance, container,
};

pub use error::ImportError;
pub use fidelity::Difference;
pub use inspect::{Inspection, Prepared, Refusal, Unsupported, inspect};
pub use plain::plain;
pub use shape::{DimOverride, ShapeOverride, Shapes};

use fidelity::Verdict;

/// Turns the user's samples into tensors that fit a signature, or says why they do not.
pub type ReadSamples<'a> = &'a (dyn Fn(&Signature) -> Result<Vec<Vec<Tensor>>, String> + Sync);

/// How a file is packaged.
#[derive(Clone, Default)]
pub struct Options<'a> {
    /// Dimensions to fix.
    pub shapes: Shapes,
    /// How weights are stored.
    pub precision: Precision,
    /// The user's samples; without them some are made up.
    pub samples: Option<ReadSamples<'a>>,
    /// How far the packaged model's answers may lie from the original's; by the precision if it
    /// is not said.
    pub tolerance: Option<Tolerance>,
}

/// A model that was packaged, loaded once by the code that serves it, and compared.
#[derive(Debug)]
pub struct Packaged {
    /// The packaged model's file.
    pub bytes: Vec<u8>,
    /// The same, loaded and ready to run.
    pub model: Model,
    /// How its answers compare with the original's.
    pub fidelity: Fidelity,
    /// Names of constants that hold NaN: allowed, but rarely meant.
    pub not_numbers: Vec<String>,
    /// Size of the weights as the file has them.
    pub full_weights: u64,
    /// Size of the weights as they are stored.
    pub stored_weights: u64,
}

/// Turns the ONNX file at `path` into a packaged model. Graphs that make tract panic are refused
/// like others; the panic hook still hears of them.
pub fn import(path: &Path, options: &Options<'_>) -> Result<Packaged, ImportError> {
    catch_unwind(AssertUnwindSafe(|| import_unguarded(path, options)))
        .unwrap_or_else(|_| Err(ImportError::Panicked { path: path.to_owned() }))
}

fn import_unguarded(path: &Path, options: &Options<'_>) -> Result<Packaged, ImportError> {
    let source = read::bytes(path)?;
    let mut onnx = read::decode(path, &source)?;
    check::external_data(path, &onnx)?;
    check::operators(path, &onnx)?;
    options.shapes.apply(path, &mut onnx)?;
    // The original is analysed beside, on the machine's second processor.
    let (settled, original, source_sha256) = std::thread::scope(|scope| {
        let original = scope.spawn(|| convert::reference(path, &onnx));
        let settled = convert::to_settled(path, &onnx);
        let digest = slsml_model::sha256_hex(&source);
        let panicked = || ImportError::Panicked { path: path.to_owned() };
        (settled, original.join().unwrap_or_else(|_| Err(panicked())), digest)
    });
    let mut typed = settled?;
    drop(source);
    let signature = convert::signature(path, &onnx, &typed)?;
    let unstorable = |cause| ImportError::unstorable(path, &cause);
    let not_numbers = precision::not_numbers(&typed);
    let mut full_weights = None;
    if options.precision == Precision::F16 {
        let full = slsml_model::graph::write(&typed).map_err(unstorable)?;
        full_weights = Some(full.weights.len() as u64);
        precision::halve(&mut typed).map_err(unstorable)?;
    }
    let graph = slsml_model::graph::write(&typed).map_err(unstorable)?;
    drop(typed);
    let header = Header::new(source_sha256, signature, &graph);
    let bytes = container::write(&header, &graph)
        .map_err(|cause| ImportError::Container { path: path.to_owned(), cause })?;
    let stored_weights = graph.weights.len() as u64;
    drop(graph);
    let model = Model::from_bytes(&bytes, path)
        .map_err(|cause| ImportError::Unloadable { path: path.to_owned(), cause })?;
    let fidelity = compare(path, options, &model, &original?, || convert::plain(path, &onnx))?;
    let full_weights = full_weights.unwrap_or(stored_weights);
    Ok(Packaged { bytes, model, fidelity, not_numbers, full_weights, stored_weights })
}

/// Compares with the original as the file describes it. Where tract runs that only after
/// rewriting it, with the original as tract rewrites it.
fn compare(
    path: &Path,
    options: &Options<'_>,
    model: &Model,
    original: &Plan,
    rewritten: impl FnOnce() -> Result<Plan, ImportError>,
) -> Result<Fidelity, ImportError> {
    let samples = match options.samples {
        Some(read) => {
            Some(read(model.signature()).map_err(|cause| ImportError::Samples { cause })?)
        }
        None => None,
    };
    let tolerance = options.tolerance.unwrap_or(match options.precision {
        Precision::Full => Tolerance::EXACT,
        Precision::F16 => Tolerance::HALF,
    });
    let judge = |original: &Plan| fidelity::compare(original, model, samples.as_deref(), tolerance);
    let verdict = match judge(original) {
        Verdict::Alike(Fidelity { samples: 0, .. }) | Verdict::Unfit { .. } => judge(&rewritten()?),
        verdict => verdict,
    };
    let path = path.to_owned();
    match verdict {
        Verdict::Alike(fidelity) => Ok(fidelity),
        Verdict::Different(difference) => Err(ImportError::Different { path, difference }),
        Verdict::Fails { sample, cause } => Err(ImportError::Fails { path, sample, cause }),
        Verdict::Unfit { sample, cause } => Err(ImportError::Unfit { path, sample, cause }),
        Verdict::OtherForm { output } => Err(ImportError::OtherForm { path, output }),
    }
}
