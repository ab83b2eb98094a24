//! Replaces operators that only the importer holds by those the served code holds.

use slsml_model::graph::extra::{DynamicQuantize, MaxPoolIndices, ParseNumbers};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::identity::Identity;

/// Replaces what can be; the rest is refused when the graph is stored.
pub(crate) fn replace(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        match &*model.nodes[id].op.name() {
            "DynamicQuantizeLinearU8" => model.nodes[id].op = Box::new(DynamicQuantize),
            "onnx.Cast(StringParse)" => model.nodes[id].op = ParseNumbers::node_op(),
            "OnnxMaxPoolIndices" => max_pool_indices(model, id)?,
            "Dropout" => dropout(model, id)?,
            _ => {}
        }
    }
    Ok(())
}

/// Its fields are private: the lengths are those of the pooled input, the order is what it says
/// of itself.
fn max_pool_indices(model: &mut TypedModel, id: usize) -> TractResult<()> {
    let pool = model.nodes[id].inputs[0].node;
    let input = model.outlet_fact(model.nodes[pool].inputs[0])?;
    let Some(shape) = input.shape.as_concrete() else { return Ok(()) };
    let spatial = shape.iter().skip(2).copied().collect();
    let column_major = format!("{:?}", model.nodes[id].op).contains("column_major: true");
    model.nodes[id].op = Box::new(MaxPoolIndices { spatial, column_major });
    Ok(())
}

/// A dropout that drops nothing: its input goes through, its mask is all true.
fn dropout(model: &mut TypedModel, id: usize) -> TractResult<()> {
    let inputs = model.nodes[id].inputs.clone();
    let ratio = inputs.get(1).map(|ratio| model.outlet_fact(*ratio)).transpose()?;
    let ratio = ratio.and_then(|fact| fact.konst.as_ref());
    let drops_nothing =
        ratio.is_some_and(|ratio| ratio.cast_to_scalar::<f32>().is_ok_and(|ratio| ratio == 0.0));
    let shape = model.outlet_fact(inputs[0])?.shape.as_concrete().map(TVec::from);
    let (true, Some(shape)) = (drops_nothing, shape) else { return Ok(()) };
    let name = model.nodes[id].name.clone();
    let mut patch = TypedModelPatch::default();
    let data = patch.tap_model(model, inputs[0])?;
    let data = patch.wire_node(format!("{name}.kept"), Identity, &[data])?[0];
    patch.shunt_outside(model, OutletId::new(id, 0), data)?;
    if model.nodes[id].outputs.len() > 1 {
        let kept = tensor0(true).broadcast_scalar_to_shape(&shape)?;
        let mask = patch.add_const(format!("{name}.mask"), kept)?;
        patch.shunt_outside(model, OutletId::new(id, 1), mask)?;
    }
    patch.apply(model)
}
