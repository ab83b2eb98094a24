//! The table of operators: what of each is stored, and how it comes back.
//!
//! These are the operators of a decluttered graph; those that depend on the processor are made
//! from them at start. Adding one means a line in [`OpRecord`], one in `encode`, one in `decode`;
//! changing one means another [`crate::container::FORMAT_VERSION`].

use serde::{Deserialize, Serialize};
use tract_core::internal::*;
use tract_core::ops::array::*;
use tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_core::ops::cast::Cast;
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, MaxPool, PaddingSpec, PoolSpec, SumPool};
use tract_core::ops::downsample::Downsample;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::fft::{Fft, Stft};
use tract_core::ops::gru_cell::GruEpilogue;
use tract_core::ops::gru_seq::GruSeq;
use tract_core::ops::identity::Identity;
use tract_core::ops::konst::Const;
use tract_core::ops::logic::*;
use tract_core::ops::lstm_cell::LstmEpilogue;
use tract_core::ops::math::*;
use tract_core::ops::nn::resize::{
    CoordTransformer, Interpolator, Nearest, NearestUpsample, Resize,
};
use tract_core::ops::nn::*;
use tract_core::ops::quant::*;
use tract_core::ops::scan::{InputMapping, OutputMapping, Scan, ScanInfo};
use tract_core::ops::source::TypedSource;
use tract_onnx_opl::lrn::Lrn;
use tract_onnx_opl::ml::tree::{Aggregate, TreeEnsemble, TreeEnsembleData};
use tract_onnx_opl::ml::tree_ensemble_classifier::TreeEnsembleClassifier;
use tract_onnx_opl::multinomial::Multinomial;
use tract_onnx_opl::non_max_suppression::{BoxRepr, NonMaxSuppression};
use tract_onnx_opl::non_zero::NonZero;
use tract_onnx_opl::random::{Dist, Random};
use tract_onnx_opl::resize as onnx_resize;

use super::datum::DatumRecord;
use super::dft::{Dft, FramedDft};
use super::dims::DimRecord;
use super::extra::{DynamicQuantize, MaxPoolIndices, ParseNumbers, ServedDropout};
use super::read::Reader;
use super::write::Writer;

/// The widest window (in elements) of a convolution or pooling that is read.
const MAX_WINDOW: usize = 1 << 24;

/// Operators without parameters, by name.
macro_rules! plain_ops {
    ($record:ident for $trait:ident: $($name:ident)+) => {
        #[derive(Clone, Copy, Debug, Serialize, Deserialize)]
        pub(crate) enum $record { $($name),+ }

        impl $record {
            fn encode(op: &dyn $trait) -> Option<Self> {
                $(if op.is::<$name>() { return Some(Self::$name) })+
                None
            }

            fn decode(self) -> Box<dyn $trait> {
                match self { $(Self::$name => Box::new($name {})),+ }
            }
        }
    };
}

plain_ops!(PlainBinary for BinMiniOp:
    Add Sub SubF Mul Div Rem Min Max Pow ShiftLeft ShiftRight
    And Or Xor BitAnd BitOr BitXor CompEq CompNE CompLT CompLTE CompGT CompGTE Scale);

plain_ops!(PlainElementWise for ElementWiseMiniOp:
    Abs Exp Ln Square Sqrt Recip Rsqrt Ceil Floor Round RoundHalfToEven
    Cos Sin Tan Acos Asin Atan Cosh Sinh Tanh Acosh Asinh Atanh Erf Neg Sign
    Sigmoid HardSwish Silu GeluExact Not BitNot IsNan OffsetI8asU8 OffsetU8asI8);

plain_ops!(PlainOp for TypedOp: Identity Iff DynamicQuantize);

/// Element-wise operators.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ElementWiseRecord {
    Plain(PlainElementWise),
    LeakyRelu { alpha: f32 },
    PowConst { exponent: f32 },
    GeluApproximate { fast_impl: bool },
    IsInf { detect_positive: bool, detect_negative: bool },
    QuantizeLinearU8 { scale: f32, zero_point: u8 },
    QuantizeLinearI8 { scale: f32, zero_point: i8 },
    LookupTable { table: Vec<u8> },
    ParseNumbers,
}

/// One axis of an Einstein sum: where each input and output has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AxisRecord {
    repr: char,
    inputs: Vec<Vec<usize>>,
    outputs: Vec<Vec<usize>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PaddingRecord {
    Explicit(Vec<usize>, Vec<usize>),
    ExplicitOnnxPool(Vec<usize>, Vec<usize>, bool),
    Valid,
    SameUpper,
    SameLower,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PoolRecord {
    #[serde(with = "DataFormatDef")]
    data_format: DataFormat,
    kernel_shape: Vec<usize>,
    padding: PaddingRecord,
    dilations: Option<Vec<usize>>,
    strides: Option<Vec<usize>>,
    input_channels: usize,
    output_channels: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PadRecord {
    Constant(u32),
    Reflect,
    Edge,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AxisOpRecord {
    Add(usize),
    Remove(usize),
    Move(usize, usize),
    Reshape(usize, Vec<DimRecord>, Vec<DimRecord>),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ScanRecord {
    axis: usize,
    chunk: isize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LoopInputRecord {
    Full,
    State,
    Scan(ScanRecord),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LoopOutputRecord {
    scan: Option<(usize, ScanRecord)>,
    full_dim_hint: Option<DimRecord>,
    last_value_slot: Option<usize>,
    state: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum DistributionRecord {
    Uniform { low: u32, high: u32 },
    Normal { mean: u32, dev: u32 },
}

/// An operator and its parameters. Constants and bodies are indices into the file's tables.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OpRecord {
    Source {
        datum: DatumRecord,
        shape: Vec<DimRecord>,
    },
    Const {
        tensor: u32,
    },
    Plain(PlainOp),
    ElementWise {
        op: ElementWiseRecord,
        out: Option<DatumRecord>,
    },
    Binary {
        op: PlainBinary,
        out: Option<DatumRecord>,
    },
    Cast {
        to: DatumRecord,
    },
    Axis(AxisOpRecord),
    EinSum {
        axes: Vec<AxisRecord>,
        operating: DatumRecord,
        quantised: Option<DatumRecord>,
    },
    Conv {
        pool: PoolRecord,
        #[serde(with = "KernelFormatDef")]
        kernel: KernelFormat,
        group: usize,
        quantised: Option<DatumRecord>,
    },
    Deconv {
        pool: PoolRecord,
        #[serde(with = "KernelFormatDef")]
        kernel: KernelFormat,
        adjustments: Vec<usize>,
        group: usize,
    },
    MaxPool {
        pool: PoolRecord,
        index: Option<DatumRecord>,
    },
    SumPool {
        pool: PoolRecord,
        count_include_pad: bool,
        normalize: bool,
    },
    Reduce {
        axes: Vec<usize>,
        #[serde(with = "ReducerDef")]
        reducer: Reducer,
    },
    Softmax {
        axes: Vec<usize>,
        quantised: Option<DatumRecord>,
        #[serde(with = "SoftmaxKindDef")]
        kind: SoftmaxKind,
    },
    RmsNorm {
        axis: usize,
        eps: u32,
    },
    ScaledRmsNorm {
        axis: usize,
        eps: u32,
        out: Option<DatumRecord>,
        scale: Option<DatumRecord>,
    },
    ClampedSwiGlu {
        alpha: f32,
        limit: f32,
    },
    NearestUpsample {
        scales: Vec<usize>,
    },
    Resize {
        #[serde(with = "CoordTransformerDef")]
        coordinates: CoordTransformer,
        #[serde(with = "InterpolatorDef")]
        interpolator: Interpolator,
        #[serde(with = "NearestDef")]
        nearest: Nearest,
        scales_input: Option<usize>,
        sizes_input: Option<usize>,
    },
    OnnxResize(OnnxResizeRecord),
    GridSample {
        #[serde(with = "InterpolationModeDef")]
        mode: InterpolationMode,
        #[serde(with = "PaddingModeDef")]
        padding: PaddingMode,
        align_corners: bool,
    },
    Concat {
        axis: usize,
    },
    Slice {
        axis: usize,
        start: DimRecord,
        end: DimRecord,
    },
    StridedSlice {
        axes_input: Option<usize>,
        steps_input: Option<usize>,
        begin_mask: i64,
        end_mask: i64,
        shrink_axis_mask: i64,
    },
    DynSlice {
        axis: usize,
        len: DimRecord,
    },
    Pad {
        pads: Vec<(usize, usize)>,
        mode: PadRecord,
    },
    Tile {
        multipliers: Vec<DimRecord>,
    },
    DynTile {
        placeholders: Vec<DimRecord>,
    },
    BroadcastTo {
        shape: Vec<DimRecord>,
    },
    FiniteReshape {
        shape: Vec<usize>,
    },
    Gather {
        axis: usize,
        out: Option<DatumRecord>,
    },
    GatherElements {
        axis: usize,
    },
    GatherNd {
        batch_dims: usize,
    },
    ScatterElements {
        axis: usize,
        #[serde(with = "ScatterReductionDef")]
        reduction: ScatterReduction,
    },
    ScatterNd {
        #[serde(with = "ScatterReductionDef")]
        reduction: ScatterReduction,
    },
    OneHot {
        axis: usize,
        dim: usize,
        off: u32,
        on: u32,
    },
    CumSum {
        axis: usize,
        exclusive: bool,
        reverse: bool,
    },
    Range {
        len: DimRecord,
    },
    Topk {
        axis: usize,
        largest: bool,
        fallback_k: DimRecord,
    },
    Trilu {
        upper: bool,
    },
    Downsample {
        axis: usize,
        stride: isize,
        modulo: usize,
    },
    DequantizeLinear {
        scale: f32,
        zero_point: i32,
    },
    Fft {
        axis: usize,
        inverse: bool,
    },
    Stft {
        axis: usize,
        frame: usize,
        stride: usize,
        window: Option<u32>,
    },
    LstmEpilogue {
        hidden: usize,
    },
    GruEpilogue {
        hidden: usize,
    },
    GruSeq {
        hidden: usize,
        has_bias: bool,
        chunk: isize,
        emit_y: bool,
        reset_every_turn: bool,
        projected: bool,
    },
    If {
        then: u32,
        then_inputs: Vec<usize>,
        otherwise: u32,
        otherwise_inputs: Vec<usize>,
    },
    Scan {
        body: u32,
        skip: usize,
        reset_every_turn: bool,
        external_state: bool,
        inputs: Vec<LoopInputRecord>,
        outputs: Vec<LoopOutputRecord>,
    },
    Lrn {
        alpha: f32,
        beta: f32,
        bias: f32,
        size: usize,
    },
    TreeEnsemble {
        trees: u32,
        nodes: u32,
        leaves: u32,
        features: usize,
        classes: usize,
        #[serde(with = "AggregateDef")]
        aggregate: Aggregate,
    },
    NonMaxSuppression {
        #[serde(with = "BoxReprDef")]
        boxes: BoxRepr,
        selected: u32,
        has_score_threshold: bool,
    },
    NonZero {
        count: u32,
    },
    Random {
        datum: DatumRecord,
        shape: Vec<DimRecord>,
        distribution: DistributionRecord,
        seed: Option<u64>,
    },
    Multinomial {
        datum: DatumRecord,
        samples: i32,
        seed: Option<f32>,
    },
    MaxPoolIndices {
        spatial: Vec<usize>,
        column_major: bool,
    },
    ServedDropout {
        ratio_input: Option<usize>,
        training_input: Option<usize>,
        mask: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OnnxResizeRecord {
    axes: Option<Vec<i64>>,
    /// `None` crops and resizes as TensorFlow does.
    #[serde(with = "coord_transform")]
    coordinates: onnx_resize::CoordTransform,
    #[serde(with = "InterpolatorDef")]
    interpolator: Interpolator,
    #[serde(with = "OnnxNearestDef")]
    nearest: onnx_resize::Nearest,
    antialias: bool,
    cubic_coeff_a_bits: u32,
    exclude_outside: bool,
    extrapolation_value_bits: u32,
    #[serde(with = "AspectRatioDef")]
    aspect_ratio: onnx_resize::AspectRatio,
    roi_input: Option<usize>,
    scales_input: Option<usize>,
    sizes_input: Option<usize>,
}

mod coord_transform {
    //! `None` stands for TensorFlow's crop-and-resize.
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use tract_core::ops::nn::resize::CoordTransformer;
    use tract_onnx_opl::resize::CoordTransform;

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super::CoordTransformerDef")] CoordTransformer);

    pub(super) fn serialize<S: Serializer>(
        transform: &CoordTransform,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match transform {
            CoordTransform::Plain(plain) => Some(Wrapped(plain.clone())),
            CoordTransform::TfCropAndResize => None,
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<CoordTransform, D::Error> {
        Ok(match Option::<Wrapped>::deserialize(deserializer)? {
            Some(Wrapped(plain)) => CoordTransform::Plain(plain),
            None => CoordTransform::TfCropAndResize,
        })
    }
}

/// Foreign enumerations, spelled out for serde.
macro_rules! remote_enums {
    ($($def:ident = $remote:literal { $($variant:ident $(($($field:ty),+))?),+ })+) => {$(
        // The names are tract's.
        #[allow(clippy::upper_case_acronyms)]
        #[derive(Serialize, Deserialize)]
        #[serde(remote = $remote)]
        enum $def { $($variant $(($($field),+))?),+ }
    )+};
}

remote_enums! {
    DataFormatDef = "DataFormat" { NCHW, NHWC, CHW, HWC }
    KernelFormatDef = "KernelFormat" { OIHW, HWIO, OHWI }
    ReducerDef = "Reducer" {
        ArgMax(bool), ArgMin(bool), Max, Min, Prod, Sum, MeanOfSquares, All, Any
    }
    SoftmaxKindDef = "SoftmaxKind" { Softmax, LogSoftmax }
    CoordTransformerDef = "CoordTransformer" {
        HalfPixel, AlignCorners, Asymmetric, PytorchHalfPixel, HalfPixelSymmetric, TfHalfPixelForNn
    }
    InterpolatorDef = "Interpolator" { Linear, Nearest, Cubic }
    NearestDef = "Nearest" { Floor, RoundPreferCeil }
    OnnxNearestDef = "onnx_resize::Nearest" { Floor, Ceil, RoundPreferFloor, RoundPreferCeil }
    AspectRatioDef = "onnx_resize::AspectRatio" { Stretch, NotLarger, NotSmaller }
    InterpolationModeDef = "InterpolationMode" { Bilinear, Nearest, Bicubic }
    PaddingModeDef = "PaddingMode" { Zeros, Border, Reflection }
    ScatterReductionDef = "ScatterReduction" { None, Add, Mul, Min, Max }
    AggregateDef = "Aggregate" { Sum, Avg, Max, Min }
    BoxReprDef = "BoxRepr" { TwoPoints, CenterWidthHeight }
}

fn maybe(datum: Option<DatumType>) -> TractResult<Option<DatumRecord>> {
    datum.map(DatumRecord::encode).transpose()
}

fn decode(datum: Option<DatumRecord>) -> Option<DatumType> {
    datum.map(DatumRecord::decode)
}

impl ElementWiseRecord {
    fn encode(op: &dyn ElementWiseMiniOp) -> Option<Self> {
        if let Some(plain) = PlainElementWise::encode(op) {
            return Some(Self::Plain(plain));
        }
        if let Some(op) = op.downcast_ref::<LeakyRelu>() {
            return Some(Self::LeakyRelu { alpha: op.alpha });
        }
        if let Some(op) = op.downcast_ref::<PowConst>() {
            return Some(Self::PowConst { exponent: op.exponent });
        }
        if let Some(op) = op.downcast_ref::<GeluApproximate>() {
            return Some(Self::GeluApproximate { fast_impl: op.fast_impl });
        }
        if let Some(op) = op.downcast_ref::<IsInf>() {
            let (detect_positive, detect_negative) = (op.detect_positive, op.detect_negative);
            return Some(Self::IsInf { detect_positive, detect_negative });
        }
        if let Some(op) = op.downcast_ref::<QuantizeLinearU8>() {
            return Some(Self::QuantizeLinearU8 { scale: op.scale, zero_point: op.zero_point });
        }
        if let Some(op) = op.downcast_ref::<QuantizeLinearI8>() {
            return Some(Self::QuantizeLinearI8 { scale: op.scale, zero_point: op.zero_point });
        }
        if op.is::<ParseNumbers>() {
            return Some(Self::ParseNumbers);
        }
        let table = op.downcast_ref::<LookupTable>()?.table.table().to_vec();
        Some(Self::LookupTable { table })
    }

    fn decode(self) -> TractResult<Box<dyn ElementWiseMiniOp>> {
        Ok(match self {
            Self::Plain(plain) => plain.decode(),
            Self::LeakyRelu { alpha } => Box::new(LeakyRelu { alpha }),
            Self::PowConst { exponent } => Box::new(PowConst { exponent }),
            Self::GeluApproximate { fast_impl } => Box::new(GeluApproximate { fast_impl }),
            Self::IsInf { detect_positive, detect_negative } => {
                Box::new(IsInf { detect_positive, detect_negative })
            }
            Self::QuantizeLinearU8 { scale, zero_point } => {
                Box::new(QuantizeLinearU8 { scale, zero_point })
            }
            Self::QuantizeLinearI8 { scale, zero_point } => {
                Box::new(QuantizeLinearI8 { scale, zero_point })
            }
            Self::ParseNumbers => Box::new(ParseNumbers),
            Self::LookupTable { table } => {
                ensure!(table.len() == 256, "a lookup table of {} entries", table.len());
                Box::new(LookupTable { table: tract_core::tract_linalg::routines::lut_u8(&table)? })
            }
        })
    }
}

impl PoolRecord {
    fn encode(spec: &PoolSpec) -> Self {
        let padding = match &spec.padding {
            PaddingSpec::Explicit(before, after) => {
                PaddingRecord::Explicit(before.to_vec(), after.to_vec())
            }
            PaddingSpec::ExplicitOnnxPool(before, after, ceil) => {
                PaddingRecord::ExplicitOnnxPool(before.to_vec(), after.to_vec(), *ceil)
            }
            PaddingSpec::Valid => PaddingRecord::Valid,
            PaddingSpec::SameUpper => PaddingRecord::SameUpper,
            PaddingSpec::SameLower => PaddingRecord::SameLower,
        };
        Self {
            data_format: spec.data_format,
            kernel_shape: spec.kernel_shape.to_vec(),
            padding,
            dilations: spec.dilations.as_ref().map(|all| all.to_vec()),
            strides: spec.strides.as_ref().map(|all| all.to_vec()),
            input_channels: spec.input_channels,
            output_channels: spec.output_channels,
        }
    }

    fn decode(self) -> TractResult<PoolSpec> {
        let Self { data_format, kernel_shape, padding, dilations, strides, .. } = self;
        let window = kernel_shape.iter().try_fold(1usize, |all, length| all.checked_mul(*length));
        ensure!(
            window.is_some_and(|window| (1..=MAX_WINDOW).contains(&window)),
            "a window of {kernel_shape:?}"
        );
        let rank = kernel_shape.len();
        let steps = [&dilations, &strides].into_iter().flatten();
        for steps in steps {
            let sane = steps.len() == rank && steps.iter().all(|s| (1..=MAX_WINDOW).contains(s));
            ensure!(sane, "steps of {steps:?}");
        }
        let padding = match padding {
            PaddingRecord::Explicit(before, after) => {
                ensure!(before.len() == rank && after.len() == rank, "padding of another rank");
                PaddingSpec::Explicit(before.into(), after.into())
            }
            PaddingRecord::ExplicitOnnxPool(before, after, ceil) => {
                ensure!(before.len() == rank && after.len() == rank, "padding of another rank");
                PaddingSpec::ExplicitOnnxPool(before.into(), after.into(), ceil)
            }
            PaddingRecord::Valid => PaddingSpec::Valid,
            PaddingRecord::SameUpper => PaddingSpec::SameUpper,
            PaddingRecord::SameLower => PaddingSpec::SameLower,
        };
        Ok(PoolSpec {
            data_format,
            kernel_shape: kernel_shape.into(),
            padding,
            dilations: dilations.map(Into::into),
            strides: strides.map(Into::into),
            input_channels: self.input_channels,
            output_channels: self.output_channels,
        })
    }
}

impl From<&ScanInfo> for ScanRecord {
    fn from(info: &ScanInfo) -> Self {
        Self { axis: info.axis, chunk: info.chunk }
    }
}

impl From<ScanRecord> for ScanInfo {
    fn from(record: ScanRecord) -> Self {
        Self { axis: record.axis, chunk: record.chunk }
    }
}

impl OpRecord {
    /// What is stored of a node's operator.
    pub(crate) fn encode(node: &TypedNode, to: &mut Writer) -> TractResult<OpRecord> {
        let op = &*node.op;
        if let Some(plain) = PlainOp::encode(op) {
            return Ok(Self::Plain(plain));
        }
        macro_rules! on {
            ($ty:ty, $op:ident => $record:expr) => {
                if let Some($op) = op.downcast_ref::<$ty>() {
                    return Ok($record);
                }
            };
        }
        on!(TypedSource, op => Self::Source {
            datum: DatumRecord::encode(op.fact.datum_type)?,
            shape: to.dims(op.fact.shape.iter()),
        });
        on!(Const, op => {
            ensure!(op.exotic_fact().is_none(), "a constant that is not plain data");
            Self::Const { tensor: to.tensor(op.val())? }
        });
        if let Some(op) = op.downcast_ref::<ElementWiseOp>()
            && let Some(record) = ElementWiseRecord::encode(&*op.0)
        {
            return Ok(Self::ElementWise { op: record, out: maybe(op.1)? });
        }
        if let Some(op) = op.downcast_ref::<TypedBinOp>()
            && let Some(record) = PlainBinary::encode(&*op.0)
        {
            return Ok(Self::Binary { op: record, out: maybe(op.1)? });
        }
        on!(Cast, op => Self::Cast { to: DatumRecord::encode(op.to)? });
        on!(AxisOp, op => Self::Axis(match op {
            AxisOp::Add(axis) => AxisOpRecord::Add(*axis),
            AxisOp::Rm(axis) => AxisOpRecord::Remove(*axis),
            AxisOp::Move(from, to) => AxisOpRecord::Move(*from, *to),
            AxisOp::Reshape(axis, before, after) => {
                AxisOpRecord::Reshape(*axis, to.dims(before.iter()), to.dims(after.iter()))
            }
        }));
        on!(EinSum, op => Self::EinSum {
            axes: op.axes.iter_all_axes().map(|axis| AxisRecord {
                repr: axis.repr,
                inputs: axis.inputs.iter().map(|all| all.to_vec()).collect(),
                outputs: axis.outputs.iter().map(|all| all.to_vec()).collect(),
            }).collect(),
            operating: DatumRecord::encode(op.operating_dt)?,
            quantised: maybe(op.q_params)?,
        });
        on!(Conv, op => Self::Conv {
            pool: PoolRecord::encode(&op.pool_spec),
            kernel: op.kernel_fmt,
            group: op.group,
            quantised: maybe(op.q_params)?,
        });
        on!(Deconv, op => Self::Deconv {
            pool: PoolRecord::encode(&op.pool_spec),
            kernel: op.kernel_format,
            adjustments: op.adjustments.to_vec(),
            group: op.group,
        });
        on!(MaxPool, op => Self::MaxPool {
            pool: PoolRecord::encode(&op.pool_spec),
            index: maybe(op.with_index_outputs)?,
        });
        on!(SumPool, op => Self::SumPool {
            pool: PoolRecord::encode(&op.pool_spec),
            count_include_pad: op.count_include_pad,
            normalize: op.normalize,
        });
        on!(Reduce, op => Self::Reduce { axes: op.axes.to_vec(), reducer: op.reducer });
        on!(Softmax, op => Self::Softmax {
            axes: op.axes.to_vec(),
            quantised: maybe(op.quant_output_dt)?,
            kind: op.kind,
        });
        on!(RmsNorm, op => Self::RmsNorm { axis: op.axis, eps: to.tensor(&op.eps)? });
        on!(ScaledRmsNorm, op => Self::ScaledRmsNorm {
            axis: op.axis,
            eps: to.tensor(&op.eps)?,
            out: maybe(op.out_dt)?,
            scale: maybe(op.scale_dt)?,
        });
        on!(ClampedSwiGlu, op => Self::ClampedSwiGlu { alpha: op.alpha, limit: op.limit });
        on!(NearestUpsample, op => Self::NearestUpsample { scales: op.scales.to_vec() });
        on!(Resize, op => Self::Resize {
            coordinates: op.coord_transformer.clone(),
            interpolator: op.interpolator.clone(),
            nearest: op.nearest,
            scales_input: op.optional_scales_input,
            sizes_input: op.optional_sizes_input,
        });
        on!(onnx_resize::Resize, op => Self::OnnxResize(OnnxResizeRecord {
            axes: op.axes.clone(),
            coordinates: op.coord_transformer.clone(),
            interpolator: op.interpolator.clone(),
            nearest: op.nearest,
            antialias: op.antialias,
            cubic_coeff_a_bits: op.cubic_coeff_a_bits,
            exclude_outside: op.exclude_outside,
            extrapolation_value_bits: op.extrapolation_value_bits,
            aspect_ratio: op.keep_aspect_ratio_policy,
            roi_input: op.optional_roi_input,
            scales_input: op.optional_scales_input,
            sizes_input: op.optional_sizes_input,
        }));
        on!(GridSample, op => Self::GridSample {
            mode: op.mode.clone(),
            padding: op.padding_mode.clone(),
            align_corners: op.align_corners,
        });
        on!(TypedConcat, op => Self::Concat { axis: op.axis });
        on!(Slice, op => Self::Slice {
            axis: op.axis,
            start: to.dim(&op.start),
            end: to.dim(&op.end),
        });
        on!(StridedSlice, op => Self::StridedSlice {
            axes_input: op.optional_axes_input,
            steps_input: op.optional_steps_input,
            begin_mask: op.begin_mask,
            end_mask: op.end_mask,
            shrink_axis_mask: op.shrink_axis_mask,
        });
        on!(DynSlice, op => Self::DynSlice { axis: op.axis, len: to.dim(&op.len) });
        on!(Pad, op => Self::Pad {
            pads: op.pads.clone(),
            mode: match &op.mode {
                PadMode::Constant(value) => PadRecord::Constant(to.tensor(value)?),
                PadMode::Reflect => PadRecord::Reflect,
                PadMode::Edge => PadRecord::Edge,
            },
        });
        on!(Tile, op => Self::Tile { multipliers: to.dims(op.multipliers.iter()) });
        on!(DynTile, op => Self::DynTile {
            placeholders: to.dims(op.multiplier_placeholders.iter()),
        });
        on!(MultiBroadcastTo, op => Self::BroadcastTo { shape: to.dims(op.shape.iter()) });
        on!(FiniteReshape, op => Self::FiniteReshape { shape: op.shape.to_vec() });
        on!(Gather, op => Self::Gather { axis: op.axis, out: maybe(op.output_type)? });
        on!(GatherElements, op => Self::GatherElements { axis: op.axis });
        on!(GatherNd, op => Self::GatherNd { batch_dims: op.batch_dims });
        on!(ScatterElements, op => Self::ScatterElements {
            axis: op.axis,
            reduction: op.reduction,
        });
        on!(ScatterNd, op => Self::ScatterNd { reduction: op.reduction });
        on!(OneHot, op => Self::OneHot {
            axis: op.axis,
            dim: op.dim,
            off: to.tensor(&op.off)?,
            on: to.tensor(&op.on)?,
        });
        on!(CumSum, op => Self::CumSum {
            axis: op.axis,
            exclusive: op.exclusive,
            reverse: op.reverse,
        });
        // Its length is not public; it is the length of what it makes.
        on!(Range, _op => Self::Range { len: to.dim(&node.outputs[0].fact.shape[0]) });
        on!(Topk, op => Self::Topk {
            axis: op.axis,
            largest: op.largest,
            fallback_k: to.dim(&op.fallback_k),
        });
        on!(Trilu, op => Self::Trilu { upper: op.upper });
        on!(Downsample, op => Self::Downsample {
            axis: op.axis,
            stride: op.stride,
            modulo: op.modulo,
        });
        on!(DequantizeLinearF32, op => Self::DequantizeLinear {
            scale: op.scale,
            zero_point: op.zero_point,
        });
        on!(Fft, op => Self::Fft { axis: op.axis, inverse: op.inverse });
        on!(Stft, op => Self::Stft {
            axis: op.axis,
            frame: op.frame,
            stride: op.stride,
            window: op.window.as_ref().map(|window| to.tensor(window)).transpose()?,
        });
        on!(LstmEpilogue, op => Self::LstmEpilogue { hidden: op.hidden });
        on!(GruEpilogue, op => Self::GruEpilogue { hidden: op.hidden });
        on!(GruSeq, op => Self::GruSeq {
            hidden: op.hidden,
            has_bias: op.has_bias,
            chunk: op.chunk,
            emit_y: op.emit_y,
            reset_every_turn: op.reset_every_turn,
            projected: op.projected,
        });
        on!(IfThenElse, op => Self::If {
            then: to.body(&op.then_body)?,
            then_inputs: op.then_input_mapping.clone(),
            otherwise: to.body(&op.else_body)?,
            otherwise_inputs: op.else_input_mapping.clone(),
        });
        on!(Scan, op => Self::Scan {
            body: to.body(&op.body)?,
            skip: op.skip,
            reset_every_turn: op.reset_every_turn,
            external_state: op.external_state,
            inputs: op.input_mapping.iter().map(|input| match input {
                InputMapping::Full => LoopInputRecord::Full,
                InputMapping::State => LoopInputRecord::State,
                InputMapping::Scan(info) => LoopInputRecord::Scan(info.into()),
            }).collect(),
            outputs: op.output_mapping.iter().map(|output| LoopOutputRecord {
                scan: output.scan.as_ref().map(|(slot, info)| (*slot, info.into())),
                full_dim_hint: output.full_dim_hint.as_ref().map(|dim| to.dim(dim)),
                last_value_slot: output.last_value_slot,
                state: output.state,
            }).collect(),
        });
        on!(Lrn, op => Self::Lrn {
            alpha: op.alpha,
            beta: op.beta,
            bias: op.bias,
            size: op.size,
        });
        on!(TreeEnsembleClassifier, op => Self::TreeEnsemble {
            trees: to.tensor(&op.ensemble.data.trees)?,
            nodes: to.tensor(&op.ensemble.data.nodes)?,
            leaves: to.tensor(&op.ensemble.data.leaves)?,
            features: op.ensemble.max_used_feature,
            classes: op.ensemble.n_classes,
            aggregate: op.ensemble.aggregate_fn,
        });
        on!(NonMaxSuppression, op => Self::NonMaxSuppression {
            boxes: op.center_point_box,
            selected: to.symbol(&op.num_selected_indices_symbol),
            has_score_threshold: op.has_score_threshold,
        });
        on!(NonZero, op => Self::NonZero { count: to.symbol(&op.count) });
        on!(Random, op => Self::Random {
            datum: DatumRecord::encode(op.fact.datum_type)?,
            shape: to.dims(op.fact.shape.iter()),
            distribution: match &op.dist {
                Dist::Uniform { low, high } => {
                    DistributionRecord::Uniform { low: to.tensor(low)?, high: to.tensor(high)? }
                }
                Dist::Normal { mean, dev } => {
                    DistributionRecord::Normal { mean: to.tensor(mean)?, dev: to.tensor(dev)? }
                }
            },
            seed: op.seed,
        });
        on!(Multinomial, op => Self::Multinomial {
            datum: DatumRecord::encode(op.dtype)?,
            samples: op.sample_size,
            seed: op.seed,
        });
        on!(MaxPoolIndices, op => Self::MaxPoolIndices {
            spatial: op.spatial.to_vec(),
            column_major: op.column_major,
        });
        on!(ServedDropout, op => Self::ServedDropout {
            ratio_input: op.ratio_input,
            training_input: op.training_input,
            mask: op.mask,
        });
        bail!("the operator {} cannot be stored yet", op.name())
    }

    /// The operator again. What a hostile file could make huge is bounded here; what makes no
    /// sense is refused by tract when the node is wired.
    pub(crate) fn decode(self, from: &mut Reader) -> TractResult<Box<dyn TypedOp>> {
        Ok(match self {
            Self::Source { datum, shape } => {
                let shape = from.symbols.shape(&shape)?;
                Box::new(TypedSource::new(TypedFact::dt_shape(datum.decode(), shape)))
            }
            Self::Const { tensor } => from.constant(tensor)?,
            Self::Plain(plain) => plain.decode(),
            Self::ElementWise { op, out } => Box::new(ElementWiseOp(op.decode()?, decode(out))),
            Self::Binary { op, out } => Box::new(TypedBinOp(op.decode(), decode(out))),
            Self::Cast { to } => Box::new(Cast { to: to.decode() }),
            Self::Axis(record) => Box::new(match record {
                AxisOpRecord::Add(axis) => AxisOp::Add(axis),
                AxisOpRecord::Remove(axis) => AxisOp::Rm(axis),
                AxisOpRecord::Move(from, to) => AxisOp::Move(from, to),
                AxisOpRecord::Reshape(axis, before, after) => {
                    AxisOp::Reshape(axis, from.symbols.dims(&before)?, from.symbols.dims(&after)?)
                }
            }),
            Self::EinSum { axes, operating, quantised } => Box::new(EinSum {
                axes: einsum_axes(axes)?,
                operating_dt: operating.decode(),
                q_params: decode(quantised),
            }),
            Self::Conv { pool, kernel, group, quantised } => {
                ensure!(group > 0, "a convolution of no groups");
                Box::new(Conv {
                    pool_spec: pool.decode()?,
                    kernel_fmt: kernel,
                    group,
                    q_params: decode(quantised),
                })
            }
            Self::Deconv { pool, kernel, adjustments, group } => {
                ensure!(group > 0, "a convolution of no groups");
                let pool_spec = pool.decode()?;
                let adjustments = adjustments.into();
                Box::new(Deconv { pool_spec, kernel_format: kernel, adjustments, group })
            }
            Self::MaxPool { pool, index } => {
                Box::new(MaxPool { pool_spec: pool.decode()?, with_index_outputs: decode(index) })
            }
            Self::SumPool { pool, count_include_pad, normalize } => {
                Box::new(SumPool { pool_spec: pool.decode()?, count_include_pad, normalize })
            }
            Self::Reduce { axes, reducer } => Box::new(Reduce { axes: axes.into(), reducer }),
            Self::Softmax { axes, quantised, kind } => {
                Box::new(Softmax { axes: axes.into(), quant_output_dt: decode(quantised), kind })
            }
            Self::RmsNorm { axis, eps } => Box::new(RmsNorm { axis, eps: from.tensor(eps)? }),
            Self::ScaledRmsNorm { axis, eps, out, scale } => Box::new(ScaledRmsNorm {
                axis,
                eps: from.tensor(eps)?,
                out_dt: decode(out),
                scale_dt: decode(scale),
            }),
            Self::ClampedSwiGlu { alpha, limit } => Box::new(ClampedSwiGlu { alpha, limit }),
            Self::NearestUpsample { scales } => Box::new(NearestUpsample { scales: scales.into() }),
            Self::Resize { coordinates, interpolator, nearest, scales_input, sizes_input } => {
                Box::new(Resize {
                    coord_transformer: coordinates,
                    interpolator,
                    nearest,
                    optional_scales_input: scales_input,
                    optional_sizes_input: sizes_input,
                })
            }
            Self::OnnxResize(record) => Box::new(onnx_resize::Resize {
                axes: record.axes,
                coord_transformer: record.coordinates,
                interpolator: record.interpolator,
                nearest: record.nearest,
                antialias: record.antialias,
                cubic_coeff_a_bits: record.cubic_coeff_a_bits,
                exclude_outside: record.exclude_outside,
                extrapolation_value_bits: record.extrapolation_value_bits,
                keep_aspect_ratio_policy: record.aspect_ratio,
                optional_roi_input: record.roi_input,
                optional_scales_input: record.scales_input,
                optional_sizes_input: record.sizes_input,
            }),
            Self::GridSample { mode, padding, align_corners } => {
                Box::new(GridSample { mode, padding_mode: padding, align_corners })
            }
            Self::Concat { axis } => Box::new(TypedConcat { axis }),
            Self::Slice { axis, start, end } => Box::new(Slice {
                axis,
                start: from.symbols.dim(&start)?,
                end: from.symbols.dim(&end)?,
            }),
            Self::StridedSlice {
                axes_input,
                steps_input,
                begin_mask,
                end_mask,
                shrink_axis_mask,
            } => Box::new(StridedSlice {
                optional_axes_input: axes_input,
                optional_steps_input: steps_input,
                begin_mask,
                end_mask,
                shrink_axis_mask,
            }),
            Self::DynSlice { axis, len } => {
                Box::new(DynSlice { axis, len: from.symbols.dim(&len)? })
            }
            Self::Pad { pads, mode } => {
                let sane = pads.iter().all(|(before, after)| before.max(after) < &(1 << 32));
                ensure!(sane, "padding of {pads:?}");
                let mode = match mode {
                    PadRecord::Constant(value) => PadMode::Constant(from.tensor(value)?),
                    PadRecord::Reflect => PadMode::Reflect,
                    PadRecord::Edge => PadMode::Edge,
                };
                Box::new(Pad { pads, mode })
            }
            Self::Tile { multipliers } => {
                Box::new(Tile { multipliers: from.symbols.dims(&multipliers)? })
            }
            Self::DynTile { placeholders } => {
                Box::new(DynTile { multiplier_placeholders: from.symbols.dims(&placeholders)? })
            }
            Self::BroadcastTo { shape } => {
                Box::new(MultiBroadcastTo { shape: from.symbols.shape(&shape)? })
            }
            Self::FiniteReshape { shape } => Box::new(FiniteReshape { shape: shape.into() }),
            Self::Gather { axis, out } => Box::new(Gather { axis, output_type: decode(out) }),
            Self::GatherElements { axis } => Box::new(GatherElements { axis }),
            Self::GatherNd { batch_dims } => Box::new(GatherNd { batch_dims }),
            Self::ScatterElements { axis, reduction } => {
                Box::new(ScatterElements { axis, reduction })
            }
            Self::ScatterNd { reduction } => Box::new(ScatterNd { reduction }),
            Self::OneHot { axis, dim, off, on } => {
                Box::new(OneHot { axis, dim, off: from.tensor(off)?, on: from.tensor(on)? })
            }
            Self::CumSum { axis, exclusive, reverse } => {
                Box::new(CumSum { axis, exclusive, reverse })
            }
            Self::Range { len } => Box::new(Range::new(from.symbols.dim(&len)?)),
            Self::Topk { axis, largest, fallback_k } => {
                Box::new(Topk { axis, largest, fallback_k: from.symbols.dim(&fallback_k)? })
            }
            Self::Trilu { upper } => Box::new(Trilu { upper }),
            Self::Downsample { axis, stride, modulo } => {
                ensure!(stride != 0, "a downsampling by 0");
                Box::new(Downsample { axis, stride, modulo })
            }
            Self::DequantizeLinear { scale, zero_point } => {
                Box::new(DequantizeLinearF32 { scale, zero_point })
            }
            Self::Fft { axis, inverse } => Box::new(Dft { axis, inverse }),
            Self::Stft { axis, frame, stride, window } => {
                let window = window.map(|window| from.tensor(window)).transpose()?;
                ensure!((1..MAX_WINDOW).contains(&frame) && stride > 0, "a frame of {frame}");
                Box::new(FramedDft { axis, frame, stride, window })
            }
            Self::LstmEpilogue { hidden } => Box::new(LstmEpilogue { hidden }),
            Self::GruEpilogue { hidden } => Box::new(GruEpilogue { hidden }),
            Self::GruSeq { hidden, has_bias, chunk, emit_y, reset_every_turn, projected } => {
                Box::new(GruSeq {
                    hidden,
                    has_bias,
                    chunk,
                    emit_y,
                    reset_every_turn,
                    projected,
                    packed_r: None,
                })
            }
            Self::If { then, then_inputs, otherwise, otherwise_inputs } => Box::new(IfThenElse {
                then_body: from.body(then)?,
                then_input_mapping: then_inputs,
                else_body: from.body(otherwise)?,
                else_input_mapping: otherwise_inputs,
            }),
            Self::Scan { body, skip, reset_every_turn, external_state, inputs, outputs } => {
                let inputs = inputs.into_iter().map(|input| match input {
                    LoopInputRecord::Full => InputMapping::Full,
                    LoopInputRecord::State => InputMapping::State,
                    LoopInputRecord::Scan(info) => InputMapping::Scan(info.into()),
                });
                let outputs = outputs
                    .into_iter()
                    .map(|output| {
                        let dim = |dim| from.symbols.dim(&dim);
                        Ok(OutputMapping {
                            scan: output.scan.map(|(slot, info)| (slot, info.into())),
                            full_dim_hint: output.full_dim_hint.map(dim).transpose()?,
                            last_value_slot: output.last_value_slot,
                            state: output.state,
                        })
                    })
                    .collect::<TractResult<Vec<_>>>()?;
                let scan = Scan::new(from.body(body)?, inputs.collect(), outputs, skip)?;
                Box::new(Scan { reset_every_turn, external_state, decluttered: true, ..scan })
            }
            Self::Lrn { alpha, beta, bias, size } => Box::new(Lrn { alpha, beta, bias, size }),
            Self::TreeEnsemble { trees, nodes, leaves, features, classes, aggregate } => {
                let trees = from.tensor(trees)?;
                let (nodes, leaves) = (from.tensor(nodes)?, from.tensor(leaves)?);
                check_trees(&trees, &nodes, &leaves, features, classes)?;
                let data = TreeEnsembleData { trees, nodes, leaves };
                let ensemble = TreeEnsemble::build(data, features, classes, aggregate)?;
                Box::new(TreeEnsembleClassifier { ensemble })
            }
            Self::NonMaxSuppression { boxes, selected, has_score_threshold } => {
                Box::new(NonMaxSuppression {
                    center_point_box: boxes,
                    num_selected_indices_symbol: from.symbols.symbol(selected)?.clone(),
                    has_score_threshold,
                })
            }
            Self::NonZero { count } => {
                Box::new(NonZero { count: from.symbols.symbol(count)?.clone() })
            }
            Self::Random { datum, shape, distribution, seed } => {
                let shape = from.symbols.shape(&shape)?;
                let dist = match distribution {
                    DistributionRecord::Uniform { low, high } => {
                        Dist::Uniform { low: from.tensor(low)?, high: from.tensor(high)? }
                    }
                    DistributionRecord::Normal { mean, dev } => {
                        Dist::Normal { mean: from.tensor(mean)?, dev: from.tensor(dev)? }
                    }
                };
                Box::new(Random { fact: TypedFact::dt_shape(datum.decode(), shape), dist, seed })
            }
            Self::ServedDropout { ratio_input, training_input, mask } => {
                Box::new(ServedDropout { ratio_input, training_input, mask })
            }
            Self::MaxPoolIndices { spatial, column_major } => {
                Box::new(MaxPoolIndices { spatial: spatial.into(), column_major })
            }
            Self::Multinomial { datum, samples, seed } => {
                Box::new(Multinomial { dtype: datum.decode(), sample_size: samples, seed })
            }
        })
    }
}

fn einsum_axes(records: Vec<AxisRecord>) -> TractResult<AxesMapping> {
    let (inputs, outputs) = match records.first() {
        Some(axis) => (axis.inputs.len(), axis.outputs.len()),
        None => bail!("an Einstein sum without axes"),
    };
    let axes = records
        .into_iter()
        .map(|record| {
            let alike = record.inputs.len() == inputs && record.outputs.len() == outputs;
            ensure!(alike, "axes of an Einstein sum that disagree on its operands");
            Ok(Axis {
                inputs: record.inputs.into_iter().map(Into::into).collect(),
                outputs: record.outputs.into_iter().map(Into::into).collect(),
                repr: record.repr,
            })
        })
        .collect::<TractResult<Vec<_>>>()?;
    AxesMapping::new(inputs, outputs, axes)
}

/// tract walks its trees without looking left or right: every index must be right beforehand.
fn check_trees(
    trees: &Tensor,
    nodes: &Tensor,
    leaves: &Tensor,
    features: usize,
    classes: usize,
) -> TractResult<()> {
    let words = |tensor: &Tensor| -> TractResult<Vec<u32>> {
        Ok(tensor.try_as_plain_ram()?.as_slice::<u32>()?.to_vec())
    };
    let (trees, nodes, leaves) = (words(trees)?, words(nodes)?, words(leaves)?);
    ensure!(nodes.len() % 5 == 0 && leaves.len() % 2 == 0, "trees of a broken layout");
    let (rows, votes) = (nodes.len() / 5, leaves.len() / 2);
    ensure!(trees.iter().all(|root| (*root as usize) < rows), "a tree without root");
    ensure!(
        leaves.chunks(2).all(|vote| (vote[0] as usize) < classes),
        "a leaf that votes for no class"
    );
    for (row, node) in nodes.chunks(5).enumerate() {
        let comparison = node[4] & 0xff;
        if comparison == 0 || comparison > 6 {
            ensure!(node[0] <= node[1] && node[1] as usize <= votes, "a leaf without votes");
        } else {
            // Children come after their parent, so that every walk ends.
            let children = [node[1] as usize, node[2] as usize];
            let sane = children.iter().all(|child| (row + 1..rows).contains(child));
            ensure!(sane && node[0] as usize <= features, "a branch that leads nowhere");
        }
    }
    Ok(())
}
