//! Convolutions by our own loops (`slsml-kernels`), where they are faster than tract's.
//!
//! - Depthwise, over one or two axes: tract takes borders apart and computes them, and whatever has
//!   a stride, one element after the other; its filters and bias are reshaped at start.
//! - What others read for a matrix product ("im2col", while the product runs): tract looks up every
//!   element's place; most of them lie side by side.

use std::fmt;
use std::hash::{Hash, Hasher};

use slsml_kernels::{Axis, Depthwise, Panel};
use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, KernelFormat};
use tract_core::ops::matmul::pack::DynPackedExoticFact;
use tract_core::ops::nn::DataShape;
use tract_core::tract_linalg::WeightType;
use tract_core::tract_linalg::mmm::{
    EagerPackedInput, MMMInputFormat, MMMInputValue, PackedMatrixStorage,
};
use tract_core::tract_linalg::pack::PackedFormat;

use super::decisions::Replacement;

/// Every channel with a filter of its own. Inputs: data, filters, bias.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DepthwisePlanes {
    kernel: Arc<Depthwise>,
    channels: usize,
    shape: ShapeFact,
}

/// The operator in a depthwise convolution's place, if it is of the kind we compute.
pub(super) fn depthwise(model: &TypedModel, node: &TypedNode) -> TractResult<Option<Replacement>> {
    let Some(conv) = node.op_as::<Conv>() else { return Ok(None) };
    let &[data, filters, bias] = &*node.inputs else { return Ok(None) };
    let (data, filters) = (model.outlet_fact(data)?, model.outlet_fact(filters)?);
    let (bias, output) = (model.outlet_fact(bias)?, &node.outputs[0].fact);
    let channels = conv.group;
    let is_ours = conv.q_params.is_none()
        && channels == conv.input_channels()
        && channels == conv.output_channels()
        && conv.kernel_fmt == KernelFormat::OIHW
        && !conv.pool_spec.data_format.c_is_last()
        && bias.shape.volume().to_usize().is_ok_and(|length| length == channels || length == 1)
        && [data, filters, bias, output]
            .iter()
            .all(|fact| fact.datum_type == f32::datum_type() && fact.exotic_fact.is_none());
    let kernel = if is_ours { geometry(conv, data, output)?.map(Arc::new) } else { None };
    let Some(kernel) = kernel else { return Ok(None) };
    if filters.shape.volume().to_usize().ok() != kernel.taps().checked_mul(channels) {
        return Ok(None);
    }
    let op = DepthwisePlanes { kernel, channels, shape: output.shape.clone() };
    let fact = f32::fact(output.shape.clone());
    Ok(Some(Replacement::by(Box::new(op), node.inputs.len(), tvec!(fact))))
}

/// Height and width of a convolution; `None` if they are not known yet, or there are more of them.
fn geometry(conv: &Conv, data: &TypedFact, output: &TypedFact) -> TractResult<Option<Depthwise>> {
    let spec = &conv.pool_spec;
    let (data, output) =
        (spec.data_format.shape(&*data.shape)?, spec.data_format.shape(&*output.shape)?);
    let lengths = |dims: &[TDim]| dims.iter().map(|dim| dim.to_usize().ok()).collect();
    let (input, output): (Option<TVec<usize>>, Option<TVec<usize>>) =
        (lengths(data.hw_dims()), lengths(output.hw_dims()));
    let (Some(input), Some(output)) = (input, output) else { return Ok(None) };
    let padding = spec.computed_padding(&input);
    let axis = |axis: usize| Axis {
        input: input[axis],
        output: output[axis],
        kernel: spec.kernel_shape[axis],
        stride: spec.stride(axis),
        dilation: spec.dilation(axis),
        pad_before: padding[axis].pad_before,
    };
    Ok(match input.len() {
        1 => Depthwise::new(Axis::ONE, axis(0)),
        2 => Depthwise::new(axis(0), axis(1)),
        _ => None,
    })
}

impl Op for DepthwisePlanes {
    fn name(&self) -> StaticName {
        "DepthwisePlanes".into()
    }

    op_as_typed_op!();
}

impl EvalOp for DepthwisePlanes {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (data, filters, bias) = args_3!(inputs);
        let (data, filters, bias) =
            (data.try_as_plain_ram()?, filters.try_as_plain_ram()?, bias.try_as_plain_ram()?);
        let (from, filters, bias) =
            (data.as_slice::<f32>()?, filters.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        let channel = self.kernel.input_len();
        let batch = from.len() / (channel * self.channels);
        ensure!(
            from.len() == batch * channel * self.channels
                && filters.len() == self.channels * self.kernel.taps(),
            "a depthwise convolution's input of another size"
        );
        let same: TVec<f32>;
        let bias = match bias {
            [one] => {
                same = tvec!(*one; self.channels);
                &same
            }
            each => each,
        };
        ensure!(bias.len() == self.channels, "a bias of another size");
        let shape = self.shape.iter().map(|dim| dim.to_usize().unwrap_or(batch));
        let shape: TVec<usize> = shape.collect();
        // Every element is written by the kernel; any bytes are valid numbers.
        #[allow(unsafe_code)]
        let mut output = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        let mut into = output.try_as_plain_ram_mut()?;
        let into = into.as_slice_mut::<f32>()?;
        ensure!(into.len() == batch * self.channels * self.kernel.output_len(), "another batch");
        self.kernel.run(from, filters, bias, into);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for DepthwisePlanes {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(self.shape.clone())))
    }

    as_op!();
}

/// Where a convolution's inputs are, for a matrix product that reads a panel at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Windows {
    packer: PackedFormat,
    /// How many results there are along each axis, and how far apart their inputs begin.
    axes: TVec<(usize, usize)>,
    /// The inputs of the first result.
    rows: Vec<usize>,
}

/// Lays a convolution's input out for its matrix product, one value for each group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unroll {
    windows: Arc<Windows>,
    groups: usize,
    /// Elements from one group's input to the next one's.
    group_stride: usize,
}

/// Puts our operator in the place of tract's in the change that `conv` asks for.
pub(super) fn replace_unrolling(conv: &Conv, patch: &mut TypedModelPatch) -> TractResult<()> {
    let nodes = patch.model.nodes.iter();
    let Some(id) = nodes.filter(|node| node.op.name() == "LazyIm2col").map(|node| node.id).next()
    else {
        return Ok(());
    };
    if let Some(op) = unrolling(conv, &patch.model, &patch.model.nodes[id])? {
        patch.model.nodes[id].op = Box::new(op);
    }
    Ok(())
}

/// Our operator for what `node` does, if it is of a kind that we do.
fn unrolling(conv: &Conv, model: &TypedModel, node: &TypedNode) -> TractResult<Option<Unroll>> {
    let data = model.outlet_fact(node.inputs[0])?;
    let fact = node.outputs[0].fact.exotic_fact.as_ref();
    let packed = fact.and_then(|fact| fact.downcast_ref::<DynPackedExoticFact>());
    let packer = packed.and_then(|packed| packed.packers[0].downcast_ref::<PackedFormat>());
    let (Some(packed), Some(packer), Some(shape)) = (packed, packer, data.shape.as_concrete())
    else {
        return Ok(None);
    };
    if data.datum_type != f32::datum_type() || packer.dt != f32::datum_type() {
        return Ok(None);
    }
    let spec = &conv.pool_spec;
    let shape: DataShape = spec.data_format.shape(shape.into())?;
    let channels = conv.input_channels() / conv.group;
    let mut rows: Vec<usize> = (0..channels).map(|channel| channel * shape.c_stride()).collect();
    let mut axes = tvec!();
    for (axis, (length, stride)) in shape.hw_dims().iter().zip(shape.hw_strides()).enumerate() {
        let (kernel, dilation) = (spec.kernel_shape[axis], spec.dilation(axis));
        let windows = length.checked_sub((kernel - 1) * dilation + 1);
        let windows = windows.context("a filter larger than its input")? / spec.stride(axis) + 1;
        axes.push((windows, stride * spec.stride(axis)));
        let taps = |row| (0..kernel).map(move |tap| row + tap * dilation * stride);
        rows = rows.into_iter().flat_map(taps).collect();
    }
    let count = axes.iter().map(|(windows, _)| windows).product::<usize>();
    let same = packed.mn == count.to_dim() && packed.k == rows.len().to_dim();
    Ok(same.then(|| Unroll {
        group_stride: channels * shape.c_stride(),
        groups: conv.group,
        windows: Arc::new(Windows { packer: packer.clone(), axes, rows }),
    }))
}

impl Op for Unroll {
    fn name(&self) -> StaticName {
        "Unroll".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Unroll {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let data = args_1!(inputs);
        let datum = data.datum_type();
        let group = |group: usize| -> Box<dyn MMMInputValue> {
            let start = group * self.group_stride;
            Box::new(Unrolled { data: data.clone(), windows: self.windows.clone(), start })
        };
        let groups = (0..self.groups).map(group).collect();
        let unrolled = PackedMatrixStorage::new_batched(&[1, self.groups], groups);
        Ok(tvec!(unrolled.into_tensor(datum).into_tvalue()))
    }
}

impl TypedOp for Unroll {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let exotic = DynPackedExoticFact {
            k: self.windows.rows.len().to_dim(),
            mn: self.windows.count().to_dim(),
            packers: vec![Box::new(self.windows.packer.clone())],
        };
        Ok(tvec!(inputs[0].datum_type.fact([1, self.groups]).with_exotic_fact(exotic)))
    }

    as_op!();
}

impl Windows {
    fn count(&self) -> usize {
        self.axes.iter().map(|(windows, _)| windows).product()
    }

    /// Where the inputs of so many results begin, from one on.
    fn columns(&self, first: usize, columns: &mut [usize]) {
        let mut place = first;
        let mut at: TVec<usize> = tvec!(0; self.axes.len());
        for (at, (windows, _)) in at.iter_mut().zip(&self.axes).rev() {
            *at = place % windows;
            place /= windows;
        }
        let start = |at: &[usize]| at.iter().zip(&self.axes).map(|(at, (_, step))| at * step).sum();
        let mut from: usize = start(&at);
        let last = at.len() - 1;
        for column in columns {
            *column = from;
            at[last] += 1;
            from += self.axes[last].1;
            if at[last] == self.axes[last].0 {
                for axis in (1..=last).rev() {
                    if at[axis] == self.axes[axis].0 {
                        at[axis] = 0;
                        at[axis - 1] += 1;
                    }
                }
                from = start(&at);
            }
        }
    }
}

/// A group's input, as a matrix product reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unrolled {
    data: TValue,
    windows: Arc<Windows>,
    /// Where the group begins.
    start: usize,
}

impl MMMInputValue for Unrolled {
    fn format(&self) -> &dyn MMMInputFormat {
        &*self.windows
    }

    fn scratch_panel_buffer_layout(&self) -> Option<std::alloc::Layout> {
        Some(self.windows.packer.single_panel_layout(self.k(), size_of::<f32>()))
    }

    fn panel_bytes(&self, panel: usize, buffer: Option<*mut u8>) -> TractResult<*const u8> {
        const WIDEST: usize = 64;
        let buffer = buffer.context("a panel without room")?;
        let width = self.windows.packer.r;
        ensure!(width <= WIDEST, "panels of {width} columns");
        let count = width.min(self.mn() - panel * width);
        let mut columns = [0; WIDEST];
        self.windows.columns(panel * width, &mut columns[..count]);
        let data = self.data.try_as_plain_ram()?;
        let input = &data.as_slice::<f32>()?[self.start..];
        let size = self.k() * width;
        // The buffer has the layout above: rows of `width` numbers, aligned to no less than one.
        #[allow(unsafe_code)]
        let into = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), size) };
        let panel = Panel { columns: &columns[..count], rows: &self.windows.rows };
        panel.gather(input, width, into);
        Ok(buffer)
    }

    fn mn(&self) -> usize {
        self.windows.count()
    }

    fn k(&self) -> usize {
        self.windows.rows.len()
    }

    fn exotic_fact(&self) -> &dyn ExoticFact {
        &*self.windows
    }

    fn extract_at_mn_f16(&self, _: usize, _: &mut [f16]) -> TractResult<()> {
        bail!("a convolution's input is read by panels")
    }

    fn extract_at_mn_f32(&self, _: usize, _: &mut [f32]) -> TractResult<()> {
        bail!("a convolution's input is read by panels")
    }
}

impl Hash for Unrolled {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.data.as_bytes(), &self.windows, self.start).hash(state);
    }
}

impl fmt::Display for Unrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} of {:?}", self.k(), self.mn(), self.data)
    }
}

impl MMMInputFormat for Windows {
    fn prepare_tensor(&self, _: &Tensor, _: usize, _: usize) -> TractResult<Tensor> {
        bail!("a convolution's input is unrolled by its own operator")
    }

    fn prepare_one_view(
        &self,
        _: &TensorView<'_>,
        _: usize,
        _: usize,
    ) -> TractResult<Box<dyn MMMInputValue>> {
        bail!("a convolution's input is unrolled by its own operator")
    }

    fn precursor(&self) -> WeightType {
        self.packer.precursor()
    }

    fn r(&self) -> usize {
        self.packer.r
    }

    fn k_alignment(&self) -> usize {
        1
    }

    fn mem_size(&self, k: TDim, mn: TDim) -> TDim {
        k * mn * size_of::<f32>()
    }

    fn extract_at_mn_f16(&self, _: &EagerPackedInput, _: usize, _: &mut [f16]) -> TractResult<()> {
        bail!("a convolution's input is read by panels")
    }

    fn extract_at_mn_f32(&self, _: &EagerPackedInput, _: usize, _: &mut [f32]) -> TractResult<()> {
        bail!("a convolution's input is read by panels")
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "windows of {}", self.packer)
    }
}

impl ExoticFact for Windows {
    fn buffer_sizes(&self) -> TVec<TDim> {
        let (k, mn) = (self.rows.len().to_dim(), self.count().to_dim());
        tvec!(MMMInputFormat::mem_size(self, k, mn))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tract_core::ops::cnn::{PaddingSpec, PoolSpec};
    use tract_core::ops::nn::DataFormat;

    use super::super::late::Nothing;
    use super::super::lower::lower;
    use super::*;

    #[derive(Clone, Debug)]
    struct Case {
        shape: Vec<usize>,
        outputs: usize,
        group: usize,
        kernel: Vec<usize>,
        strides: Vec<usize>,
        dilations: Vec<usize>,
        pads: Vec<usize>,
        format: DataFormat,
    }

    fn case() -> impl Strategy<Value = Case> {
        let axes =
            prop::collection::vec((1usize..24, 1usize..5, 1usize..4, 1usize..3, 0usize..4), 1..4);
        let channels = (1usize..4, 1usize..4, 1usize..9, any::<bool>(), any::<bool>(), 1usize..3);
        let both = (axes, channels);
        both.prop_filter_map("fits", |(axes, (group, per, out, depthwise, has_n, batch))| {
            let fits =
                |(length, kernel, _, dilation, pad): &(usize, usize, usize, usize, usize)| {
                    length + 2 * pad > (kernel - 1) * dilation
                };
            let (inputs, outputs) =
                if depthwise { (group, group) } else { (group * per, group * out) };
            let format = if has_n { DataFormat::NCHW } else { DataFormat::CHW };
            let mut shape = if has_n { vec![batch, inputs] } else { vec![inputs] };
            shape.extend(axes.iter().map(|axis| axis.0));
            axes.iter().all(fits).then(|| Case {
                shape,
                outputs,
                group,
                kernel: axes.iter().map(|axis| axis.1).collect(),
                strides: axes.iter().map(|axis| axis.2).collect(),
                dilations: axes.iter().map(|axis| axis.3).collect(),
                pads: axes.iter().map(|axis| axis.4).collect(),
                format,
            })
        })
    }

    fn numbers(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 0.61).sin()).collect();
        Tensor::from_shape(shape, &numbers).unwrap()
    }

    fn model(case: &Case) -> (TypedModel, TValue) {
        let channels = case.shape[case.format.has_n() as usize];
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact(&case.shape)).unwrap();
        let mut filters = vec![case.outputs, channels / case.group];
        filters.extend(&case.kernel);
        let filters = model.add_const("filters", numbers(&filters)).unwrap();
        let bias = model.add_const("bias", numbers(&[case.outputs])).unwrap();
        let conv = Conv {
            pool_spec: PoolSpec {
                data_format: case.format,
                kernel_shape: case.kernel.iter().copied().collect(),
                padding: PaddingSpec::Explicit(
                    case.pads.iter().copied().collect(),
                    case.pads.iter().copied().collect(),
                ),
                dilations: Some(case.dilations.iter().copied().collect()),
                strides: Some(case.strides.iter().copied().collect()),
                input_channels: channels,
                output_channels: case.outputs,
            },
            kernel_fmt: KernelFormat::OIHW,
            group: case.group,
            q_params: None,
        };
        let y = model.wire_node("conv", conv, &[x, filters, bias]).unwrap();
        model.select_output_outlets(&y).unwrap();
        (model, numbers(&case.shape).into_tvalue())
    }

    fn has(model: &TypedModel, operator: &str) -> bool {
        model.nodes.iter().any(|node| node.op.name() == operator)
    }

    proptest! {
        #[test]
        fn convolutions_are_what_tract_computes(case in case()) {
            let (model, input) = model(&case);
            let by_tract = model.clone().into_optimized().unwrap().into_runnable().unwrap();
            let by_tract = by_tract.run(tvec!(input.clone())).unwrap().remove(0);
            let ours = lower(model, &mut Nothing).unwrap();
            prop_assert!(!has(&ours, "LazyIm2col"));
            prop_assert!(!has(&ours, "DepthWiseConv") || case.kernel.len() > 2);
            let ours = ours.into_runnable().unwrap().run(tvec!(input)).unwrap().remove(0);
            prop_assert_eq!(ours.shape(), by_tract.shape());
            let ours = ours.to_plain_array_view::<f32>().unwrap();
            let by_tract = by_tract.to_plain_array_view::<f32>().unwrap();
            for (ours, by_tract) in ours.iter().zip(by_tract) {
                // Added in another order, and multiplied without rounding in between.
                prop_assert!((ours - by_tract).abs() < 1e-5, "{ours} instead of {by_tract}");
            }
        }
    }

    #[test]
    fn both_operators_are_ours() {
        let plain = Case {
            shape: vec![1, 8, 20, 20],
            outputs: 16,
            group: 1,
            kernel: vec![3, 3],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![1, 1],
            format: DataFormat::NCHW,
        };
        let depthwise = Case { outputs: 8, group: 8, ..plain.clone() };
        for (case, operator) in [(plain, "Unroll"), (depthwise, "DepthwisePlanes")] {
            let ours = lower(model(&case).0, &mut Nothing).unwrap();
            assert!(has(&ours, operator), "{ours}");
        }
    }
}
