//! Operators that tract has in its importer alone, which the served binary does not hold.
//! Semantics are those of <https://onnx.ai/onnx/operators/>.

use tract_core::internal::*;
use tract_core::ops::element_wise::ElementWiseOp;

/// DynamicQuantizeLinear: bytes, their scale and their zero point, from the range of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicQuantize;

impl Op for DynamicQuantize {
    fn name(&self) -> StaticName {
        "DynamicQuantize".into()
    }

    op_as_typed_op!();
}

impl EvalOp for DynamicQuantize {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let input = input.cast_to::<f32>()?;
        let values = input.to_plain_array_view::<f32>()?;
        // The range always holds zero.
        let lowest = values.iter().copied().fold(0f32, f32::min);
        let highest = values.iter().copied().fold(0f32, f32::max);
        let scale = (highest - lowest) / 255.0;
        let zero = (-lowest / scale).round_ties_even().clamp(0.0, 255.0) as u8;
        // Conversions from float to integer saturate.
        let quantise = |value: &f32| {
            let steps = (value / scale).round_ties_even() as i32;
            steps.saturating_add(i32::from(zero)).clamp(0, 255) as u8
        };
        let bytes = values.map(quantise).into_tensor();
        Ok(tvec!(bytes.into_tvalue(), tensor0(scale).into_tvalue(), tensor0(zero).into_tvalue()))
    }
}

impl TypedOp for DynamicQuantize {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let bytes = u8::fact(inputs[0].shape.iter());
        Ok(tvec!(bytes, f32::fact([0usize; 0]), u8::fact([0usize; 0])))
    }

    as_op!();
}

/// A cast from text to floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseNumbers;

impl ParseNumbers {
    /// The operator in a node.
    pub fn node_op() -> Box<dyn TypedOp> {
        Box::new(ElementWiseOp(Box::new(ParseNumbers), None))
    }
}

impl ElementWiseMiniOp for ParseNumbers {
    fn name(&self) -> String {
        "ParseNumbers".into()
    }

    fn output_type(&self, _input: DatumType) -> Option<DatumType> {
        Some(DatumType::F32)
    }

    fn eval_out_of_place(&self, input: &Tensor, _: Option<DatumType>) -> TractResult<Tensor> {
        // Rust reads `inf`, `NaN` and their signs in any case, as ONNX writes them.
        let parse = |text: &String| text.trim().parse::<f32>();
        let texts = input.try_as_plain_ram()?;
        let numbers = texts.as_slice::<String>()?.iter().map(parse);
        Tensor::from_shape(input.shape(), &numbers.collect::<Result<Vec<f32>, _>>()?)
    }
}

/// MaxPool's second output as ONNX counts it: through the whole tensor, and through the columns
/// first if asked. tract counts within each channel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxPoolIndices {
    /// The lengths of the pooled input's spatial axes.
    pub spatial: TVec<usize>,
    /// Whether the first spatial axis is the one that runs fastest.
    pub column_major: bool,
}

impl Op for MaxPoolIndices {
    fn name(&self) -> StaticName {
        "MaxPoolIndices".into()
    }

    op_as_typed_op!();
}

impl EvalOp for MaxPoolIndices {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut indices = args_1!(inputs).into_tensor();
        let plane: usize = self.spatial.iter().product();
        let found: usize = indices.shape().iter().skip(2).product();
        let mut plain = indices.try_as_plain_ram_mut()?;
        for (channel, found) in plain.as_slice_mut::<i64>()?.chunks_mut(found.max(1)).enumerate() {
            for index in found {
                let within = usize::try_from(*index)?;
                let within = if self.column_major { self.by_columns(within) } else { within };
                *index = (channel * plane + within) as i64;
            }
        }
        Ok(tvec!(indices.into_tvalue()))
    }
}

impl MaxPoolIndices {
    /// The index with the first axis fastest, from the one with the last axis fastest.
    fn by_columns(&self, mut index: usize) -> usize {
        let mut stride: usize = self.spatial.iter().product();
        let mut by_columns = 0;
        for length in self.spatial.iter().rev() {
            stride /= (*length).max(1);
            by_columns += index % length.max(&1) * stride;
            index /= length.max(&1);
        }
        by_columns
    }
}

impl TypedOp for MaxPoolIndices {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

/// Dropout as models are served: its input goes through, and its mask is all true. Training mode
/// with a ratio above zero, which a model may take as inputs, is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedDropout {
    /// The input with the ratio; 0.5 without one.
    pub ratio_input: Option<usize>,
    /// The input that says whether the model is in training.
    pub training_input: Option<usize>,
    /// Whether it gives its mask, too.
    pub mask: bool,
}

impl Op for ServedDropout {
    fn name(&self) -> StaticName {
        "ServedDropout".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ServedDropout {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let scalar = |at: Option<usize>, default: f32| match at.and_then(|at| inputs.get(at)) {
            Some(value) => value.cast_to_scalar::<f32>(),
            None => Ok(default),
        };
        let drops =
            scalar(self.training_input, 0.0)? != 0.0 && scalar(self.ratio_input, 0.5)? != 0.0;
        ensure!(!drops, "a dropout in training mode: served models drop nothing");
        let mut outputs = tvec!(inputs[0].clone());
        if self.mask {
            let kept = tensor0(true).broadcast_scalar_to_shape(inputs[0].shape())?;
            outputs.push(kept.into_tvalue());
        }
        Ok(outputs)
    }
}

impl TypedOp for ServedDropout {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut facts = tvec!(inputs[0].without_value());
        if self.mask {
            facts.push(bool::fact(inputs[0].shape.iter()));
        }
        Ok(facts)
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_bytes_as_in_onnx_own_example() {
        let input = tensor1(&[0f32, 2.0, -3.0, -2.5, 1.34, 0.5]).into_tvalue();
        let out = DynamicQuantize.eval(&EvalContext::out_of_plan(), tvec!(input)).unwrap();
        assert_eq!(*out[0], tensor1(&[153u8, 255, 0, 26, 221, 179]));
        assert_eq!(*out[2], tensor0(153u8));
    }

    #[test]
    fn indices_count_through_the_columns_when_asked() {
        let op = MaxPoolIndices { spatial: tvec!(2, 3), column_major: true };
        // Row-major 0 1 2 / 3 4 5 is column-major 0 2 4 / 1 3 5.
        assert_eq!((0..6).map(|i| op.by_columns(i)).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5]);
    }
}
