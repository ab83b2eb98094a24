//! Decisions tract made before: deep networks ask it the same question hundreds of times.
//!
//! What some operators become depends on nothing but the operator and its inputs' types and
//! shapes. Such an answer is kept when it puts operators in the place of one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::einsum::einsum_matmul::EinSumMatMul;

use super::late::Late;
use super::panels::Panels;

/// Looking through more answers than this may cost more than asking.
const MAX_DECISIONS_PER_KEY: usize = 64;

/// An operator, and what others read before it, in place of one.
#[derive(Clone, Debug)]
pub(super) struct Replacement {
    /// Operators that prepare inputs; each is read by a later one.
    pub(super) before: TVec<Step>,
    /// The operator whose outputs are the old one's.
    pub(super) last: Step,
}

/// One of the operators of a replacement.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) op: Box<dyn TypedOp>,
    pub(super) inputs: TVec<From>,
    pub(super) facts: TVec<TypedFact>,
}

/// What a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// An input of the operator that is replaced.
    Input(usize),
    /// An output of an earlier step.
    Step { index: usize, slot: usize },
}

impl Replacement {
    /// One operator on the same inputs.
    pub(super) fn by(op: Box<dyn TypedOp>, inputs: usize, facts: TVec<TypedFact>) -> Replacement {
        let inputs = (0..inputs).map(From::Input).collect();
        Replacement { before: tvec!(), last: Step { op, inputs, facts } }
    }

    /// What the patch does to `node`, if it only puts operators in its place.
    pub(super) fn of(node: &TypedNode, patch: &TypedModelPatch) -> Option<Replacement> {
        // Which of two equal inputs a new one is cannot be told.
        let mut inputs = node.inputs.iter().enumerate();
        let distinct = inputs.all(|(slot, input)| !node.inputs[..slot].contains(input));
        let plain = distinct && patch.inputs.is_empty() && patch.shunts.len() == node.outputs.len();
        if !plain {
            return None;
        }
        let is_tap = |new: &&TypedNode| patch.taps.contains_key(&OutletId::new(new.id, 0));
        let made: TVec<&TypedNode> = patch.model.nodes.iter().filter(|new| !is_tap(new)).collect();
        let (last, before) = made.split_last()?;
        // Only of products is it known that what comes before them depends on no more.
        if !before.is_empty() && !node.op_is::<EinSumMatMul>() {
            return None;
        }
        let in_place = (0..node.outputs.len()).all(|slot| {
            patch.shunts.get(&OutletId::new(node.id, slot)) == Some(&OutletId::new(last.id, slot))
        });
        let from = |input: &OutletId| {
            if let Some(tapped) = patch.taps.get(input) {
                return node.inputs.iter().position(|old| old == tapped).map(From::Input);
            }
            let index = before.iter().position(|step| step.id == input.node)?;
            Some(From::Step { index, slot: input.slot })
        };
        let step = |new: &&TypedNode| {
            let facts: TVec<TypedFact> =
                new.outputs.iter().map(|outlet| outlet.fact.clone()).collect();
            // A value is its own model's, not another's.
            if !before.is_empty() && facts.iter().any(|fact| fact.konst.is_some()) {
                return None;
            }
            let inputs = new.inputs.iter().map(from).collect::<Option<_>>()?;
            Some(Step { op: new.op.clone(), inputs, facts })
        };
        let reads_all = !before.is_empty() || last.inputs.len() == node.inputs.len();
        if !in_place || !reads_all {
            return None;
        }
        let before = before.iter().map(step).collect::<Option<_>>()?;
        Some(Replacement { before, last: step(last)? })
    }
}

/// What a question says of an input: a product packs a constant otherwise than what comes by.
#[derive(Debug)]
struct Asked {
    datum: DatumType,
    shape: ShapeFact,
    packed_once: bool,
    panels: Option<Panels>,
}

impl Asked {
    fn of(model: &TypedModel, node: &TypedNode, input: OutletId) -> TractResult<Asked> {
        let fact = model.outlet_fact(input)?;
        Ok(Asked {
            datum: fact.datum_type,
            shape: fact.shape.clone(),
            packed_once: packed_once(node, fact),
            panels: stored_panels(model, input),
        })
    }

    fn is(&self, model: &TypedModel, node: &TypedNode, input: OutletId) -> bool {
        let Ok(fact) = model.outlet_fact(input) else { return false };
        self.datum == fact.datum_type
            && self.shape == fact.shape
            && self.packed_once == packed_once(node, fact)
            && self.panels == stored_panels(model, input)
    }
}

fn stored_panels(model: &TypedModel, input: OutletId) -> Option<Panels> {
    model.nodes[input.node].op_as::<Late>()?.panels
}

fn packed_once(node: &TypedNode, fact: &TypedFact) -> bool {
    node.op_is::<EinSumMatMul>() && fact.konst.is_some()
}

/// A question and its answer.
#[derive(Debug)]
struct Decision {
    op: Box<dyn TypedOp>,
    inputs: TVec<Asked>,
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
                && inputs.all(|(input, asked)| asked.is(model, node, *input))
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
        let inputs = node.inputs.iter().map(|input| Asked::of(model, node, *input));
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
