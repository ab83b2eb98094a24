//! Weights stored as matrix products read them, so that they are used where the file is mapped: no
//! copy, no packing, no memory of their own.
//!
//! How weights are packed depends on the kernel, and the kernel on the processor. tract has kernels of
//! 16, 32 and 64 rows for AVX2 as well as for AVX-512, and among them are its fastest: with 32 rows
//! they load least for what they compute, with 16 they waste less of small matrices, and those with
//! 64 are for products with a single column. So weights are stored for these, and a processor that
//! has AVX2 is made to use them. On any other they are unpacked, and packed anew as it likes.
//! `docs/load-path.md` has what that gains and costs.

use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, KernelFormat};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::einsum::einsum_matmul::EinSumMatMul;
use tract_core::ops::konst::Const;
use tract_core::ops::matmul::pack::{DynPackedExoticFact, OptMatMulPack};
use tract_core::tract_linalg::isa::{Arch, Isa, IsaSet};
use tract_core::tract_linalg::mmm::{
    MMMInputFormat, MMMInputValue, PackedExoticFact, PackedMatrixStorage, Query, Suitable,
};
use tract_core::tract_linalg::mmm_tiers::MmmTier;
use tract_core::tract_linalg::pack::PackedFormat;

use super::tensors::{ALIGNMENT, FileBytes};

/// Rows of the panels of small matrices, of others, and for products with one column.
const NARROW: u32 = 16;
const WIDE: u32 = 32;
const FOR_ONE: u32 = 64;

/// A convolution's input is laid out while its product runs, twelve columns at a time for narrow
/// panels and six for wide ones: only with so many rows is that little of the work.
const MANY_ROWS: usize = 256;

/// The rows of the panels of a matrix of `m` rows for products with `n` columns.
fn rows(m: usize, n: usize, of_convolution: bool) -> u32 {
    let padded = |rows: u32| m.next_multiple_of(rows as usize);
    // A twentieth more to compute is what the better kernel gains.
    let wide_fits = padded(WIDE) <= padded(NARROW) + m / 20;
    match n {
        1 if m >= WIDE as usize => FOR_ONE,
        2.. if wide_fits && (!of_convolution || m >= MANY_ROWS) => WIDE,
        _ => NARROW,
    }
}

/// Kernels read so many steps beyond a panel's end.
const STEPS_BEYOND: usize = 1;

/// The form of a constant matrix: panels of some rows, each step of which lies together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Panels {
    /// Rows of a panel.
    rows: u32,
    /// Rows of the matrix: of the product's result.
    m: u32,
    /// Its columns: what the product adds up.
    k: u32,
    /// Whether the axis of columns comes first in the constant's shape.
    k_first: bool,
}

impl Panels {
    /// Bytes of one panel, with what kernels may read beyond it.
    fn panel_bytes(&self) -> usize {
        let numbers = (self.k as usize + STEPS_BEYOND) * self.rows as usize;
        (numbers * size_of::<f32>()).next_multiple_of(ALIGNMENT)
    }

    fn count(&self) -> usize {
        (self.m as usize).div_ceil(self.rows as usize)
    }

    /// Bytes of all panels; an error if they are not the panels of a matrix of this shape.
    pub(crate) fn bytes(&self, shape: &[usize]) -> TractResult<u64> {
        ensure!([NARROW, WIDE, FOR_ONE].contains(&self.rows), "panels of {} rows", self.rows);
        ensure!(self.m > 1 && self.k > 1, "panels of a single row or column");
        let volume = shape.iter().product::<usize>() as u64;
        ensure!(volume == u64::from(self.m) * u64::from(self.k), "panels of another size");
        Ok(self.panel_bytes() as u64 * self.count() as u64)
    }

    /// Where an element is among all numbers.
    fn place(&self, row: usize, column: usize) -> usize {
        let rows = self.rows as usize;
        (row / rows) * (self.panel_bytes() / size_of::<f32>()) + column * rows + row % rows
    }

    /// Calls with the place of every element, in the constant's own order.
    fn for_each(&self, mut each: impl FnMut(usize)) {
        let (m, k) = (self.m as usize, self.k as usize);
        if self.k_first {
            for column in 0..k {
                (0..m).for_each(|row| each(self.place(row, column)));
            }
        } else {
            for row in 0..m {
                (0..k).for_each(|column| each(self.place(row, column)));
            }
        }
    }

    /// The panels of a constant.
    pub(crate) fn pack(&self, plain: &[f32]) -> Vec<u8> {
        let mut packed = vec![0f32; self.panel_bytes() / size_of::<f32>() * self.count()];
        let mut plain = plain.iter();
        self.for_each(|place| packed[place] = plain.next().copied().unwrap_or_default());
        packed.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    /// The constant that was packed.
    pub(crate) fn unpack(&self, packed: &[u8], shape: &[usize]) -> TractResult<Tensor> {
        let mut plain = Vec::with_capacity(self.m as usize * self.k as usize);
        let (packed, _) = packed.as_chunks::<4>();
        self.for_each(|place| plain.push(f32::from_le_bytes(packed[place])));
        Tensor::from_shape(shape, &plain)
    }

    /// The axes of columns and rows in a shape that otherwise has axes of one.
    fn axes(&self, shape: &[usize]) -> Option<(usize, usize)> {
        let mut long = (0..shape.len()).filter(|axis| shape[*axis] != 1);
        let (first, second) = (long.next()?, long.next()?);
        let (k, m) = if self.k_first { (first, second) } else { (second, first) };
        let fits = shape[k] == self.k as usize && shape[m] == self.m as usize;
        (fits && long.next().is_none()).then_some((k, m))
    }

    /// Whether `pack`, reading the constant in `shape`, would make just these panels; the format it
    /// makes.
    pub(crate) fn are_made_by(&self, pack: &TypedNode, shape: &[usize]) -> Option<PackedFormat> {
        let op = pack.op_as::<OptMatMulPack>()?;
        let exotic = pack.outputs[0].fact.exotic_fact.as_ref()?;
        let [packer] = &*exotic.downcast_ref::<DynPackedExoticFact>()?.packers else { return None };
        let format = packer.downcast_ref::<PackedFormat>()?;
        let same_form = format.r == self.rows as usize
            && format.dt == f32::datum_type()
            && format.alignment_bytes <= ALIGNMENT
            && format.end_padding_record <= STEPS_BEYOND;
        if !same_form {
            return None;
        }
        // Which axis it takes for which is not told; packing a small matrix shows it.
        let (k, m) = self.axes(shape)?;
        let mut probe = vec![1; shape.len()];
        (probe[k], probe[m]) = (2, 3);
        let probe = Tensor::zero::<f32>(&probe).ok()?.into_tvalue();
        let packed = op.eval_out_of_plan(tvec!(probe)).ok()??.remove(0);
        let packed = packed.try_storage_as::<PackedMatrixStorage>().ok()?;
        let [value] = packed.values() else { return None };
        (value.k() == 2 && value.mn() == 3).then(|| format.clone())
    }
}

/// The panels a constant is to be stored as, if a single product with known sizes reads it.
pub(crate) fn choose(model: &TypedModel, constant: &TypedNode) -> Option<Panels> {
    let value = &constant.op_as::<Const>()?.val();
    let [reader] = &*constant.outputs[0].successors else { return None };
    let is_output = model.outputs.iter().any(|output| output.node == constant.id);
    if is_output || value.datum_type() != f32::datum_type() || !value.is_plain_ram() {
        return None;
    }
    let (node, shape) = (model.node(reader.node), value.shape());
    let (m, k, n, k_first) = if let Some(conv) = node.op_as::<Conv>() {
        of_convolution(model, node, conv, reader.slot, shape)?
    } else if let Some(op) = node.op_as::<EinSum>() {
        of_product(model, node, op, reader.slot, shape)?
    } else {
        return None;
    };
    let panels = Panels {
        rows: rows(m, n, node.op_is::<Conv>()),
        m: m.try_into().ok()?,
        k: k.try_into().ok()?,
        k_first,
    };
    panels.bytes(shape).is_ok().then_some(panels)
}

/// Rows, columns, the result's columns, and whether columns come first.
type Form = (usize, usize, usize, bool);

fn of_convolution(
    model: &TypedModel,
    node: &TypedNode,
    conv: &Conv,
    slot: usize,
    shape: &[usize],
) -> Option<Form> {
    let data = model.outlet_fact(node.inputs[0]).ok()?;
    let output = node.outputs[0].fact.shape.as_concrete()?;
    let output = conv.pool_spec.data_format.shape(output).ok()?;
    let is_product = slot == 1
        && conv.group == 1
        && conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && data.datum_type == f32::datum_type();
    let n = output.hw_dims().iter().product();
    let (m, k) = (*shape.first()?, shape.get(1..)?.iter().product());
    is_product.then_some((m, k, n, false))
}

fn of_product(
    model: &TypedModel,
    node: &TypedNode,
    op: &EinSum,
    slot: usize,
    shape: &[usize],
) -> Option<Form> {
    if op.q_params.is_some() || node.inputs.len() != 2 {
        return None;
    }
    let other = 1 - slot;
    let data = model.outlet_fact(node.inputs[other]).ok()?;
    let lengths = data.shape.as_concrete()?;
    if data.datum_type != f32::datum_type() {
        return None;
    }
    let (mut m, mut k, mut n) = (None, None, None);
    let set = |place: &mut Option<(usize, usize)>, axis: usize, length: usize| {
        place.replace((axis, length)).is_none().then_some(())
    };
    for axis in op.axes.iter_all_axes() {
        let (ours, theirs) = (axis.inputs[slot].first(), axis.inputs[other].first());
        let is_result = !axis.outputs[0].is_empty();
        let ours = ours.map(|at| (*at, shape[*at])).filter(|(_, length)| *length != 1);
        let theirs = theirs.map(|at| (*at, lengths[*at])).filter(|(_, length)| *length != 1);
        match (ours, theirs, is_result) {
            (None, None, _) => {}
            (Some((at, length)), None, true) => set(&mut m, at, length)?,
            (Some((at, length)), Some(_), false) => set(&mut k, at, length)?,
            (None, Some((at, length)), true) => set(&mut n, at, length)?,
            _ => return None,
        }
    }
    let ((m_axis, m), (k_axis, k)) = (m?, k?);
    let n = n.map_or(1, |(_, length)| length);
    // tract takes the longer operand for the rows, and the first of equal ones.
    (m > n || (m == n && slot == 0)).then_some((m, k, n, k_axis < m_axis))
}

/// Panels in a file that is in memory.
#[derive(Clone)]
pub(crate) struct Mapped {
    panels: Panels,
    file: Arc<FileBytes>,
    start: usize,
    fact: PackedExoticFact,
}

impl Mapped {
    /// Panels that are at `start` in `file`, of a format they fit.
    pub(crate) fn new(
        panels: Panels,
        file: Arc<FileBytes>,
        start: usize,
        format: PackedFormat,
    ) -> TractResult<Mapped> {
        let length = panels.panel_bytes() * panels.count();
        let bytes = start.checked_add(length).and_then(|end| file.get(start..end));
        let bytes = bytes.context("panels beyond the file")?;
        ensure!((bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT), "panels at an odd place");
        let (mn, k) = ((panels.m as usize).to_dim(), panels.k as usize);
        Ok(Mapped {
            panels,
            file,
            start,
            fact: PackedExoticFact { format: Box::new(format), mn, k },
        })
    }

    /// As the constant that a product reads, in place of the tensor that packing makes.
    pub(crate) fn into_constant(self, shape: &[usize]) -> Arc<Tensor> {
        let value: Box<dyn MMMInputValue> = Box::new(self);
        let storage = PackedMatrixStorage::new_batched(shape, tvec![value]);
        storage.into_tensor(f32::datum_type()).into_arc_tensor()
    }
}

impl MMMInputValue for Mapped {
    fn format(&self) -> &dyn MMMInputFormat {
        &*self.fact.format
    }

    fn scratch_panel_buffer_layout(&self) -> Option<std::alloc::Layout> {
        None
    }

    fn panel_bytes(&self, index: usize, _: Option<*mut u8>) -> TractResult<*const u8> {
        ensure!(index < self.panels.count(), "panel {index} of {}", self.panels.count());
        Ok(self.file[self.start + index * self.panels.panel_bytes()..].as_ptr())
    }

    fn mn(&self) -> usize {
        self.panels.m as usize
    }

    fn k(&self) -> usize {
        self.panels.k as usize
    }

    fn exotic_fact(&self) -> &dyn ExoticFact {
        &self.fact
    }

    fn extract_at_mn_f16(&self, _: usize, _: &mut [f16]) -> TractResult<()> {
        bail!("mapped weights are read by panels")
    }

    fn extract_at_mn_f32(&self, row: usize, into: &mut [f32]) -> TractResult<()> {
        ensure!(row < self.mn() && into.len() == self.k(), "a row of another size");
        let (packed, _) = self.file[self.start..].as_chunks::<4>();
        for (column, into) in into.iter_mut().enumerate() {
            *into = f32::from_le_bytes(packed[self.panels.place(row, column)]);
        }
        Ok(())
    }
}

impl PartialEq for Mapped {
    fn eq(&self, other: &Self) -> bool {
        self.panels == other.panels
            && self.start == other.start
            && Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Eq for Mapped {}

impl Hash for Mapped {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.start, self.panels.m, self.panels.k).hash(state);
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.panels, self.start)
    }
}

impl fmt::Display for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

thread_local! {
    /// Rows of the panels of the product that is being decided on this thread.
    static ROWS_WANTED: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Decides with kernels for panels of these rows, where the processor has them.
pub(crate) fn deciding_for<R>(panels: Panels, decide: impl FnOnce() -> R) -> R {
    ROWS_WANTED.set(Some(panels.rows));
    let decided = decide();
    ROWS_WANTED.set(None);
    decided
}

/// Our word in tract's choice of a kernel.
fn preferred(
    isa: &IsaSet,
    datum: DatumType,
    query: &Query,
    _: &[Suitable],
) -> Option<&'static str> {
    let rows = ROWS_WANTED.get().filter(|_| datum == DatumType::F32)?;
    let n = query.n?;
    let padded = |width: usize| n.div_ceil(width) * width;
    let avx512 = isa.has(Isa::X86_64Avx512f);
    Some(match rows {
        FOR_ONE => "fma_mmm_f32_64x1",
        WIDE if !avx512 => "fma_mmm_f32_32x3",
        WIDE if padded(5) < padded(6) => "avx512_mmm_f32_32x5",
        WIDE => "avx512_mmm_f32_32x6",
        _ if !avx512 && padded(5) < padded(6) => "fma_mmm_f32_16x5",
        _ if !avx512 => "fma_mmm_f32_16x6",
        _ if n == 1 => "avx512_mmm_f32_16x1",
        _ if padded(8) < padded(12) => "avx512_mmm_f32_16x8",
        _ => "avx512_mmm_f32_16x12",
    })
}

inventory::submit! {
    MmmTier {
        arch: Some(Arch::X86_64),
        // Before all of tract's own.
        precedence: u8::MAX,
        name: "slsml",
        applies: |isa| isa.has(Isa::X86_64Avx2) && isa.has(Isa::X86_64Fma),
        preferred,
    }
}

/// What can read a constant that is stored in panels without unpacking it, or leads to what can.
pub(crate) fn may_read(node: &TypedNode, slot: usize) -> bool {
    let op = &node.op;
    match op.downcast_ref::<AxisOp>() {
        Some(op) => !matches!(op, AxisOp::Move(..)),
        None => {
            op.is::<IntoShape>()
                || op.is::<OptMatMulPack>()
                || op.is::<EinSum>()
                || op.is::<EinSumMatMul>()
                || (op.is::<Conv>() && slot == 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use tract_core::ops::cnn::{PaddingSpec, PoolSpec};
    use tract_core::ops::matmul::optimized::{MatMulOperand, OptMatMul, ProtoFusedSpec};
    use tract_core::ops::nn::DataFormat;

    use super::super::read::{Graphs, load};
    use super::super::write;
    use super::*;

    fn numbers(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 0.61).sin()).collect();
        Tensor::from_shape(shape, &numbers).unwrap()
    }

    fn convolution(size: usize, outputs: usize) -> (TypedModel, TValue) {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([1, 16, size, size])).unwrap();
        let filters = model.add_const("filters", numbers(&[outputs, 16, 3, 3])).unwrap();
        let bias = model.add_const("bias", numbers(&[outputs])).unwrap();
        let conv = Conv {
            pool_spec: PoolSpec {
                data_format: DataFormat::NCHW,
                kernel_shape: tvec!(3, 3),
                padding: PaddingSpec::Valid,
                dilations: None,
                strides: None,
                input_channels: 16,
                output_channels: outputs,
            },
            kernel_fmt: KernelFormat::OIHW,
            group: 1,
            q_params: None,
        };
        let y = model.wire_node("conv", conv, &[x, filters, bias]).unwrap();
        model.select_output_outlets(&y).unwrap();
        (model, numbers(&[1, 16, size, size]).into_tvalue())
    }

    fn product(
        formula: &str,
        weights: &[usize],
        data: &[usize],
        slot: usize,
    ) -> (TypedModel, TValue) {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact(data)).unwrap();
        let weights = model.add_const("weights", numbers(weights)).unwrap();
        let op = EinSum::new(formula.parse().unwrap(), f32::datum_type());
        let inputs = if slot == 0 { [weights, x] } else { [x, weights] };
        let y = model.wire_node("product", op, &inputs).unwrap();
        model.select_output_outlets(&y).unwrap();
        (model, numbers(data).into_tvalue())
    }

    /// Products whose constant is in the file: part of the operator, or an input of it.
    fn mapped(model: &TypedModel) -> usize {
        let is_mapped = |node: &&TypedNode| match node.op_as::<Const>() {
            Some(op) => {
                let packed = op.val().try_storage_as::<PackedMatrixStorage>();
                packed.is_ok_and(|packed| packed.value().is::<Mapped>())
            }
            None => node.op_as::<OptMatMul>().is_some_and(|op| {
                op.micro_ops.iter().any(|spec| {
                    matches!(spec, ProtoFusedSpec::AddMatMul { a: MatMulOperand::Const(value), .. }
                        if value.is::<Mapped>())
                })
            }),
        };
        model.nodes.iter().filter(is_mapped).count()
    }

    #[test]
    fn weights_are_used_where_they_are_mapped() {
        let cases = [
            convolution(12, 40),
            convolution(3, 48),
            convolution(3, 30),
            product("mk,kn->mn", &[96, 70], &[70, 20], 0),
            product("nk,km->nm", &[70, 96], &[20, 70], 1),
            product("nk,mk->nm", &[96, 70], &[1, 70], 1),
            product("bnk,mk->bnm", &[500, 70], &[1, 33, 70], 1),
        ];
        for (case, (model, input)) in cases.into_iter().enumerate() {
            let model = model.into_decluttered().unwrap();
            let expected = model.clone().into_optimized().unwrap().into_runnable().unwrap();
            let expected = expected.run(tvec!(input.clone())).unwrap().remove(0);
            let stored = write(&model).unwrap();
            let file = Blob::from_bytes_alignment(&stored.weights, ALIGNMENT).unwrap();
            let file = Arc::new(FileBytes::Copied(file));
            let ours = load(Graphs::parse(&stored.plan).unwrap(), file, 0).unwrap();
            #[cfg(target_arch = "x86_64")]
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                assert_eq!(mapped(&ours), 1, "case {case}: {ours}");
            }
            let ours = ours.into_runnable().unwrap().run(tvec!(input)).unwrap().remove(0);
            ours.close_enough(&expected, Approximation::Approximate).unwrap();
        }
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        for (rows, m, k, k_first) in
            [(16, 40, 7, false), (32, 5, 300, true), (64, 100, 33, true), (64, 64, 2, false)]
        {
            let panels = Panels { rows, m, k, k_first };
            let shape = if k_first { [k as usize, m as usize] } else { [m as usize, k as usize] };
            let plain = numbers(&shape);
            let packed = panels.pack(plain.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap());
            assert_eq!(packed.len() as u64, panels.bytes(&shape).unwrap());
            assert_eq!(panels.unpack(&packed, &shape).unwrap(), plain);
        }
    }
}
