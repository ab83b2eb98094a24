//! Factors and summands next to a product with constant weights become part of the weights.
//!
//! Normalisations, learned scales and what is left of activations run over whole tensors; in the
//! weights they cost nothing.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::{Conv, PaddingSpec};
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::math::{add, mul};

use super::step::{Coefficients, Kind, Step, only_reader};

/// `factor * x + summand`, made of several steps.
#[derive(Clone, Debug)]
struct Line {
    factor: Coefficients,
    summand: Coefficients,
    steps: usize,
}

impl Line {
    fn new() -> Line {
        Line { factor: Coefficients::uniform(1.0), summand: Coefficients::uniform(0.0), steps: 0 }
    }

    fn then(&self, step: &Step) -> Option<Line> {
        let Line { factor, summand, steps } = self;
        let (factor, summand) = match step.kind {
            Kind::Add => (factor.clone(), summand.with(&step.by, |a, b| a + b)?),
            Kind::Mul => {
                (factor.with(&step.by, |a, b| a * b)?, summand.with(&step.by, |a, b| a * b)?)
            }
            Kind::Max | Kind::Min => return None,
        };
        let is_finite = factor.is_finite() && summand.is_finite();
        is_finite.then_some(Line { factor, summand, steps: steps + 1 })
    }

    /// The steps that read one another after `outlet`, and where they end.
    fn after(model: &TypedModel, outlet: OutletId) -> (Line, OutletId) {
        let (mut line, mut end) = (Line::new(), outlet);
        while let Some(reader) = only_reader(model, end)
            && let Some(next) = Step::of(model, reader).and_then(|step| line.then(&step))
        {
            (line, end) = (next, reader.into());
        }
        (line, end)
    }

    /// The steps that end in `outlet` and treat all elements alike, and where they start.
    fn before(model: &TypedModel, outlet: OutletId) -> (Line, OutletId) {
        let mut steps = Vec::new();
        let mut start = outlet;
        while only_reader(model, start).is_some()
            && let Some(step) = Step::of(model, start.node)
            && step.by.single().is_some()
            && matches!(step.kind, Kind::Add | Kind::Mul)
        {
            start = step.input;
            steps.push(step);
        }
        match steps.iter().rev().try_fold(Line::new(), |line, step| line.then(step)) {
            Some(line) => (line, start),
            None => (Line::new(), outlet),
        }
    }

    /// How many steps it takes.
    fn fewest_steps(&self) -> usize {
        usize::from(!self.factor.is_all(1.0)) + usize::from(!self.summand.is_all(0.0))
    }
}

/// Folds what comes right before a product into its weights.
pub(super) fn fold_before(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        let Some(product) = Product::of(model, id) else { continue };
        let (line, start) = Line::before(model, model.nodes[id].inputs[product.data]);
        if line.steps == 0 {
            continue;
        }
        let Some(weights) = product.times(&line.factor) else { continue };
        let summand = if line.summand.is_all(0.0) {
            Coefficients::uniform(0.0)
        } else if let (Some(sums), Some(by)) = (product.sums(model, id), line.summand.single()) {
            sums.map(|sum| sum * by)
        } else {
            continue;
        };
        product.rewire(model, id, start, id.into(), weights, &Line { summand, ..Line::new() })?;
    }
    model.compact()
}

/// Folds what comes right after a product into its weights, and elsewhere merges what can be.
pub(super) fn fold_after(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        if model.nodes[id].outputs.len() != 1 || Step::of(model, id).is_some() {
            continue;
        }
        let (line, end) = Line::after(model, id.into());
        let is_sum = line.steps == 1 && line.factor.is_all(1.0);
        if line.steps == 0 || model.nodes[id].op_is::<Const>() {
            continue;
        }
        if let Some(product) = Product::of(model, id)
            && (!is_sum || product.bias.is_some())
            && let Some(weights) = product.times(&line.factor)
            && product.takes(&line.summand)
        {
            let data = model.nodes[id].inputs[product.data];
            product.rewire(model, id, data, end, weights, &line)?;
        } else if line.fewest_steps() < line.steps {
            merge(model, id, end, &line)?;
        }
    }
    model.compact()
}

/// Does in one or two steps what took more.
fn merge(model: &mut TypedModel, id: usize, end: OutletId, line: &Line) -> TractResult<()> {
    let mut patch = TypedModelPatch::new("merged steps");
    let mut wire = patch.tap_model(model, id.into())?;
    let name = &model.nodes[end.node].name;
    if !line.factor.is_all(1.0) {
        wire = with_constant(&mut patch, &format!("{name}.factor"), mul(), wire, &line.factor)?;
    }
    if !line.summand.is_all(0.0) {
        wire = with_constant(&mut patch, &format!("{name}.summand"), add(), wire, &line.summand)?;
    }
    patch.shunt_outside(model, end, wire)?;
    patch.apply(model)
}

fn with_constant(
    patch: &mut TypedModelPatch,
    name: &str,
    op: impl Into<Box<dyn TypedOp>>,
    wire: OutletId,
    by: &Coefficients,
) -> TractResult<OutletId> {
    let rank = patch.outlet_fact(wire)?.rank();
    let by = patch.add_const(format!("{name}.constant"), by.to_tensor(rank)?)?;
    Ok(patch.wire_node(name, op, &[wire, by])?[0])
}

/// A node that multiplies a tensor by constant weights that nothing else reads.
struct Product {
    /// The inputs that hold the tensor, the weights and the bias.
    data: usize,
    weights: usize,
    bias: Option<Coefficients>,
    values: Arc<Tensor>,
    /// The axis of the weights that every axis of the result comes from.
    kept: TVec<Option<usize>>,
}

impl Product {
    fn of(model: &TypedModel, id: usize) -> Option<Product> {
        let node = &model.nodes[id];
        let result = &node.outputs.first()?.fact;
        if result.datum_type != DatumType::F32 {
            return None;
        }
        if let Some(conv) = node.op_as::<Conv>() {
            return Product::of_conv(model, node, conv);
        }
        let einsum = node.op_as::<EinSum>()?;
        if einsum.q_params.is_some() || node.inputs.len() != 2 {
            return None;
        }
        let constant = |slot: usize| own_constant(model, node.inputs[slot]);
        let (data, weights, values) = match (constant(0), constant(1)) {
            (None, Some(values)) => (0, 1, values),
            (Some(values), None) => (1, 0, values),
            _ => return None,
        };
        let axis_of = |out: usize| {
            let axis = einsum.axes.iter_all_axes().find(|axis| axis.outputs[0].contains(&out))?;
            match &*axis.inputs[weights] {
                [axis] => Some(*axis),
                _ => None,
            }
        };
        let kept = (0..result.rank()).map(axis_of).collect();
        Some(Product { data, weights, bias: None, values, kept })
    }

    fn of_conv(model: &TypedModel, node: &TypedNode, conv: &Conv) -> Option<Product> {
        let result = &node.outputs[0].fact;
        let values = own_constant(model, *node.inputs.get(1)?)?;
        let bias = model.outlet_fact(*node.inputs.get(2)?).ok()?.konst.as_ref()?;
        let plain = bias.try_as_plain_ram().ok()?;
        let bias = plain.as_slice::<f32>().ok().filter(|bias| !bias.is_empty())?.to_vec();
        let channels = conv.pool_spec.data_format.shape(result.shape.to_tvec()).ok()?.c_axis();
        let of = conv.kernel_fmt.o_axis(values.shape());
        // Some formats hold the outputs of one group only.
        let holds_all = conv.pool_spec.output_channels == values.shape()[of];
        if conv.q_params.is_some() || !holds_all {
            return None;
        }
        let mut kept: TVec<Option<usize>> = tvec!(None; result.rank());
        kept[channels] = Some(of);
        let bias = Coefficients { axis: channels, values: bias };
        Some(Product { data: 0, weights: 1, bias: Some(bias), values, kept })
    }

    /// The weights times a factor of the result.
    fn times(&self, factor: &Coefficients) -> Option<Tensor> {
        let mut weights = Tensor::clone(&self.values);
        let mut view = weights.to_plain_array_view_mut::<f32>().ok()?;
        match factor.single() {
            Some(factor) => view.iter_mut().for_each(|weight| *weight *= factor),
            None => {
                let axis = self.kept.get(factor.axis).copied().flatten()?;
                for (mut slice, factor) in
                    view.axis_iter_mut(tract_ndarray::Axis(axis)).zip(&factor.values)
                {
                    slice.iter_mut().for_each(|weight| *weight *= factor);
                }
            }
        }
        let is_finite = view.iter().all(|weight| weight.is_finite());
        is_finite.then_some(weights)
    }

    /// Whether a summand of the result can follow it.
    fn takes(&self, summand: &Coefficients) -> bool {
        match &self.bias {
            Some(bias) => summand.single().is_some() || summand.axis == bias.axis,
            None => true,
        }
    }

    /// What the result is where every element of the tensor is one, if it is the same at all places.
    fn sums(&self, model: &TypedModel, id: usize) -> Option<Coefficients> {
        let node = &model.nodes[id];
        if let Some(conv) = node.op_as::<Conv>() {
            let pads_nothing = match &conv.pool_spec.padding {
                PaddingSpec::Valid => true,
                PaddingSpec::Explicit(before, after) => {
                    before.iter().chain(after).all(|length| *length == 0)
                }
                _ => false,
            };
            if !pads_nothing {
                return None;
            }
        }
        if let Some(einsum) = node.op_as::<EinSum>() {
            let input = model.outlet_fact(node.inputs[self.data]).ok()?;
            // Summed along an axis that the weights do not have.
            let sums_alone = einsum.axes.iter_all_axes().any(|axis| {
                let is_long = |own: &usize| input.shape[*own] != 1.to_dim();
                axis.outputs[0].is_empty()
                    && axis.inputs[self.weights].is_empty()
                    && axis.inputs[self.data].iter().any(is_long)
            });
            if sums_alone {
                return None;
            }
        }
        let mut sums = self.values.to_plain_array_view::<f32>().ok()?.to_owned();
        for axis in (0..sums.ndim()).filter(|axis| !self.kept.contains(&Some(*axis))) {
            sums = sums.sum_axis(tract_ndarray::Axis(axis)).insert_axis(tract_ndarray::Axis(axis));
        }
        let mut long = (0..sums.ndim()).filter(|axis| sums.shape()[*axis] != 1);
        let axis = match (long.next(), long.next()) {
            (None, _) => 0,
            (Some(axis), None) => self.kept.iter().position(|kept| *kept == Some(axis))?,
            _ => return None,
        };
        let sums = Coefficients { axis, values: sums.iter().copied().collect() };
        sums.is_finite().then_some(sums)
    }

    /// Wires the product with other weights, from `start`, in the place of `end`, followed by the
    /// line's summand. A bias takes in the whole line.
    fn rewire(
        &self,
        model: &mut TypedModel,
        id: usize,
        start: OutletId,
        end: OutletId,
        weights: Tensor,
        line: &Line,
    ) -> TractResult<()> {
        let (node, name) = (&model.nodes[id], &model.nodes[end.node].name);
        let mut patch = TypedModelPatch::new("folded into weights");
        let mut inputs = patch.taps(model, &node.inputs)?;
        inputs[self.data] = patch.tap_model(model, start)?;
        let weights_name = &model.nodes[node.inputs[self.weights].node].name;
        inputs[self.weights] = patch.add_const(format!("{weights_name}.folded"), weights)?;
        let is_kept = line.summand.is_all(0.0) || self.bias.is_some();
        if let Some(bias) = &self.bias {
            let folded = bias.with(&line.factor, |a, b| a * b);
            let folded = folded.and_then(|bias| bias.with(&line.summand, |a, b| a + b));
            let folded = folded.context("a bias along another axis")?;
            let channels = patch.outlet_fact(inputs[self.weights])?;
            let conv = node.op_as::<Conv>().context("a bias without a convolution")?;
            let channels = conv.kernel_fmt.o(&channels.shape).to_usize()?;
            let values = match folded.single() {
                Some(value) => vec![value; channels],
                None => folded.values,
            };
            inputs[2] = patch.add_const(format!("{name}.bias"), tensor1(&values))?;
        }
        let product = if is_kept { name.clone() } else { format!("{name}.product") };
        let mut wire = patch.wire_node(product, node.op.clone(), &inputs)?[0];
        if !is_kept {
            wire = with_constant(&mut patch, name, add(), wire, &line.summand)?;
        }
        patch.shunt_outside(model, end, wire)?;
        patch.apply(model)
    }
}

/// A constant of numbers that has one reader.
fn own_constant(model: &TypedModel, outlet: OutletId) -> Option<Arc<Tensor>> {
    only_reader(model, outlet)?;
    let constant = model.outlet_fact(outlet).ok()?.konst.clone()?;
    let is_plain = constant.to_plain_array_view::<f32>().is_ok();
    is_plain.then_some(constant)
}
