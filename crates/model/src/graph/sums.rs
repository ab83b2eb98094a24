//! Sums and mean squares over the last axes by our own loop. tract adds up planes of an image one
//! number at a time; and where a row begins in memory decides the order in which it adds up a row,
//! so that the same row has other last digits among others.

use slsml_kernels::sum_rows;
use tract_core::internal::*;
use tract_core::ops::nn::{Reduce, Reducer};

/// Adds up everything along the axes from `first` on, which stay with a length of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SumRows {
    first: usize,
    /// Whether it is the mean of the squares that is wanted.
    mean_of_squares: bool,
}

impl SumRows {
    /// What stands for tract's operator, where it sums `f32` over the last axes.
    fn of(reduce: &Reduce, fact: &TypedFact) -> Option<SumRows> {
        let mean_of_squares = match reduce.reducer {
            Reducer::Sum => false,
            Reducer::MeanOfSquares => true,
            _ => return None,
        };
        let first = fact.rank() - reduce.axes.len().min(fact.rank());
        let are_last = reduce.axes.iter().copied().eq(first..fact.rank());
        let fits = fact.datum_type == f32::datum_type() && !reduce.axes.is_empty() && first > 0;
        (fits && are_last).then_some(SumRows { first, mean_of_squares })
    }
}

/// Whether every row is added up in the same order, however many there are and wherever it stands.
/// Where it is not done here, tract adds up whole rows, unless the first axis is among those it sums.
pub(super) fn is_by_rows(reduce: &Reduce, fact: &TypedFact) -> bool {
    let by_tract = || {
        let last = fact.rank().checked_sub(1);
        reduce.reducer == Reducer::Sum
            && fact.datum_type == f32::datum_type()
            && !reduce.axes.iter().any(|axis| *axis == 0 || Some(*axis) == last)
    };
    SumRows::of(reduce, fact).is_some() || by_tract()
}

/// Replaces tract's operator.
pub(super) fn replace(model: &mut TypedModel) {
    for node in &mut model.nodes {
        if let Some(reduce) = node.op_as::<Reduce>()
            && let Some(sum) = SumRows::of(reduce, &node.outputs[0].fact)
        {
            node.op = Box::new(sum);
        }
    }
}

impl Op for SumRows {
    fn name(&self) -> StaticName {
        "SumRows".into()
    }

    op_as_typed_op!();
}

impl EvalOp for SumRows {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let mut shape: TVec<usize> = input.shape().into();
        let length = shape[self.first..].iter().product::<usize>();
        shape[self.first..].fill(1);
        let mut sums = vec![0f32; shape.iter().product::<usize>()];
        let plain = input.try_as_plain_ram()?;
        let numbers = plain.as_slice::<f32>()?;
        if self.mean_of_squares {
            let squares: Vec<f32> = numbers.iter().map(|x| x * x).collect();
            sum_rows(&squares, length, &mut sums);
            sums.iter_mut().for_each(|sum| *sum *= 1.0 / length as f32);
        } else {
            sum_rows(numbers, length, &mut sums);
        }
        Ok(tvec!(Tensor::from_shape(&shape, &sums)?.into_tvalue()))
    }
}

impl TypedOp for SumRows {
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
        for reducer in [Reducer::Sum, Reducer::MeanOfSquares] {
            for axes in [tvec!(2, 3), tvec!(3)] {
                for shape in [[2, 3, 7, 9], [1, 5, 1, 4], [2, 2, 3, 40]] {
                    let mut model = TypedModel::default();
                    let x = model.add_source("x", f32::fact(shape)).unwrap();
                    let op = Reduce::new(axes.clone(), reducer);
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
                    assert!(model.nodes.iter().any(|node| node.op_is::<SumRows>()));
                    run(model).close_enough(&by_tract, Approximation::Approximate).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_sum_of_nothing_is_zero() {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([2, 0])).unwrap();
        let y = model.wire_node("sum", Reduce::new(tvec!(1), Reducer::Sum), &[x]).unwrap();
        model.select_output_outlets(&y).unwrap();
        replace(&mut model);
        let input = Tensor::zero::<f32>(&[2, 0]).unwrap().into_tvalue();
        let output = model.into_runnable().unwrap().run(tvec!(input)).unwrap().remove(0);
        assert_eq!(*output, Tensor::zero::<f32>(&[2, 1]).unwrap());
    }
}
