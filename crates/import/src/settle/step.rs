//! Operators that combine one tensor with a constant, element by element.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::math::{Add, Div, Max, Min, Mul, Sub};

/// What is done with the constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Add,
    Mul,
    Max,
    Min,
}

/// A tensor combined with a constant; the result has the tensor's shape.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) input: OutletId,
    pub(super) by: Coefficients,
}

impl Step {
    /// The node as a step, if it is one, in 32-bit numbers.
    pub(super) fn of(model: &TypedModel, id: usize) -> Option<Step> {
        let node = model.nodes.get(id)?;
        let TypedBinOp(op, None) = node.op_as::<TypedBinOp>()? else { return None };
        let &[left, right] = &*node.inputs else { return None };
        let konst = |outlet| model.outlet_fact(outlet).ok()?.konst.as_ref();
        let (input, by, is_right) = match (konst(left), konst(right)) {
            (None, Some(by)) => (left, by, true),
            (Some(by), None) => (right, by, false),
            _ => return None,
        };
        let (fact, result) = (model.outlet_fact(input).ok()?, &node.outputs[0].fact);
        if result.datum_type != DatumType::F32 || fact.shape != result.shape {
            return None;
        }
        let by = Coefficients::of(by)?;
        let (kind, by) = if op.is::<Add>() {
            (Kind::Add, by)
        } else if op.is::<Mul>() {
            (Kind::Mul, by)
        } else if op.is::<Max>() {
            (Kind::Max, by)
        } else if op.is::<Min>() {
            (Kind::Min, by)
        } else if op.is::<Sub>() && is_right {
            (Kind::Add, by.map(|value| -value))
        } else if op.is::<Div>() && is_right {
            (Kind::Mul, by.map(|value| 1.0 / value))
        } else {
            return None;
        };
        by.is_finite().then_some(Step { kind, input, by })
    }
}

/// The only reader of a tensor that is no output of the graph.
pub(super) fn only_reader(model: &TypedModel, outlet: OutletId) -> Option<usize> {
    let [reader] = &*model.nodes[outlet.node].outputs[outlet.slot].successors else { return None };
    (!model.outputs.contains(&outlet)).then_some(reader.node)
}

/// Numbers along one axis, or a single one for all elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Coefficients {
    /// Of no meaning where there is a single value.
    pub(super) axis: usize,
    pub(super) values: Vec<f32>,
}

impl Coefficients {
    pub(super) fn uniform(value: f32) -> Coefficients {
        Coefficients { axis: 0, values: vec![value] }
    }

    /// Those of a constant, unless it varies along several axes.
    fn of(constant: &Tensor) -> Option<Coefficients> {
        let long = |(_, length): &(usize, &usize)| **length != 1;
        let mut axes = constant.shape().iter().enumerate().filter(long);
        let axis = axes.next().map_or(0, |(axis, _)| axis);
        let is_simple = axes.next().is_none() && constant.len() > 0;
        let plain = constant.try_as_plain_ram().ok().filter(|_| is_simple)?;
        Some(Coefficients { axis, values: plain.as_slice::<f32>().ok()?.to_vec() })
    }

    /// The value, where there is a single one.
    pub(super) fn single(&self) -> Option<f32> {
        match self.values[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    pub(super) fn is_all(&self, value: f32) -> bool {
        self.values.iter().all(|own| *own == value)
    }

    pub(super) fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }

    pub(super) fn map(&self, change: impl Fn(f32) -> f32) -> Coefficients {
        let values = self.values.iter().map(|value| change(*value)).collect();
        Coefficients { axis: self.axis, values }
    }

    /// Both combined, unless they vary along different axes.
    pub(super) fn with(&self, other: &Self, combine: fn(f32, f32) -> f32) -> Option<Coefficients> {
        match (self.single(), other.single()) {
            (_, Some(value)) => Some(self.map(|own| combine(own, value))),
            (Some(own), None) => Some(other.map(|value| combine(own, value))),
            (None, None) => {
                let fits = self.axis == other.axis && self.values.len() == other.values.len();
                let pairs = self.values.iter().zip(&other.values);
                let values = pairs.map(|(own, value)| combine(*own, *value)).collect();
                fits.then_some(Coefficients { axis: self.axis, values })
            }
        }
    }

    /// As a constant of so many axes.
    pub(super) fn to_tensor(&self, rank: usize) -> TractResult<Tensor> {
        let mut shape = vec![1; rank];
        if self.values.len() > 1 {
            shape[self.axis] = self.values.len();
        }
        Tensor::from_shape(&shape, &self.values)
    }
}
