//! Graphs inside operators.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::scan::Scan;

/// Changes the bodies of a graph's loops and branches.
pub(crate) fn each_body(
    model: &mut TypedModel,
    change: &mut dyn FnMut(&mut TypedModel) -> TractResult<()>,
) -> TractResult<()> {
    for node in &mut model.nodes {
        if let Some(scan) = node.op.downcast_mut::<Scan>() {
            change(&mut scan.body)?;
        } else if let Some(branch) = node.op.downcast_mut::<IfThenElse>() {
            change(&mut branch.then_body)?;
            change(&mut branch.else_body)?;
        }
    }
    Ok(())
}
