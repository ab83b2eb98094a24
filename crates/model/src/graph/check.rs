//! What tract takes for granted of a node's inputs, and kernels without bounds checks rely on.

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, PoolSpec};
use tract_core::ops::einsum::EinSum;

/// Refuses inputs whose shapes contradict the operator or one another.
pub(crate) fn consistent(op: &dyn TypedOp, inputs: &[&TypedFact]) -> TractResult<()> {
    if let Some(op) = op.downcast_ref::<EinSum>() {
        einsum(op, inputs)
    } else if let Some(op) = op.downcast_ref::<Conv>() {
        kernel(&op.pool_spec, op.kernel_fmt, op.group, inputs)
    } else if let Some(op) = op.downcast_ref::<Deconv>() {
        kernel(&op.pool_spec, op.kernel_format, op.group, inputs)
    } else {
        Ok(())
    }
}

/// An axis that two operands share is as long in both, or 1 in one of them.
fn einsum(op: &EinSum, inputs: &[&TypedFact]) -> TractResult<()> {
    ensure!(op.axes.input_count() == inputs.len(), "an Einstein sum of other operands");
    for (slot, input) in inputs.iter().enumerate() {
        ensure!(op.axes.rank(InOut::In(slot)) == input.rank(), "an operand of another rank");
    }
    for axis in op.axes.iter_all_axes() {
        let mut length: Option<&TDim> = None;
        for (positions, input) in axis.inputs.iter().zip(inputs) {
            for position in positions {
                let dim = input.shape.get(*position).context("an axis that is not there")?;
                if !dim.is_one() {
                    let known = length.get_or_insert(dim);
                    ensure!(*known == dim, "an axis of length {known} and of length {dim}");
                }
            }
        }
    }
    Ok(())
}

/// The kernel is what the window, the channels and the groups say.
fn kernel(
    spec: &PoolSpec,
    format: KernelFormat,
    group: usize,
    inputs: &[&TypedFact],
) -> TractResult<()> {
    let kernel = inputs.get(1).context("a convolution without kernel")?;
    // Quantised blocks have a form of their own, which no file can hold.
    ensure!(kernel.exotic_fact.is_none(), "a kernel that is not plain data");
    let shape = kernel.shape.as_concrete().context("a kernel of open shape")?;
    ensure!(shape.len() == spec.kernel_shape.len() + 2, "a kernel of another rank");
    ensure!(
        format.spatial_shape(shape) == &*spec.kernel_shape,
        "a kernel of {shape:?} for a window of {:?}",
        spec.kernel_shape
    );
    // A transposed convolution counts its groups on the other side, so the sides are compared
    // together: every pair of channels of one group has its weights.
    let (inputs, outputs) = (spec.input_channels, spec.output_channels);
    let pairs = shape.iter().product::<usize>() / spec.kernel_shape.iter().product::<usize>();
    let fits = inputs % group == 0 && outputs % group == 0;
    let wanted = (inputs / group).checked_mul(outputs);
    ensure!(
        fits && wanted == Some(pairs),
        "a kernel of {shape:?} for {inputs} channels in, {outputs} out and {group} groups"
    );
    Ok(())
}
