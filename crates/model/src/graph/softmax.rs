//! Softmax along the last axes of `f32`, by tract's loops, so that a row's result is the same wherever
//! the row lies. tract's loops begin where memory is aligned, and take what comes before by itself:
//! the second of two rows of ten numbers adds up in another order than the first. Here a row that is
//! not aligned is computed in a copy that is.

use tract_core::internal::*;
use tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_core::tract_linalg::element_wise::ElementWise;
use tract_core::tract_linalg::reduce::{MapReduce, Reduce};
use tract_core::tract_linalg::routines::{Func, softmax_rows_f32};

/// No vector of any processor is longer, in bytes.
const ALIGNMENT: usize = 64;

/// Softmax, or its logarithm, along the axes from `first` on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SoftmaxRows {
    first: usize,
    kind: SoftmaxKind,
}

/// Whether it is one of those that are computed here, by rows.
pub(super) fn is_by_rows(softmax: &Softmax, fact: &TypedFact) -> bool {
    let first = fact.rank() - softmax.axes.len().min(fact.rank());
    fact.datum_type == f32::datum_type()
        && !softmax.axes.is_empty()
        && (first..fact.rank()).all(|axis| softmax.axes.contains(&axis))
}

/// Replaces tract's operator.
pub(super) fn replace(model: &mut TypedModel) {
    for node in &mut model.nodes {
        if let Some(softmax) = node.op_as::<Softmax>()
            && is_by_rows(softmax, &node.outputs[0].fact)
        {
            let first = node.outputs[0].fact.rank() - softmax.axes.len();
            node.op = Box::new(SoftmaxRows { first, kind: softmax.kind });
        }
    }
}

impl Op for SoftmaxRows {
    fn name(&self) -> StaticName {
        "SoftmaxRows".into()
    }

    op_as_typed_op!();
}

impl EvalOp for SoftmaxRows {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut tensor = args_1!(inputs).into_tensor();
        let length = tensor.shape()[self.first..].iter().product::<usize>();
        let mut plain = tensor.try_as_plain_ram_mut()?;
        let numbers = plain.as_slice_mut::<f32>()?;
        if !numbers.is_empty() {
            match softmax_rows_f32() {
                // Processors have it that begin with a row whatever its alignment.
                Some(rows) if self.kind == SoftmaxKind::Softmax && length.is_multiple_of(4) => {
                    rows(numbers, length);
                }
                _ => Loops::new(self.kind, length)?.run(numbers)?,
            }
        }
        Ok(tvec!(tensor.into_tvalue()))
    }
}

/// tract's loops for one row, and room for a row.
struct Loops {
    kind: SoftmaxKind,
    length: usize,
    max: Box<dyn Reduce<f32>>,
    exp_and_sum: Box<dyn MapReduce<f32, f32>>,
    scale: Box<dyn ElementWise<f32, f32>>,
    room: Vec<f32>,
}

impl Loops {
    fn new(kind: SoftmaxKind, length: usize) -> TractResult<Loops> {
        Ok(Loops {
            kind,
            length,
            max: Func::ReduceMax.reduce_f32()?,
            exp_and_sum: Func::Softmax2.map_reduce_f32()?,
            scale: Func::MulByScalar.ew_f32_param()?,
            room: Vec::new(),
        })
    }

    fn run(mut self, numbers: &mut [f32]) -> TractResult<()> {
        for row in numbers.chunks_exact_mut(self.length) {
            if row.as_ptr().align_offset(ALIGNMENT) == 0 {
                self.row(row)?;
                continue;
            }
            let mut room = std::mem::take(&mut self.room);
            room.resize(self.length + ALIGNMENT / size_of::<f32>(), 0.0);
            let start = room.as_ptr().align_offset(ALIGNMENT);
            let aligned = &mut room[start..][..self.length];
            aligned.copy_from_slice(row);
            self.row(aligned)?;
            row.copy_from_slice(aligned);
            self.room = room;
        }
        Ok(())
    }

    fn row(&self, row: &mut [f32]) -> TractResult<()> {
        let max = self.max.run(row)?;
        if self.kind == SoftmaxKind::Softmax {
            let sum = self.exp_and_sum.run_with_params(row, max)?;
            return self.scale.run_with_params(row, sum.recip());
        }
        row.iter_mut().for_each(|x| *x -= max);
        let log = row.iter().map(|x| x.exp()).sum::<f32>().ln();
        row.iter_mut().for_each(|x| *x -= log);
        Ok(())
    }
}

impl TypedOp for SoftmaxRows {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: TypedModel, shape: [usize; 2], numbers: &[f32]) -> Vec<f32> {
        let input = Tensor::from_shape(&shape, numbers).unwrap().into_tvalue();
        let output = model.into_runnable().unwrap().run(tvec!(input)).unwrap().remove(0);
        output.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn a_row_has_the_bits_tract_gives_it_alone_wherever_it_stands() {
        for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
            for length in [1usize, 2, 7, 10, 16, 33, 77, 300] {
                let mut model = TypedModel::default();
                let rows = model.symbols.sym("N").to_dim();
                let x = model.add_source("x", f32::fact([rows, length.to_dim()])).unwrap();
                let op = Softmax::new(tvec!(1), None, kind);
                let y = model.wire_node("softmax", op, &[x]).unwrap();
                model.select_output_outlets(&y).unwrap();
                let numbers: Vec<f32> =
                    (0..5 * length).map(|i| (i as f32 * 0.7).sin() * 9.0).collect();
                let alone =
                    numbers.chunks(length).flat_map(|row| run(model.clone(), [1, length], row));
                let alone: Vec<f32> = alone.collect();
                replace(&mut model);
                assert!(model.nodes.iter().any(|node| node.op_is::<SoftmaxRows>()));
                assert_eq!(run(model, [5, length], &numbers), alone, "{kind:?} of {length}");
            }
        }
    }

    #[test]
    fn no_rows_are_no_error() {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([0, 3])).unwrap();
        let op = Softmax::new(tvec!(1), None, SoftmaxKind::Softmax);
        let y = model.wire_node("softmax", op, &[x]).unwrap();
        model.select_output_outlets(&y).unwrap();
        replace(&mut model);
        assert_eq!(run(model, [0, 3], &[]), [] as [f32; 0]);
    }
}
