//! The graph's bytes: tract's own OPL in a tar. The one module that knows how a graph is stored,
//! for the importer that writes it and the runtime that reads it.

use tract_core::prelude::*;
use tract_nnef::framework::Nnef;
use tract_onnx_opl::WithOnnx;

fn opl() -> Nnef {
    tract_nnef::nnef().with_onnx()
}

/// The bytes of a decluttered graph; the same graph gives the same bytes.
pub fn write(model: &TypedModel) -> TractResult<Vec<u8>> {
    let (compress_nested, deterministic) = (false, true);
    opl().write_to_tar_with_config(model, Vec::new(), compress_nested, deterministic)
}

/// A runnable plan from a graph's bytes.
pub(crate) fn load(mut bytes: &[u8]) -> TractResult<Arc<TypedRunnableModel>> {
    opl().model_for_read(&mut bytes)?.into_optimized()?.into_runnable()
}
