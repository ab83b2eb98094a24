//! HardSwish, which exporters spell out.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::math::{Mul, mul};
use tract_onnx::tract_core::ops::nn::hard_swish;

use super::step::{Coefficients, Kind, Step, only_reader};

/// A product written out has no more factors and summands than this.
const MOST_STEPS: usize = 8;

/// Replaces `x * clamp(x + 3, 0, 6)`, or a multiple of it, by tract's operator and a factor.
/// Source of the formula: ONNX's operator HardSwish, `x * max(0, min(1, x / 6 + 0.5))`.
pub(super) fn recognise(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        let Some((x, factor)) = gated(model, id) else { continue };
        let name = &model.nodes[id].name;
        let mut patch = TypedModelPatch::new("hard swish");
        let tap = patch.tap_model(model, x)?;
        let rank = model.outlet_fact(x)?.rank();
        let factor = Coefficients::uniform(factor).to_tensor(rank)?;
        let factor = patch.add_const(format!("{name}.factor"), factor)?;
        let wire = patch.wire_node(format!("{name}.hard_swish"), hard_swish(), &[tap])?;
        let wire = patch.wire_node(name, mul(), &[wire[0], factor])?;
        patch.shunt_outside(model, id.into(), wire[0])?;
        patch.apply(model)?;
    }
    model.compact()
}

/// `x` and `k` where the node is `k * HardSwish(x)`.
fn gated(model: &TypedModel, id: usize) -> Option<(OutletId, f32)> {
    let node = &model.nodes[id];
    let TypedBinOp(op, None) = node.op_as::<TypedBinOp>()? else { return None };
    let &[left, right] = &*node.inputs else { return None };
    let fact = &node.outputs[0].fact;
    if !op.is::<Mul>() || fact.datum_type != DatumType::F32 {
        return None;
    }
    [(left, right), (right, left)].into_iter().find_map(|(x, gate)| {
        let has_shape = model.outlet_fact(x).is_ok_and(|x| x.shape == fact.shape);
        let factor = Clamped::between(model, x, gate)?.as_hard_sigmoid()?;
        has_shape.then_some((x, factor))
    })
}

/// `clamp(slope * x + offset, low, high)`.
#[derive(Clone, Copy, Debug)]
struct Clamped {
    slope: f32,
    offset: f32,
    low: f32,
    high: f32,
}

impl Clamped {
    /// What `gate` is of `x`, if it is nothing but that and read once.
    fn between(model: &TypedModel, x: OutletId, gate: OutletId) -> Option<Clamped> {
        let mut steps = Vec::new();
        let mut at = gate;
        while at != x {
            only_reader(model, at)?;
            let step = Step::of(model, at.node).filter(|_| steps.len() < MOST_STEPS)?;
            at = step.input;
            steps.push(step);
        }
        let line = Clamped { slope: 1.0, offset: 0.0, low: f32::NEG_INFINITY, high: f32::INFINITY };
        steps.iter().rev().try_fold(line, |line, step| line.then(step.kind, step.by.single()?))
    }

    fn then(self, kind: Kind, by: f32) -> Option<Clamped> {
        let Clamped { slope, offset, low, high } = self;
        Some(match kind {
            Kind::Add => Clamped { slope, offset: offset + by, low: low + by, high: high + by },
            // A negative factor would exchange the bounds, and zero leaves none.
            Kind::Mul if by <= 0.0 => return None,
            Kind::Mul => {
                Clamped { slope: slope * by, offset: offset * by, low: low * by, high: high * by }
            }
            Kind::Max => Clamped { slope, offset, low: low.max(by), high: high.max(by) },
            Kind::Min => Clamped { slope, offset, low: low.min(by), high: high.min(by) },
        })
    }

    /// `k` where this is `k * clamp(x / 6 + 1/2, 0, 1)`.
    fn as_hard_sigmoid(self) -> Option<f32> {
        let Clamped { slope, offset, low, high } = self;
        let is = |value: f32, wanted: f32| (value - wanted).abs() <= 4.0 * f32::EPSILON;
        let fits = low == 0.0 && is(slope / high, 1.0 / 6.0) && is(offset / high, 0.5);
        (fits && high > 0.0 && high.is_finite()).then_some(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Clamped =
        Clamped { slope: 1.0, offset: 0.0, low: f32::NEG_INFINITY, high: f32::INFINITY };

    fn after(steps: &[(Kind, f32)]) -> Option<f32> {
        steps
            .iter()
            .try_fold(LINE, |line, (kind, by)| line.then(*kind, *by))
            .and_then(Clamped::as_hard_sigmoid)
    }

    #[test]
    fn the_spellings_of_a_hard_sigmoid_are_known() {
        use Kind::{Add, Max, Min, Mul};
        assert_eq!(after(&[(Add, 3.0), (Max, 0.0), (Min, 6.0)]), Some(6.0));
        assert_eq!(after(&[(Add, 3.0), (Min, 6.0), (Max, 0.0)]), Some(6.0));
        assert_eq!(after(&[(Add, 3.0), (Max, 0.0), (Min, 6.0), (Mul, 1.0 / 6.0)]), Some(1.0));
        assert_eq!(after(&[(Mul, 1.0 / 6.0), (Add, 0.5), (Max, 0.0), (Min, 1.0)]), Some(1.0));
        assert_eq!(after(&[(Max, -3.0), (Min, 3.0), (Add, 3.0)]), Some(6.0));
    }

    #[test]
    fn other_clamps_are_left_alone() {
        use Kind::{Add, Max, Min, Mul};
        assert_eq!(after(&[(Add, 3.0), (Max, 0.0)]), None);
        assert_eq!(after(&[(Add, 3.0), (Max, 0.0), (Min, 5.0)]), None);
        assert_eq!(after(&[(Add, 2.0), (Max, 0.0), (Min, 6.0)]), None);
        assert_eq!(after(&[(Mul, 0.2), (Add, 0.5), (Max, 0.0), (Min, 1.0)]), None);
        assert_eq!(after(&[(Add, 3.0), (Max, 1.0), (Min, 6.0)]), None);
        assert_eq!(after(&[(Mul, -1.0), (Add, 3.0), (Max, 0.0), (Min, 6.0)]), None);
    }
}
