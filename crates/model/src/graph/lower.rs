//! The last stage of getting ready: kernels are chosen and weights packed for this processor.
//!
//! What an operator becomes is tract's decision (`TypedOp::codegen` and `TypedOp::fuse`). Applying
//! it is ours: tract's optimizer compares every new node with every old one and repeats all its
//! passes until nothing changes, which is quadratic in the size of the graph and most of the time
//! a prepared model takes to load. Here every node is visited in order, a change touches only
//! its surroundings, constants are folded where they arise, and equal siblings are merged.

use std::collections::HashSet;

use tract_core::internal::*;
use tract_core::ops::array::{MultiBroadcastTo, Pad};
use tract_core::ops::cast::Cast;
use tract_core::ops::cnn::Conv;
use tract_core::ops::dummy::Dummy;
use tract_core::ops::konst::Const;
use tract_core::ops::matmul::pack::{OptMatMulPack, OptSimpleMatMulPack};
use tract_core::ops::scan::Scan;
use tract_core::ops::source::TypedSource;
use tract_core::optim::CONST_FOLD_MEM_BUDGET;
use tract_core::tract_data::TooEarly;

use super::convolve;
use super::decisions::{Decisions, From, Replacement};
use super::late::{Late, Later};
use super::panels::{self, Panels};
use super::{pad, softmax, sums};

/// Changes per node, many times what real models need: ends what would never end.
const MAX_CHANGES_PER_NODE: usize = 64;

/// What tract is asked about every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Codegen,
    Fuse,
}

impl Pass {
    fn change(self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        match self {
            Pass::Codegen => node.op.codegen(model, node),
            Pass::Fuse => node.op.fuse(model, node),
        }
    }
}

/// A graph of the operators that run, from one of those that were stored.
pub(crate) fn lower(mut model: TypedModel, later: &mut dyn Later) -> TractResult<TypedModel> {
    let _proofs = model.symbols.proof_cache_session();
    settle_loops(&mut model)?;
    let left = MAX_CHANGES_PER_NODE * (model.nodes.len() + 16);
    let mut lowering = Lowering {
        model,
        later,
        left,
        applied: HashSet::new(),
        free: Vec::new(),
        new: Vec::new(),
        decisions: Decisions::default(),
    };
    loop {
        let before = lowering.left;
        lowering.sweep(Pass::Codegen)?;
        lowering.sweep(Pass::Fuse)?;
        if lowering.left == before {
            break;
        }
    }
    let mut model = lowering.model;
    pad::replace(&mut model);
    sums::replace(&mut model);
    softmax::replace(&mut model);
    tell_apart(&mut model);
    Ok(model)
}

/// Gives nodes that stand for one another's parts names of their own: errors name them.
fn tell_apart(model: &mut TypedModel) {
    let mut names = HashSet::with_capacity(model.nodes.len());
    for node in model.nodes.iter_mut().filter(|node| !node.op_is::<Dummy>()) {
        if !names.insert(node.name.clone()) {
            node.name = format!("{}#{}", node.name, node.id);
            names.insert(node.name.clone());
        }
    }
}

/// The bodies of loops are ready when they get here; tract would prepare them once more.
fn settle_loops(model: &mut TypedModel) -> TractResult<()> {
    for node in &mut model.nodes {
        if let Some(scan) = node.op.downcast_ref::<Scan>() {
            node.op = Box::new(scan.to_codegen_op(false)?);
        }
    }
    Ok(())
}

struct Lowering<'a> {
    model: TypedModel,
    later: &'a mut dyn Later,
    /// Changes that may still be made.
    left: usize,
    /// Changes that asked not to be made twice.
    applied: HashSet<String>,
    /// Nodes that were dropped. A node takes 1.6 kB: places are used again, so that the graph
    /// neither grows nor has to be copied together at the end.
    free: Vec<usize>,
    /// Nodes that the last change added.
    new: Vec<usize>,
    decisions: Decisions,
}

impl Lowering<'_> {
    /// Visits every node until nothing changes there.
    fn sweep(&mut self, pass: Pass) -> TractResult<()> {
        for id in 0..self.model.nodes.len() {
            let mut ids = vec![id];
            while let Some(id) = ids.pop() {
                let changed = self.visit(id, pass).with_context(|| {
                    format!("preparing the node `{}`", self.model.nodes[id].name)
                })?;
                if changed {
                    ids.push(id);
                }
                // What is new is done first: packing a constant frees its raw form.
                ids.extend(self.new.drain(..).rev());
            }
        }
        Ok(())
    }

    /// Changes a node once, if there is something to change.
    fn visit(&mut self, id: usize, pass: Pass) -> TractResult<bool> {
        self.read_late(id)?;
        let node = &self.model.nodes[id];
        if node.op_is::<Dummy>() || node.op_is::<Const>() || node.op_is::<TypedSource>() {
            return Ok(false);
        }
        if self.reshape_panels(id)? || self.map_panels(id)? {
            return Ok(false);
        }
        let folded = match self.reshaped(id)? {
            Some(value) => Some(value),
            None => fold(&self.model, &self.model.nodes[id])?,
        };
        if let Some(value) = folded {
            self.replace_by_constant(id, value)?;
            return Ok(false);
        }
        let node = &self.model.nodes[id];
        let key = (pass == Pass::Codegen).then(|| Decisions::key(&self.model, node)).flatten();
        if let Some(key) = key
            && let Some(known) = self.decisions.find(key, &self.model, node)
        {
            let known = known.clone();
            return self.replace(id, known).map(|()| true);
        }
        if pass == Pass::Codegen
            && let Some(ours) = convolve::depthwise(&self.model, node)?
        {
            return self.replace(id, ours).map(|()| true);
        }
        let Some(mut patch) = self.change(pass, id)? else { return Ok(false) };
        let node = &self.model.nodes[id];
        if let Some(conv) = node.op_as::<Conv>() {
            convolve::replace_unrolling(conv, &mut patch)?;
        }
        if let Some(key) = key
            && let Some(replacement) = Replacement::of(node, &patch)
        {
            self.decisions.keep(key, &self.model, node, &replacement)?;
            return self.replace(id, replacement).map(|()| true);
        }
        if !self.is_new(&patch) {
            return Ok(false);
        }
        self.apply(patch).map(|()| true)
    }

    /// What tract makes of a node, with kernels that its constant in panels was made for.
    fn change(&mut self, pass: Pass, id: usize) -> TractResult<Option<TypedModelPatch>> {
        let node = &self.model.nodes[id];
        let panels = node
            .inputs
            .iter()
            .find_map(|input| self.late_panels(input.node).map(|(_, panels)| (input.node, panels)));
        let Some((constant, panels)) = panels else { return pass.change(&self.model, node) };
        // Products ask whether an operand is a constant, not for its value.
        let shape = self.model.nodes[constant].outputs[0].fact.shape.as_concrete();
        let shape = shape.context("a constant without a shape")?;
        #[allow(unsafe_code)]
        let unread = unsafe { Tensor::uninitialized::<f32>(shape)? }.into_arc_tensor();
        self.model.nodes[constant].outputs[0].fact.konst = Some(unread);
        let change =
            panels::deciding_for(panels, || pass.change(&self.model, &self.model.nodes[id]));
        self.model.nodes[constant].outputs[0].fact.konst = None;
        change
    }

    /// Puts other operators in a node's place.
    fn replace(&mut self, id: usize, by: Replacement) -> TractResult<()> {
        self.count()?;
        let node = &mut self.model.nodes[id];
        node.op = by.last.op;
        for (outlet, fact) in node.outputs.iter_mut().zip(by.last.facts) {
            outlet.fact = fact;
        }
        let same = (0..node.inputs.len()).map(From::Input);
        if by.last.inputs.iter().copied().eq(same) {
            return Ok(());
        }
        let old = std::mem::take(&mut node.inputs);
        self.release(id, &old);
        let mut steps: TVec<usize> = tvec!();
        for step in by.before {
            let inputs = resolve(&step.inputs, &old, &steps);
            let outputs = step.facts.into_iter();
            let outputs = outputs.map(|fact| Outlet { fact, successors: tvec!() }).collect();
            let name = self.model.nodes[id].name.clone();
            let node = TypedNode { id: 0, name, inputs: vec![], op: step.op, outputs };
            steps.push(match self.twin(&node, &inputs) {
                Some(twin) => twin,
                None => {
                    let id = self.add(node);
                    self.connect(id, &inputs)?;
                    id
                }
            });
        }
        self.connect(id, &resolve(&by.last.inputs, &old, &steps))
    }

    fn connect(&mut self, id: usize, inputs: &[OutletId]) -> TractResult<()> {
        for (slot, from) in inputs.iter().enumerate() {
            self.model.add_edge(*from, InletId::new(id, slot))?;
        }
        Ok(())
    }

    fn count(&mut self) -> TractResult<()> {
        self.left = self.left.checked_sub(1).context("preparing the graph does not end")?;
        Ok(())
    }

    /// Reads the constants a node is about to use, and a constant that is an output itself. What is
    /// stored in panels is left where it is while a product may be going to read it.
    fn read_late(&mut self, id: usize) -> TractResult<()> {
        let is_output = self.model.outputs.iter().any(|output| output.node == id);
        let node = &self.model.nodes[id];
        let stays = |slot: usize, input: usize| {
            self.late_panels(input).is_some() && panels::may_read(node, slot)
        };
        let inputs = node.inputs.iter().enumerate();
        let inputs = inputs.filter(|(slot, input)| !stays(*slot, input.node));
        let wanted: TVec<usize> =
            inputs.map(|(_, input)| input.node).chain(is_output.then_some(id)).collect();
        for id in wanted {
            self.read_now(id)?;
        }
        Ok(())
    }

    fn read_now(&mut self, id: usize) -> TractResult<()> {
        let Some(late) = self.model.nodes[id].op_as::<Late>() else { return Ok(()) };
        let value = self.later.read(late.index)?;
        let shape = late.fact.shape.as_concrete().context("a constant without a shape")?;
        let value = match value.shape() == shape {
            true => value,
            false => owned(value).into_shape(shape)?.into_arc_tensor(),
        };
        let op = Const::new(value)?;
        let node = &mut self.model.nodes[id];
        node.outputs[0].fact = op.output_facts(&[])?.remove(0);
        node.op = Box::new(op);
        Ok(())
    }

    /// A constant in panels that one node reads, and that is no output.
    fn late_panels(&self, id: usize) -> Option<(&Late, Panels)> {
        let node = &self.model.nodes[id];
        let late = node.op_as::<Late>()?;
        let is_output = self.model.outputs.iter().any(|output| output.node == id);
        let panels = late.panels.filter(|_| !is_output && node.outputs[0].successors.len() == 1)?;
        Some((late, panels))
    }

    /// Panels that are reshaped are the same panels.
    fn reshape_panels(&mut self, id: usize) -> TractResult<bool> {
        let node = &self.model.nodes[id];
        let reshapes = node.op_is::<AxisOp>() || node.op_is::<IntoShape>();
        let (&[input], true) = (&*node.inputs, reshapes) else { return Ok(false) };
        let Some((late, _)) = self.late_panels(input.node) else { return Ok(false) };
        let mut late = late.clone();
        late.fact.shape = node.outputs[0].fact.shape.clone();
        let fact = late.fact.clone();
        self.put_constant(id, Box::new(late), fact)?;
        Ok(true)
    }

    /// A product's packed constant is where the file has it, if it is packed as it wants it.
    fn map_panels(&mut self, id: usize) -> TractResult<bool> {
        let node = &self.model.nodes[id];
        let (&[input], true) = (&*node.inputs, node.op_is::<OptMatMulPack>()) else {
            return Ok(false);
        };
        let Some((late, panels)) = self.late_panels(input.node) else { return Ok(false) };
        let shape = late.fact.shape.as_concrete().unwrap_or_default();
        let Some(format) = panels.are_made_by(node, shape) else {
            self.read_now(input.node)?;
            return Ok(false);
        };
        let shape = node.outputs[0].fact.shape.as_concrete().map(TVec::from_slice);
        let shape = shape.context("panels without a shape")?;
        let value = self.later.map(late.index, format)?.into_constant(&shape);
        self.replace_by_constant(id, value)?;
        Ok(true)
    }

    /// The constant that a reshape makes of one that nothing else reads: the same memory.
    fn reshaped(&mut self, id: usize) -> TractResult<Option<Arc<Tensor>>> {
        let node = &self.model.nodes[id];
        let moves_nothing = match node.op_as::<AxisOp>() {
            Some(op) => !matches!(op, AxisOp::Move(..)),
            None => node.op_is::<IntoShape>(),
        };
        let (&[input], [output]) = (&*node.inputs, &*node.outputs) else { return Ok(None) };
        let is_output = self.model.outputs.iter().any(|output| output.node == input.node);
        let from = &self.model.nodes[input.node];
        let is_plain = output.fact.exotic_fact.is_none() && from.op_is::<Const>();
        if !moves_nothing || !is_plain || is_output || from.outputs[0].successors.len() != 1 {
            return Ok(None);
        }
        let Some(shape) = output.fact.shape.as_concrete().map(TVec::from_slice) else {
            return Ok(None);
        };
        let from = &mut self.model.nodes[input.node];
        let Some(value) = from.outputs[0].fact.konst.take() else { return Ok(None) };
        from.op = Box::new(Dummy);
        Ok(Some(owned(value).into_shape(&shape)?.into_arc_tensor()))
    }

    fn is_new(&mut self, patch: &TypedModelPatch) -> bool {
        match &patch.dont_apply_twice {
            Some(watchdog) => self.applied.insert(watchdog.clone()),
            None => true,
        }
    }

    fn replace_by_constant(&mut self, id: usize, value: Arc<Tensor>) -> TractResult<()> {
        let node = &mut self.model.nodes[id];
        let exotic = node.outputs[0].fact.exotic_fact.clone();
        let op = Const::new_with_opt_exotic_fact(value, exotic)?;
        let fact = op.output_facts(&[])?.remove(0);
        self.put_constant(id, Box::new(op), fact)
    }

    fn put_constant(
        &mut self,
        id: usize,
        op: Box<dyn TypedOp>,
        fact: TypedFact,
    ) -> TractResult<()> {
        let node = &mut self.model.nodes[id];
        node.outputs[0].fact = fact;
        node.op = op;
        let inputs = std::mem::take(&mut node.inputs);
        for unread in self.release(id, &inputs) {
            self.drop_unread(unread);
        }
        Ok(())
    }

    /// Makes a change: adds its nodes, moves the readers of what it replaces over to them, and
    /// drops what nothing reads any more.
    fn apply(&mut self, patch: TypedModelPatch) -> TractResult<()> {
        self.count()?;
        ensure!(patch.inputs.is_empty(), "a change that adds inputs");
        let TypedModelPatch { model: patch, taps: mut mapping, shunts, obliterate, .. } = patch;
        let mut edges = Vec::new();
        for node in patch.nodes {
            let outlets = (0..node.outputs.len()).map(|slot| OutletId::new(node.id, slot));
            let outlets: TVec<OutletId> = outlets.collect();
            if outlets.first().is_some_and(|tap| mapping.contains_key(tap)) {
                continue;
            }
            let inputs = node.inputs.iter().map(|input| mapping.get(input).copied());
            let inputs: Option<TVec<OutletId>> = inputs.collect();
            let inputs = inputs.context("a change that reads what it does not have")?;
            let id = match self.twin(&node, &inputs) {
                Some(twin) => twin,
                None => {
                    let id = self.add(node);
                    edges.extend(
                        inputs
                            .iter()
                            .enumerate()
                            .map(|(slot, from)| (*from, InletId::new(id, slot))),
                    );
                    id
                }
            };
            for (slot, outlet) in outlets.into_iter().enumerate() {
                mapping.insert(outlet, OutletId::new(id, slot));
            }
        }
        let mut shunts: Vec<(OutletId, OutletId)> = shunts.into_iter().collect();
        shunts.sort_unstable();
        for (old, by) in &shunts {
            self.redirect(*old, mapping[by]);
        }
        for (from, to) in edges {
            self.model.add_edge(from, to)?;
        }
        for id in obliterate {
            self.model.nodes[id].op = Box::new(Dummy);
        }
        for (old, _) in shunts {
            self.drop_unread(old.node);
        }
        Ok(())
    }

    /// Adds a node without its edges.
    fn add(&mut self, mut node: TypedNode) -> usize {
        node.inputs.clear();
        node.outputs.iter_mut().for_each(|outlet| outlet.successors.clear());
        let nodes = &mut self.model.nodes;
        node.id = self.free.pop().unwrap_or(nodes.len());
        let id = node.id;
        self.new.push(id);
        match nodes.get_mut(id) {
            Some(place) => *place = node,
            None => nodes.push(node),
        }
        id
    }

    /// A node that does the same to the same inputs, unless it is an output of the model. Constants
    /// have many readers, so the input with the fewest is looked at.
    fn twin(&self, node: &TypedNode, inputs: &[OutletId]) -> Option<usize> {
        let readers =
            |input: &OutletId| &self.model.nodes[input.node].outputs[input.slot].successors;
        let readers = inputs.iter().map(readers).min_by_key(|readers| readers.len())?;
        let twin = readers
            .iter()
            .map(|reader| &self.model.nodes[reader.node])
            .find(|other| *other.inputs == *inputs && other.op.as_op().dyn_eq(node.op.as_op()))?;
        let is_output = self.model.outputs.iter().any(|output| output.node == twin.id);
        (!is_output).then_some(twin.id)
    }

    /// Everything that read `old` reads `by`.
    fn redirect(&mut self, old: OutletId, by: OutletId) {
        if old == by {
            return;
        }
        let readers = std::mem::take(&mut self.model.nodes[old.node].outputs[old.slot].successors);
        for reader in &readers {
            self.model.nodes[reader.node].inputs[reader.slot] = by;
        }
        self.model.nodes[by.node].outputs[by.slot].successors.extend(readers);
        for output in self.model.outputs.iter_mut().filter(|output| **output == old) {
            *output = by;
        }
    }

    /// Drops a node that nothing reads, with its constants, and then what only it read.
    fn drop_unread(&mut self, id: usize) {
        let mut unread = vec![id];
        while let Some(id) = unread.pop() {
            let model = &self.model;
            let node = &model.nodes[id];
            let is_interface =
                model.outputs.iter().chain(&model.inputs).any(|outlet| outlet.node == id);
            let is_read = node.outputs.iter().any(|outlet| !outlet.successors.is_empty());
            // Without outputs it was dropped before.
            if is_interface || is_read || node.outputs.is_empty() {
                continue;
            }
            let node = &mut self.model.nodes[id];
            node.op = Box::new(Dummy);
            node.outputs.clear();
            let inputs = std::mem::take(&mut node.inputs);
            self.free.push(id);
            unread.extend(self.release(id, &inputs));
        }
    }

    /// Takes a reader from what it read; the nodes it read.
    fn release(&mut self, reader: usize, inputs: &[OutletId]) -> TVec<usize> {
        for input in inputs {
            let outlet = self.model.nodes[input.node].outputs.get_mut(input.slot);
            if let Some(outlet) = outlet {
                outlet.successors.retain(|inlet| inlet.node != reader);
            }
        }
        inputs.iter().map(|input| input.node).collect()
    }
}

/// A tensor of one's own: a copy only where others have it, too.
fn owned(value: Arc<Tensor>) -> Tensor {
    Arc::try_unwrap(value).unwrap_or_else(|shared| Tensor::clone(&shared))
}

/// The outlets that a step of a replacement reads.
fn resolve(from: &[From], old: &[OutletId], steps: &[usize]) -> TVec<OutletId> {
    let outlet = |from: &From| match *from {
        From::Input(slot) => old[slot],
        From::Step { index, slot } => OutletId::new(steps[index], slot),
    };
    from.iter().map(outlet).collect()
}

/// What moves or packs data. Whatever else could be computed beforehand was, when the file was
/// made; nothing else in it is run before there is a request.
fn only_moves_data(op: &dyn TypedOp) -> bool {
    op.is::<OptMatMulPack>()
        || op.is::<OptSimpleMatMulPack>()
        || op.is::<IntoShape>()
        || op.is::<AxisOp>()
        || op.is::<Cast>()
        || op.is::<Pad>()
        || op.is::<MultiBroadcastTo>()
}

/// The value of a node that moves constants, within tract's own limits: what grows, or would be
/// copied once per reader, stays as it is.
fn fold(model: &TypedModel, node: &TypedNode) -> TractResult<Option<Arc<Tensor>>> {
    let [output] = &*node.outputs else { return Ok(None) };
    if !only_moves_data(&*node.op) {
        return Ok(None);
    }
    let mut inputs = tvec!();
    let mut read = 0;
    for input in &node.inputs {
        let outlet = &model.nodes[input.node].outputs[input.slot];
        let Some(value) = &outlet.fact.konst else { return Ok(None) };
        let bytes = outlet.fact.mem_size().to_i64().unwrap_or(i64::MAX) as u64;
        let is_small = outlet.fact.datum_type.is_number() && bytes <= CONST_FOLD_MEM_BUDGET;
        if outlet.successors.len() > 1 && !is_small {
            return Ok(None);
        }
        read += bytes;
        inputs.push(value.clone().into_tvalue());
    }
    let made = output.fact.mem_size().to_i64().unwrap_or(i64::MAX) as u64;
    let is_packed = output.fact.exotic_fact.is_some();
    if inputs.is_empty() || (!is_packed && made > read.max(CONST_FOLD_MEM_BUDGET)) {
        return Ok(None);
    }
    match node.op.eval_out_of_plan(inputs) {
        Ok(values) => Ok(values.and_then(|mut values| values.pop()).map(|v| v.into_arc_tensor())),
        Err(error) if error.root_cause().is::<TooEarly>() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tract_core::ops::math::add;

    use super::*;

    /// What `build` computes of a row of ones, made ready as a stored graph is.
    fn run(build: impl Fn(&mut TypedModel, OutletId) -> OutletId) -> f32 {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([64])).unwrap();
        let y = build(&mut model, x);
        model.select_output_outlets(&[y]).unwrap();
        let ready = lower(model, &mut super::super::late::Nothing).unwrap();
        let ones = tensor1(&[1f32; 64]).into_tvalue();
        let out = ready.into_runnable().unwrap().run(tvec!(ones)).unwrap();
        *out[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().first().unwrap()
    }

    #[test]
    fn an_operator_on_one_tensor_twice_decides_nothing_for_others() {
        let sum = run(|model, x| {
            let twice = model.wire_node("twice", add(), &[x, x]).unwrap()[0];
            model.wire_node("thrice", add(), &[twice, x]).unwrap()[0]
        });
        assert_eq!(sum, 3.0);
    }
}
