//! Padding with a constant, in one pass. tract fills the whole result, copies the input into it, and
//! copies both into a tensor: three passes over what convolutions then read.

use tract_core::internal::*;
use tract_core::ops::array::{Pad, PadMode};

/// Pads every axis by so many elements before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PadOnce {
    pads: Vec<(usize, usize)>,
    value: Arc<Tensor>,
}

/// Replaces tract's operator where it pads with a constant.
pub(super) fn replace(model: &mut TypedModel) {
    for node in &mut model.nodes {
        let is_plain = node.outputs.iter().all(|outlet| !outlet.fact.datum_type.is_quantized());
        if let Some(Pad { pads, mode: PadMode::Constant(value) }) = node.op_as::<Pad>()
            && is_plain
        {
            node.op = Box::new(PadOnce { pads: pads.clone(), value: value.clone() });
        }
    }
}

impl Op for PadOnce {
    fn name(&self) -> StaticName {
        "PadOnce".into()
    }

    op_as_typed_op!();
}

impl EvalOp for PadOnce {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let datum = input.datum_type();
        let padded = dispatch_numbers!(Self::padded(datum)(self, &input))?;
        Ok(tvec!(padded.into_tvalue()))
    }
}

impl PadOnce {
    fn padded<T: Datum + Copy>(&self, input: &Tensor) -> TractResult<Tensor> {
        let value = self.value.cast_to_scalar::<T>()?;
        let lengths = input.shape().iter().zip(&self.pads);
        let shape: TVec<usize> =
            lengths.map(|(length, (before, after))| length + before + after).collect();
        // Every element is written below; any bytes are valid numbers.
        #[allow(unsafe_code)]
        let mut padded = unsafe { Tensor::uninitialized_dt(input.datum_type(), &shape)? };
        let from = input.try_as_plain_ram()?;
        let mut into = padded.try_as_plain_ram_mut()?;
        fill(into.as_slice_mut::<T>()?, from.as_slice::<T>()?, &shape, &self.pads, value);
        Ok(padded)
    }
}

/// Writes a block with what comes before and after it along the first of its axes.
fn fill<T: Copy>(into: &mut [T], from: &[T], shape: &[usize], pads: &[(usize, usize)], value: T) {
    let ([length, inner @ ..], [(before, after), deeper @ ..]) = (shape, pads) else {
        into.copy_from_slice(from);
        return;
    };
    let size = inner.iter().product::<usize>();
    let (start, rest) = into.split_at_mut(before * size);
    let (middle, end) = rest.split_at_mut((length - before - after) * size);
    start.fill(value);
    end.fill(value);
    if deeper.iter().all(|pad| *pad == (0, 0)) {
        middle.copy_from_slice(from);
        return;
    }
    let blocks = length - before - after;
    let taken = from.len() / blocks.max(1);
    for block in 0..blocks {
        let into = &mut middle[block * size..(block + 1) * size];
        fill(into, &from[block * taken..(block + 1) * taken], inner, deeper, value);
    }
}

impl TypedOp for PadOnce {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        ensure!(fact.rank() == self.pads.len(), "pads of another rank");
        for (axis, (before, after)) in self.pads.iter().enumerate() {
            fact.shape.set(axis, fact.shape[axis].clone() + *before + *after);
        }
        Ok(tvec!(fact))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_pads_as_tract_does(
            axes in prop::collection::vec((0usize..4, 0usize..3, 0usize..3), 1..5),
            value in -3i64..3,
        ) {
            let shape: Vec<usize> = axes.iter().map(|(length, _, _)| *length).collect();
            let pads: Vec<_> = axes.iter().map(|(_, before, after)| (*before, *after)).collect();
            let count = shape.iter().product::<usize>() as i64;
            let input = Tensor::from_shape(&shape, &(0..count).collect::<Vec<i64>>()).unwrap();
            let mut model = TypedModel::default();
            let wire = model.add_source("x", i64::fact(&shape)).unwrap();
            let mode = PadMode::Constant(tensor0(value).into_arc_tensor());
            let wire = model.wire_node("pad", Pad { pads, mode }, &[wire]).unwrap();
            model.select_output_outlets(&wire).unwrap();
            let run = |model: TypedModel| {
                let plan = model.into_runnable().unwrap();
                plan.run(tvec!(input.clone().into_tvalue())).unwrap().remove(0)
            };
            let by_tract = run(model.clone());
            replace(&mut model);
            prop_assert!(model.nodes.iter().any(|node| node.op_is::<PadOnce>()));
            prop_assert_eq!(run(model), by_tract);
        }
    }
}
