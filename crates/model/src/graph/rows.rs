//! Whether a graph computes every row by itself: then requests can run together, one after the other
//! along the first dimension, and each gets the very bits it would get alone.
//!
//! Two things are to be shown. That no row of an output depends on another row of an input: the
//! dimension of rows is followed through every operator, which must have it in its inputs and outputs
//! at axes that belong together. And that the arithmetic for a row is the same wherever it stands and
//! however many there are: only operators are let through of which that is known. Products add up in
//! the order of their inner dimension with the kernels tract takes for an open number of rows,
//! convolutions are products, and sums along rows are ours (`sums`, `softmax`) because tract's depend on
//! where in memory a row begins. What is not known here is not claimed.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, MultiBroadcastTo, Pad, Slice, TypedConcat};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::cnn::{Conv, MaxPool, SumPool};
use tract_core::ops::downsample::Downsample;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::identity::Identity;
use tract_core::ops::konst::Const;
use tract_core::ops::nn::resize::NearestUpsample;
use tract_core::ops::nn::{Reduce, Reducer, RmsNorm, Softmax};
use tract_core::ops::source::TypedSource;
use tract_onnx_opl::ml::tree_ensemble_classifier::TreeEnsembleClassifier;

use super::{softmax, sums};

/// Fails, and says why, where rows may depend on one another or on how many there are.
pub(super) fn are_independent(model: &TypedModel) -> TractResult<()> {
    let (inputs, outputs) = (model.input_outlets()?, model.output_outlets()?);
    let outer = inputs.iter().chain(outputs).map(|outlet| model.outlet_fact(*outlet));
    let outer = outer.collect::<TractResult<Vec<_>>>()?;
    let first = outer.first().and_then(|fact| fact.shape.first());
    let Some(first @ TDim::Sym(rows)) = first else {
        bail!("the first dimension of its inputs is fixed")
    };
    let rows = Rows(rows);
    for fact in outer {
        let is_first = fact.shape.first() == Some(first);
        ensure!(
            is_first && rows.axis(fact)? == Some(0),
            "not all inputs and outputs have rows first"
        );
    }
    for node in &model.nodes {
        let shown = rows.stay_apart(model, node);
        shown.map_err(|why| format_err!("the node `{}` ({}): {why}", node.name, node.op.name()))?;
    }
    Ok(())
}

/// The dimension that counts rows.
struct Rows<'a>(&'a Symbol);

impl Rows<'_> {
    fn are_in(&self, dim: &TDim) -> bool {
        dim.symbols().contains(self.0)
    }

    /// Which axis of a tensor counts rows.
    fn axis(&self, fact: &TypedFact) -> TractResult<Option<usize>> {
        let mut axes = fact.shape.iter().enumerate().filter(|(_, dim)| self.are_in(dim));
        let Some((axis, dim)) = axes.next() else { return Ok(None) };
        ensure!(axes.next().is_none(), "several dimensions depend on the number of rows");
        ensure!(self.are_counted_by(dim), "a dimension of {dim} is computed from rows");
        Ok(Some(axis))
    }

    /// Whether a dimension has the same number of places for each row.
    fn are_counted_by(&self, dim: &TDim) -> bool {
        let (each, one) = dim.guess_slope(self.0);
        one == 1 && *dim == TDim::Sym(self.0.clone()) * each
    }

    /// Whether rows that lay one after the other still do, each with what was its own: the first of the
    /// dimensions counts them, before and after.
    fn reshapes_within(&self, from: &[TDim], to: &[TDim]) -> bool {
        let within = |dims: &[TDim]| {
            dims.split_first().is_some_and(|(first, rest)| {
                self.are_counted_by(first) && !rest.iter().any(|dim| self.are_in(dim))
            })
        };
        within(from) && within(to)
    }

    fn stay_apart(&self, model: &TypedModel, node: &TypedNode) -> TractResult<()> {
        self.operator_is_known(model, node)?;
        let inputs = model.node_input_facts(node.id)?;
        let outputs: TVec<&TypedFact> = node.outputs.iter().map(|outlet| &outlet.fact).collect();
        let from = inputs.iter().map(|fact| self.axis(fact)).collect::<TractResult<Vec<_>>>()?;
        let to = outputs.iter().map(|fact| self.axis(fact)).collect::<TractResult<Vec<_>>>()?;
        if from.iter().all(Option::is_none) {
            return Ok(());
        }
        let mapping = node.op.axes_mapping(&inputs, &outputs)?;
        for (slot, to) in to.into_iter().enumerate() {
            let to = to.context("an output has no rows")?;
            for (input, axis) in from.iter().enumerate() {
                let Some(axis) = *axis else { continue };
                let mapped = mapping.track_axis((InOut::In(input), axis), InOut::Out(slot))?;
                let kept = mapped == Some(to) || axis == to && keeps(node, axis);
                ensure!(kept, "an output's rows are not those of the input");
            }
        }
        Ok(())
    }

    /// Whether it is known to treat rows alike, if they stay rows.
    fn operator_is_known(&self, model: &TypedModel, node: &TypedNode) -> TractResult<()> {
        if let Some(constant) = node.op_as::<Const>() {
            return self.is_free_of_rows(constant.val());
        }
        if let Some(AxisOp::Reshape(_, from, to)) = node.op_as::<AxisOp>() {
            let apart = !from.iter().chain(to).any(|dim| self.are_in(dim));
            ensure!(apart || self.reshapes_within(from, to), "it takes rows apart");
            return Ok(());
        }
        if let Some(Slice { start, end, .. }) = node.op_as::<Slice>() {
            ensure!(!self.are_in(start) && !self.are_in(end), "it slices by the number of rows");
            return Ok(());
        }
        if let Some(product) = node.op_as::<EinSum>() {
            ensure!(product.q_params.is_none(), "a product of quantised numbers");
            return is_f32(product.operating_dt);
        }
        if let Some(convolution) = node.op_as::<Conv>() {
            ensure!(convolution.q_params.is_none(), "a convolution of quantised numbers");
            return is_f32(model.outlet_fact(node.inputs[0])?.datum_type);
        }
        if let Some(softmax) = node.op_as::<Softmax>() {
            let fact = model.outlet_fact(node.inputs[0])?;
            ensure!(!softmax.axes.iter().any(|axis| self.are_in(&fact.shape[*axis])), "along rows");
            ensure!(softmax::is_by_rows(softmax, fact), "not along the last dimensions");
            return Ok(());
        }
        if let Some(norm) = node.op_as::<RmsNorm>() {
            let fact = model.outlet_fact(node.inputs[0])?;
            ensure!(norm.axis + 1 == fact.rank(), "not along the last dimension");
            ensure!(!self.are_in(&fact.shape[norm.axis]), "along rows");
            return is_f32(fact.datum_type);
        }
        if let Some(reduce) = node.op_as::<Reduce>() {
            return reduces_alike(reduce, model.outlet_fact(node.inputs[0])?);
        }
        let known = node.op_is::<TypedSource>()
            || node.op_is::<ElementWiseOp>()
            || node.op_is::<TypedBinOp>()
            || node.op_is::<Cast>()
            || node.op_is::<Identity>()
            || node.op_is::<AxisOp>()
            || node.op_is::<TypedConcat>()
            || node.op_is::<Pad>()
            || node.op_is::<MultiBroadcastTo>()
            || node.op_is::<Gather>()
            || node.op_is::<Downsample>()
            || node.op_is::<NearestUpsample>()
            || keeps(node, 0);
        ensure!(known, "not known to treat every row by itself");
        Ok(())
    }

    /// A constant that says how many rows there are has another value in another run.
    fn is_free_of_rows(&self, constant: &Tensor) -> TractResult<()> {
        if constant.datum_type() == TDim::datum_type() {
            let plain = constant.try_as_plain_ram()?;
            let dims = plain.as_slice::<TDim>()?;
            ensure!(
                !dims.iter().any(|dim| self.are_in(dim)),
                "the number of rows is computed with"
            );
        }
        Ok(())
    }
}

fn is_f32(datum: DatumType) -> TractResult<()> {
    ensure!(datum == f32::datum_type(), "computed in {datum:?}");
    Ok(())
}

/// Whether an axis stays what it was with an operator of which tract does not say that: pools of images
/// that lie one after the other, trees, those that reshape from this axis on, and those that take or
/// repeat elements along others.
fn keeps(node: &TypedNode, axis: usize) -> bool {
    if let Some(AxisOp::Reshape(first, ..)) = node.op_as() {
        return *first == axis;
    }
    if let Some(taken) = node.op_as::<Downsample>() {
        return taken.axis != axis;
    }
    if let Some(repeated) = node.op_as::<NearestUpsample>() {
        return repeated.scales.get(axis) == Some(&1);
    }
    let max = node.op_as::<MaxPool>().map(|op| &op.pool_spec);
    let sum = node.op_as::<SumPool>().map(|op| &op.pool_spec);
    let first = node.op_is::<TreeEnsembleClassifier>()
        || max.or(sum).is_some_and(|spec| spec.data_format.has_n());
    first && axis == 0
}

/// What compares or counts is not touched by an order, nor is what adds up whole numbers.
fn reduces_alike(reduce: &Reduce, fact: &TypedFact) -> TractResult<()> {
    let any_order = fact.datum_type.is_integer() || fact.datum_type == bool::datum_type();
    match reduce.reducer {
        _ if any_order => Ok(()),
        Reducer::ArgMax(_) | Reducer::ArgMin(_) => Ok(()),
        Reducer::Sum | Reducer::MeanOfSquares => {
            ensure!(sums::is_by_rows(reduce, fact), "not along the last dimensions");
            Ok(())
        }
        // Which of several that are no numbers stays depends on their order.
        _ => bail!("which number stays of those that are none depends on their order"),
    }
}

#[cfg(test)]
mod tests {
    use tract_core::ops::cnn::{KernelFormat, PaddingSpec, PoolSpec};
    use tract_core::ops::math::{add, mul, tanh};
    use tract_core::ops::nn::{DataFormat, SoftmaxKind};

    use super::*;
    use crate::graph::late::Nothing;
    use crate::graph::lower::lower;

    /// A graph in the making, with rows of so many numbers.
    struct Graph {
        model: TypedModel,
        rows: TDim,
        wire: OutletId,
    }

    impl Graph {
        fn new(row: &[usize]) -> Graph {
            let mut model = TypedModel::default();
            let rows = model.symbols.sym("N").to_dim();
            let shape =
                std::iter::once(rows.clone()).chain(row.iter().map(|length| length.to_dim()));
            let wire = model.add_source("x", f32::fact(shape.collect::<TVec<TDim>>())).unwrap();
            Graph { model, rows, wire }
        }

        fn constant(&mut self, shape: &[usize]) -> OutletId {
            let name = format!("weights {}", self.model.nodes.len());
            self.model.add_const(name, tensor(shape, 0.31)).unwrap()
        }

        fn dims(&mut self, dims: &[TDim]) -> OutletId {
            self.model.add_const("dims", tensor1(dims)).unwrap()
        }

        fn then(mut self, op: impl Into<Box<dyn TypedOp>>) -> Graph {
            let wire = self.wire;
            self = self.with(op, &[wire]);
            self
        }

        fn with(mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> Graph {
            let name = format!("node {}", self.model.nodes.len());
            self.wire = self.model.wire_node(name, op, inputs).unwrap()[0];
            self
        }

        /// By weights of as many numbers as the last dimension has, to so many.
        fn product(mut self, axes: &str, weights: &[usize]) -> Graph {
            let weights = self.constant(weights);
            let wire = self.wire;
            self.with(EinSum::new(axes.parse().unwrap(), f32::datum_type()), &[wire, weights])
        }

        fn done(mut self) -> TypedModel {
            self.model.select_output_outlets(&[self.wire]).unwrap();
            self.model.into_decluttered().unwrap()
        }
    }

    fn tensor(shape: &[usize], step: f32) -> Arc<Tensor> {
        let count = shape.iter().product::<usize>();
        let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * step).sin() * 3.0).collect();
        Tensor::from_shape(shape, &numbers).unwrap().into_arc_tensor()
    }

    fn softmax() -> Softmax {
        Softmax::new(tvec!(1), None, SoftmaxKind::Softmax)
    }

    fn mean_of_squares() -> Reduce {
        Reduce::new(tvec!(1), Reducer::MeanOfSquares)
    }

    fn perceptron(inner: usize) -> Graph {
        let graph = Graph::new(&[33]).product("nk,km->nm", &[33, inner]).then(tanh());
        graph.product("nk,km->nm", &[inner, 10]).then(softmax())
    }

    fn convolution() -> Graph {
        let mut graph = Graph::new(&[3, 9, 9]);
        let (kernel, bias) = (graph.constant(&[5, 3, 3, 3]), graph.constant(&[5]));
        let pool_spec = PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: tvec!(3, 3),
            padding: PaddingSpec::SameUpper,
            dilations: None,
            strides: None,
            input_channels: 3,
            output_channels: 5,
        };
        let op = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group: 1, q_params: None };
        let wire = graph.wire;
        graph.with(op, &[wire, kernel, bias])
    }

    #[test]
    fn rows_that_are_shown_to_be_independent_have_the_same_bits_among_others() {
        let merged = |graph: Graph| {
            let rows = graph.rows.clone();
            let merge =
                AxisOp::Reshape(0, tvec!(rows.clone(), 3.to_dim()), tvec!(rows.clone() * 3));
            let split = AxisOp::Reshape(0, tvec!(rows.clone() * 3), tvec!(rows, 3.to_dim()));
            graph.then(merge).product("nk,km->nm", &[11, 7]).then(split)
        };
        let attention = || {
            let graph = Graph::new(&[6, 13]);
            let x = graph.wire;
            let op = EinSum::new("nsk,ntk->nst".parse().unwrap(), f32::datum_type());
            let scores = graph.with(op, &[x, x]);
            let scores = scores.then(Softmax::new(tvec!(2), None, SoftmaxKind::Softmax));
            let wire = scores.wire;
            let op = EinSum::new("nst,ntk->nsk".parse().unwrap(), f32::datum_type());
            scores.with(op, &[wire, x])
        };
        let biased = || {
            let mut graph = Graph::new(&[10]);
            let (wire, bias) = (graph.wire, graph.constant(&[1, 10]));
            graph.with(add(), &[wire, bias])
        };
        let graphs = [
            ("perceptron", perceptron(17), vec![33]),
            ("wide perceptron", perceptron(200), vec![33]),
            ("softmax", Graph::new(&[10]).then(softmax()), vec![10]),
            ("sum", Graph::new(&[77]).then(Reduce::new(tvec!(1), Reducer::Sum)), vec![77]),
            ("mean of squares", Graph::new(&[77]).then(mean_of_squares()), vec![77]),
            (
                "sum over the middle",
                Graph::new(&[9, 5]).then(Reduce::new(tvec!(1), Reducer::Sum)),
                vec![9, 5],
            ),
            ("convolution", convolution(), vec![3, 9, 9]),
            ("attention", attention(), vec![6, 13]),
            ("merged with what follows", merged(Graph::new(&[3, 11])), vec![3, 11]),
            ("bias", biased(), vec![10]),
        ];
        for (name, graph, row) in graphs {
            let model = graph.done();
            are_independent(&model).unwrap_or_else(|why| panic!("{name}: {why}"));
            let plan = lower(model, &mut Nothing).unwrap().into_runnable().unwrap();
            let run = |rows: usize, of: &Tensor, from: usize| {
                let part = of.slice(0, from, from + rows).unwrap();
                plan.run(tvec!(part.into_tvalue())).unwrap().remove(0).into_tensor()
            };
            for count in 2..12 {
                let shape: Vec<usize> = std::iter::once(count).chain(row.iter().copied()).collect();
                let all = tensor(&shape, 0.77);
                let together = run(count, &all, 0);
                let alone: Vec<Tensor> = (0..count).map(|row| run(1, &all, row)).collect();
                let alone = Tensor::stack_tensors(0, &alone).unwrap();
                assert_eq!(together, alone, "{name}, {count} rows");
            }
        }
    }

    #[test]
    fn rows_that_depend_on_one_another_are_found() {
        let dims = || {
            let mut graph = Graph::new(&[10]);
            let rows = graph.rows.clone();
            let (wire, count) = (graph.wire, graph.dims(&[rows]));
            let graph = graph.with(tract_core::ops::cast::cast(f32::datum_type()), &[count]);
            let count = graph.wire;
            let graph = graph.with(AxisOp::Add(0), &[count]);
            let count = graph.wire;
            graph.with(mul(), &[wire, count])
        };
        let mixed = |axes: &str| {
            let graph = Graph::new(&[10]);
            let wire = graph.wire;
            graph.with(EinSum::new(axes.parse().unwrap(), f32::datum_type()), &[wire, wire])
        };
        let taken_apart = || {
            let graph = Graph::new(&[4]);
            let rows = graph.rows.clone();
            let graph = graph.then(AxisOp::Move(1, 0));
            let reshape =
                AxisOp::Reshape(0, tvec!(4.to_dim(), rows.clone()), tvec!(rows * 4, 1.to_dim()));
            graph.then(reshape)
        };
        let graphs = [
            ("fixed", {
                let mut graph = Graph::new(&[1]);
                graph.wire = graph.model.add_source("y", f32::fact([3, 2])).unwrap();
                graph
            }),
            (
                "softmax over rows",
                Graph::new(&[10]).then(Softmax::new(tvec!(0), None, SoftmaxKind::Softmax)),
            ),
            (
                "a norm over rows",
                Graph::new(&[]).then(RmsNorm { axis: 0, eps: tensor0(1e-5f32).into() }),
            ),
            ("sum over rows", Graph::new(&[10]).then(Reduce::new(tvec!(0), Reducer::Sum))),
            ("the largest", Graph::new(&[10]).then(Reduce::new(tvec!(1), Reducer::Max))),
            ("rows by rows", mixed("nk,mk->nm")),
            ("over rows", mixed("nk,nm->km")),
            ("their number", dims()),
            ("taken apart", taken_apart()),
            ("moved", Graph::new(&[10]).then(AxisOp::Move(0, 1))),
        ];
        for (name, graph) in graphs {
            let model = graph.done();
            assert!(are_independent(&model).is_err(), "{name}: {model}");
        }
    }
}
