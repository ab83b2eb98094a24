//! The same file without slsml: loaded and run as tract's own documentation does it. What
//! packaging is measured against, in speed and in fidelity.

use std::path::Path;

use slsml_model::Plan;

use crate::{ImportError, Shapes, convert, read};

/// Loads the ONNX file at `path` with plain tract: `into_optimized`, `into_runnable`.
pub fn plain(path: &Path, shapes: &Shapes) -> Result<Plan, ImportError> {
    let mut onnx = read::decode(path, &read::bytes(path)?)?;
    shapes.apply(path, &mut onnx)?;
    convert::plain(path, &onnx)
}
