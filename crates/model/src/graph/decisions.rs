//! Decisions tract made before: deep networks ask it the same question hundreds of times.
//!
//! What some operators become depends on nothing but the operator and its inputs' types and
//! shapes. Such an answer is kept when it is one operator in place of another on the same inputs.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::einsum::einsum_matmul::EinSumMatMul;

/// Looking through more answers than this may cost more than asking.
const MAX_DECISIONS_PER_KEY: usize = 64;

/// One operator in place of another.
#[derive(Clone, Debug)]
pub(super) struct Replacement {
    pub(super) op: Box<dyn TypedOp>,
    /// Which of the old inputs each new one is.
    pub(super) inputs: TVec<usize>,
    pub(super) facts: TVec<TypedFact>,
}

impl Replacement {
    /// What the patch does to `node`, if it only puts one operator in its place.
    pub(super) fn of(node: &TypedNode, patch: &TypedModelPatch) -> Option<Replacement> {
        // Which of two equal inputs a new one is cannot be told.
        let mut inputs = node.inputs.iter().enumerate();
        let distinct = inputs.all(|(slot, input)| !node.inputs[..slot].contains(input));
        let plain = distinct && patch.inputs.is_empty() && patch.shunts.len() == node.outputs.len();
        let is_tap = |new: &&TypedNode| patch.taps.contains_key(&OutletId::new(new.id, 0));
        let mut made = patch.model.nodes.iter().filter(|new| !is_tap(new));
        let (Some(new), None, true) = (made.next(), made.next(), plain) else { return None };
        let in_place = (0..node.outputs.len()).all(|slot| {
            patch.shunts.get(&OutletId::new(node.id, slot)) == Some(&OutletId::new(new.id, slot))
        });
        let inputs = new.inputs.iter().map(|input| {
            let tapped = patch.taps.get(input)?;
            node.inputs.iter().position(|old| old == tapped)
        });
        let inputs = inputs.collect::<Option<TVec<usize>>>()?;
        let same_inputs = inputs.len() == node.inputs.len();
        (in_place && same_inputs).then(|| Replacement {
            op: new.op.clone(),
            inputs,
            facts: new.outputs.iter().map(|outlet| outlet.fact.clone()).collect(),
        })
    }
}

/// A question and its answer.
#[derive(Debug)]
struct Decision {
    op: Box<dyn TypedOp>,
    inputs: TVec<(DatumType, ShapeFact)>,
    answer: Replacement,
}

/// All that were kept, by a hash of the question.
#[derive(Debug, Default)]
pub(super) struct Decisions(HashMap<u64, Vec<Decision>>);

impl Decisions {
    /// The key of a node's question; `None` if the answer may depend on more than the question.
    pub(super) fn key(model: &TypedModel, node: &TypedNode) -> Option<u64> {
        let op = &node.op;
        let asks_no_more = op.is::<TypedBinOp>() || op.is::<AxisOp>() || op.is::<EinSumMatMul>();
        let asks_no_more = asks_no_more || op.is::<EinSum>() && !feeds_deconvolution(model, node);
        if !asks_no_more {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        op.name().hash(&mut hasher);
        for input in &node.inputs {
            let fact = model.outlet_fact(*input).ok()?;
            if fact.exotic_fact.is_some() {
                return None;
            }
            fact.shape.as_concrete()?.hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    /// What was decided for the same question.
    pub(super) fn find(
        &self,
        key: u64,
        model: &TypedModel,
        node: &TypedNode,
    ) -> Option<&Replacement> {
        let asked_so = |decision: &&Decision| {
            let mut inputs = node.inputs.iter().zip(&decision.inputs);
            decision.inputs.len() == node.inputs.len()
                && inputs.all(|(input, (datum, shape))| {
                    model
                        .outlet_fact(*input)
                        .is_ok_and(|fact| fact.datum_type == *datum && fact.shape == *shape)
                })
                && decision.op.as_op().dyn_eq(node.op.as_op())
        };
        self.0.get(&key)?.iter().find(asked_so).map(|decision| &decision.answer)
    }

    /// Keeps what was decided for a node.
    pub(super) fn keep(
        &mut self,
        key: u64,
        model: &TypedModel,
        node: &TypedNode,
        answer: &Replacement,
    ) -> TractResult<()> {
        let inputs = node.inputs.iter().map(|input| {
            let fact = model.outlet_fact(*input)?;
            Ok((fact.datum_type, fact.shape.clone()))
        });
        let inputs = inputs.collect::<TractResult<_>>()?;
        let decision = Decision { op: node.op.clone(), inputs, answer: answer.clone() };
        let decisions = self.0.entry(key).or_default();
        if decisions.len() < MAX_DECISIONS_PER_KEY {
            decisions.push(decision);
        }
        Ok(())
    }
}

/// What a sum becomes that feeds a deconvolution is decided by looking at both.
fn feeds_deconvolution(model: &TypedModel, node: &TypedNode) -> bool {
    let mut readers = node.outputs.iter().flat_map(|outlet| &outlet.successors);
    readers.any(|reader| model.nodes[reader.node].op.name() == "DeconvSum")
}
