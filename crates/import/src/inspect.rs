//! What can be said of an ONNX file without packaging it for good.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use slsml_model::{Header, Model, Signature, container};

use crate::{ImportError, Shapes, check, convert, read};

/// What an ONNX file holds and what becomes of it here.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Size of the file, without external data.
    pub file_bytes: u64,
    /// What wrote it.
    pub producer: String,
    /// Version of the file's own format.
    pub ir_version: i64,
    /// Operator sets it asks for, by domain.
    pub opsets: BTreeMap<String, i64>,
    /// How often it uses each operator.
    pub operators: BTreeMap<String, usize>,
    /// Nodes whose operator tract does not have.
    pub unsupported: Vec<Unsupported>,
    /// Why it cannot be packaged, if it cannot.
    pub refusal: Option<Refusal>,
    /// What it would be, packaged.
    pub packaged: Option<Prepared>,
}

/// A node tract cannot run.
#[derive(Clone, Debug, Serialize)]
pub struct Unsupported {
    /// Its name, or that of its first output.
    pub node: String,
    /// The operator.
    pub operator: String,
    /// The operator's domain.
    pub domain: String,
    /// The version of the domain the file asks for.
    pub opset: i64,
}

/// Why a file cannot be packaged.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// A file as it would be packaged, with its full weights.
#[derive(Clone, Debug, Serialize)]
pub struct Prepared {
    /// What it takes and gives.
    pub signature: Signature,
    /// Size of the packaged model.
    pub bytes: u64,
    /// Of that, the weights.
    pub weights_bytes: u64,
    /// Operators after everything that can be decided beforehand.
    pub nodes: usize,
    /// How long each stage took on this machine, in milliseconds; those up to `store` are over
    /// when a model is packaged, `load` is paid at every start.
    pub stages_ms: Vec<(&'static str, f64)>,
    /// Estimated memory of a run beside the weights: the most that tensors between operators
    /// hold at one time, where all shapes are known.
    pub activation_bytes: Option<u64>,
    /// Why requests to it are not run together; none if they can be.
    pub not_batched: Option<String>,
}

/// Looks at the ONNX file at `path`. Files that cannot be packaged are no error here, only those
/// that are no ONNX.
pub fn inspect(path: &Path, shapes: &Shapes) -> Result<Inspection, ImportError> {
    let source = read::bytes(path)?;
    let began = Instant::now();
    let mut onnx = read::decode(path, &source)?;
    let decode = began.elapsed();
    let unsupported = check::unsupported(&onnx);
    let mut inspection = Inspection {
        file_bytes: source.len() as u64,
        producer: format!("{} {}", onnx.producer_name, onnx.producer_version).trim().to_owned(),
        ir_version: onnx.ir_version,
        opsets: check::opsets(&onnx),
        operators: check::histogram(&onnx),
        unsupported,
        refusal: None,
        packaged: None,
    };
    let prepared = check::external_data(path, &onnx)
        .and_then(|()| check::operators(path, &onnx))
        .and_then(|()| shapes.apply(path, &mut onnx))
        .and_then(|()| prepare(path, &onnx, decode));
    match prepared {
        Ok(prepared) => inspection.packaged = Some(prepared),
        // A wrong flag is a mistake of whoever typed it, not a property of the file.
        Err(
            error @ (ImportError::UnknownInput { .. }
            | ImportError::UnknownDim { .. }
            | ImportError::Rank { .. }
            | ImportError::FixedDim { .. }),
        ) => return Err(error),
        Err(error) => {
            let (message, help) = (error.to_string(), error.help());
            inspection.refusal = Some(Refusal { message, help });
        }
    }
    Ok(inspection)
}

fn prepare(
    path: &Path,
    onnx: &tract_onnx::pb::ModelProto,
    decode: Duration,
) -> Result<Prepared, ImportError> {
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let mut stages_ms = vec![("decode", ms(decode))];
    let mut stage = |name, began: Instant| stages_ms.push((name, ms(began.elapsed())));
    let began = Instant::now();
    let typed = convert::to_typed(path, onnx)?;
    stage("analyse", began);
    let began = Instant::now();
    let settled = convert::settle(path, onnx, typed)?;
    stage("declutter", began);
    let began = Instant::now();
    let signature = convert::signature(path, onnx, &settled)?;
    let unstorable = |cause| ImportError::unstorable(path, &cause);
    let graph = slsml_model::graph::write(&settled).map_err(unstorable)?;
    let weights_bytes = graph.weights.len() as u64;
    let header = Header::new(String::new(), signature.clone(), &graph);
    let bytes = container::write(&header, &graph)
        .map_err(|cause| ImportError::Container { path: path.to_owned(), cause })?;
    stage("store", began);
    let began = Instant::now();
    Model::from_bytes(&bytes, path)
        .map_err(|cause| ImportError::Unloadable { path: path.to_owned(), cause })?;
    stage("load", began);
    Ok(Prepared {
        signature,
        bytes: bytes.len() as u64,
        weights_bytes,
        nodes: settled.nodes.len(),
        stages_ms,
        activation_bytes: graph.activation_bytes,
        not_batched: graph.dependent_rows,
    })
}
