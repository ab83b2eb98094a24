//! Sums over the last axes by our own loop: tract adds up planes of an image one number at a time.

use slsml_kernels::sum_rows;
use tract_core::internal::*;
use tract_core::ops::nn::{Reduce, Reducer};

/// Adds up everything along the axes from `first` on, which stay with a length of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SumPlanes {
    first: usize,
}

/// Replaces tract's operator where it sums `f32` over several axes, the last ones.
pub(super) fn replace(model: &mut TypedModel) {
    for id in 0..model.nodes.len() {
        let node = &model.nodes[id];
        let Some(Reduce { axes, reducer: Reducer::Sum }) = node.op_as::<Reduce>() else { continue };
        let fact = &node.outputs[0].fact;
        let first = fact.rank() - axes.len().min(fact.rank());
        let are_last = axes.iter().copied().eq(first..fact.rank());
        if fact.datum_type == f32::datum_type() && axes.len() > 1 && first > 0 && are_last {
            model.nodes[id].op = Box::new(SumPlanes { first });
        }
    }
}

impl Op for SumPlanes {
    fn name(&self) -> StaticName {
        "SumPlanes".into()
    }

    op_as_typed_op!();
}

impl EvalOp for SumPlanes {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let mut shape: TVec<usize> = input.shape().into();
        let length = shape[self.first..].iter().product::<usize>();
        shape[self.first..].fill(1);
        let mut sums = vec![0f32; shape.iter().product::<usize>()];
        sum_rows(input.try_as_plain_ram()?.as_slice::<f32>()?, length, &mut sums);
        Ok(tvec!(Tensor::from_shape(&shape, &sums)?.into_tvalue()))
    }
}

impl TypedOp for SumPlanes {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        for axis in self.first..fact.rank() {
            fact.shape.set(axis, 1.to_dim());
        }
        Ok(tvec!(fact))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sums_as_tract_does() {
        for shape in [[2, 3, 7, 9], [1, 5, 1, 4], [2, 2, 0, 3]] {
            let mut model = TypedModel::default();
            let x = model.add_source("x", f32::fact(shape)).unwrap();
            let op = Reduce::new(tvec!(2, 3), Reducer::Sum);
            let y = model.wire_node("sum", op, &[x]).unwrap();
            model.select_output_outlets(&y).unwrap();
            let numbers: Vec<f32> =
                (0..shape.iter().product()).map(|i: usize| (i as f32).sin()).collect();
            let input = Tensor::from_shape(&shape, &numbers).unwrap();
            let run = |model: TypedModel| {
                let plan = model.into_runnable().unwrap();
                plan.run(tvec!(input.clone().into_tvalue())).unwrap().remove(0)
            };
            let by_tract = run(model.clone());
            replace(&mut model);
            assert!(model.nodes.iter().any(|node| node.op_is::<SumPlanes>()));
            run(model).close_enough(&by_tract, Approximation::Approximate).unwrap();
        }
    }
}
