//! Replaces operators that only the importer holds by those the served code holds.

use slsml_model::graph::extra::{DynamicQuantize, MaxPoolIndices, ParseNumbers, ServedDropout};
use tract_onnx::tract_core::internal::*;

/// Replaces what can be; the rest is refused when the graph is stored.
pub(crate) fn replace(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        match &*model.nodes[id].op.name() {
            "DynamicQuantizeLinearU8" => model.nodes[id].op = Box::new(DynamicQuantize),
            "onnx.Cast(StringParse)" => model.nodes[id].op = ParseNumbers::node_op(),
            "OnnxMaxPoolIndices" => max_pool_indices(model, id)?,
            "Dropout" => dropout(model, id),
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

/// Its fields are private, so they are taken from what it says of itself.
fn dropout(model: &mut TypedModel, id: usize) {
    let node = &mut model.nodes[id];
    let said = format!("{:?}", node.op);
    let index = |field: &str| {
        let (_, rest) = said.split_once(&format!("{field}: Some("))?;
        rest.split_once(')')?.0.parse::<usize>().ok()
    };
    node.op = Box::new(ServedDropout {
        ratio_input: index("ratio_input"),
        training_input: index("training_mode_input"),
        mask: node.outputs.len() > 1,
    });
}
