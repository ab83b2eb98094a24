//! Equal constants.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::konst::Const;

/// Up to this many elements a constant is worth a search; larger ones are stored once anyway.
const MOST_ELEMENTS: usize = 16;

/// Has equal small constants be one node: a graph of hundreds of activations has a zero for each,
/// and every node takes time at start.
pub(super) fn share(model: &mut TypedModel) -> TractResult<()> {
    let mut first = HashMap::new();
    for id in 0..model.nodes.len() {
        let Some(konst) = model.nodes[id].op_as::<Const>() else { continue };
        let (value, is_output) = (konst.val(), model.outputs.contains(&id.into()));
        let is_numbers = value.datum_type().is_number() && value.try_as_plain_ram().is_ok();
        if value.len() > MOST_ELEMENTS || !is_numbers || is_output {
            continue;
        }
        // By their bytes: minus zero is another constant.
        let bytes = value.as_bytes().to_vec();
        let shared: OutletId =
            match first.entry((value.datum_type(), value.shape().to_vec(), bytes)) {
                Entry::Vacant(place) => {
                    place.insert(id.into());
                    continue;
                }
                Entry::Occupied(place) => *place.get(),
            };
        let readers = std::mem::take(&mut model.nodes[id].outputs[0].successors);
        for reader in &readers {
            model.nodes[reader.node].inputs[reader.slot] = shared;
        }
        model.nodes[shared.node].outputs[shared.slot].successors.extend(readers);
    }
    model.compact()
}
