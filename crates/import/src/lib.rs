//! An ONNX file in, a packaged model out. It runs once, on the user's machine; nothing that
//! serves links it.
//!
//! The way of a file through here: [`read`] it, refuse external data that leaves its folder and
//! operators tract does not have ([`check`]), fix the dimensions the user named ([`shape`]), let
//! tract analyse and declutter the graph ([`convert`]), write it, and load it again through the
//! very code that will serve it.
#![forbid(unsafe_code)]

mod check;
mod convert;
mod error;
mod read;
mod shape;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use slsml_model::{Container, Header, Model};

pub use error::ImportError;
pub use shape::{DimOverride, ShapeOverride, Shapes};

/// A model that was packaged and loaded once by the code that serves it.
#[derive(Debug)]
pub struct Packaged {
    /// The packaged model's file.
    pub bytes: Vec<u8>,
    /// The same, loaded and ready to run.
    pub model: Model,
}

/// Turns the ONNX file at `path` into a packaged model. Graphs that make tract panic are refused
/// like others; the panic hook still hears of them.
pub fn import(path: &Path, shapes: &Shapes) -> Result<Packaged, ImportError> {
    catch_unwind(AssertUnwindSafe(|| import_unguarded(path, shapes)))
        .unwrap_or_else(|_| Err(ImportError::Panicked { path: path.to_owned() }))
}

fn import_unguarded(path: &Path, shapes: &Shapes) -> Result<Packaged, ImportError> {
    let source = read::bytes(path)?;
    let mut onnx = read::decode(path, &source)?;
    check::external_data(path, &onnx)?;
    check::operators(path, &onnx)?;
    shapes.apply(path, &mut onnx)?;
    let typed = convert::to_typed(path, &onnx)?;
    let signature = convert::signature(path, &onnx, &typed)?;
    let graph =
        slsml_model::graph::write(&typed).map_err(|cause| ImportError::unstorable(path, &cause))?;
    let header = Header {
        slsml_version: env!("CARGO_PKG_VERSION").into(),
        source_sha256: slsml_model::sha256_hex(&source),
        signature,
    };
    let bytes = Container { header, graph: &graph }
        .to_bytes()
        .map_err(|cause| ImportError::Container { path: path.to_owned(), cause })?;
    let model = Model::from_bytes(&bytes, path)
        .map_err(|cause| ImportError::Unloadable { path: path.to_owned(), cause })?;
    Ok(Packaged { bytes, model })
}
