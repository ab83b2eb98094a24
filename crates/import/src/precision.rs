//! Weights in half precision, and weights that are no numbers.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::konst::Const;

use crate::bodies::each_body;

/// Constants below this many elements stay as they are: they save nothing, and scales and
/// epsilons suffer most.
const FEWEST: usize = 256;

/// Replaces large 32-bit constants by their halves and a cast back.
pub(crate) fn halve(model: &mut TypedModel) -> TractResult<()> {
    each_body(model, &mut halve)?;
    for id in 0..model.nodes.len() {
        let Some(konst) = model.nodes[id].op_as::<Const>() else { continue };
        let tensor = konst.val().clone();
        if tensor.datum_type() != DatumType::F32 || tensor.len() < FEWEST {
            continue;
        }
        let half = tensor.cast_to_dt(DatumType::F16)?.into_owned().into_arc_tensor();
        let readers = std::mem::take(&mut model.nodes[id].outputs[0].successors);
        let name = format!("{}.half", model.nodes[id].name);
        let cast =
            model.add_node(name, Cast { to: DatumType::F32 }, tvec!(f32::fact(tensor.shape())))?;
        let op = Const::new(half)?;
        model.nodes[id].outputs[0].fact = op.output_facts(&[])?.remove(0);
        model.nodes[id].op = Box::new(op);
        model.add_edge(id.into(), InletId::new(cast, 0))?;
        for reader in readers {
            model.nodes[reader.node].inputs[reader.slot] = cast.into();
            model.nodes[cast].outputs[0].successors.push(reader);
        }
        for output in model.outputs.iter_mut().filter(|output| output.node == id) {
            *output = cast.into();
        }
    }
    Ok(())
}

/// The names of constants that hold NaN.
pub(crate) fn not_numbers(model: &TypedModel) -> Vec<String> {
    let mut names = Vec::new();
    for node in &model.nodes {
        if let Some(konst) = node.op_as::<Const>() {
            let plain = konst.val().try_as_plain_ram().ok();
            let nan = plain.is_some_and(|plain| match konst.val().datum_type() {
                DatumType::F32 => {
                    plain.as_slice::<f32>().is_ok_and(|v| v.iter().any(|x| x.is_nan()))
                }
                DatumType::F64 => {
                    plain.as_slice::<f64>().is_ok_and(|v| v.iter().any(|x| x.is_nan()))
                }
                DatumType::F16 => {
                    plain.as_slice::<f16>().is_ok_and(|v| v.iter().any(|x| x.is_nan()))
                }
                _ => false,
            });
            if nan {
                names.push(node.name.clone());
            }
        }
    }
    names
}
