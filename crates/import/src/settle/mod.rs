//! What can be decided after tract's declutter and before the processor is known: the same
//! function in fewer steps, and in the forms that tract's kernels run fastest.

mod affine;
mod constants;
mod hard_swish;
mod softmax;
mod step;

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::einsum::einsum_matmul::merge_consecutive_same_role_axes;

use crate::bodies::each_body;

/// Settles a decluttered graph, with the bodies inside it.
pub(crate) fn settle(model: &mut TypedModel) -> TractResult<()> {
    each_body(model, &mut settle)?;
    hard_swish::recognise(model)?;
    affine::fold_before(model)?;
    affine::fold_after(model)?;
    merge_consecutive_same_role_axes(model)?;
    model.prop_consts()?;
    softmax::over_rows(model)?;
    constants::share(model)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tract_onnx::tract_core::ops::binary::TypedBinOp;
    use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, PaddingSpec, PoolSpec};
    use tract_onnx::tract_core::ops::einsum::EinSum;
    use tract_onnx::tract_core::ops::math::{add, div, max, min, mul, sub};
    use tract_onnx::tract_core::ops::nn::DataFormat;

    use super::*;

    const CHANNELS: usize = 4;
    const SIDE: usize = 5;

    /// What may stand in a row of operators; a constant is one number or one for each channel.
    #[derive(Clone, Debug)]
    enum Stage {
        Add(bool),
        Mul(bool),
        Sub(bool),
        Div(bool),
        ConstantMinus,
        Relu,
        HardSwish,
        Depthwise { padded: bool },
        Pointwise,
    }

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![
            any::<bool>().prop_map(Stage::Add),
            any::<bool>().prop_map(Stage::Mul),
            any::<bool>().prop_map(Stage::Sub),
            any::<bool>().prop_map(Stage::Div),
            Just(Stage::ConstantMinus),
            Just(Stage::Relu),
            Just(Stage::HardSwish),
            any::<bool>().prop_map(|padded| Stage::Depthwise { padded }),
            Just(Stage::Pointwise),
        ]
    }

    /// Numbers that look random and are the same every time, around one.
    fn numbers(shape: &[usize], seed: usize) -> Tensor {
        let count = shape.iter().product::<usize>();
        let value = |at: usize| 0.5 + ((at * 31 + seed * 17) % 23) as f32 / 23.0;
        Tensor::from_shape(shape, &(0..count).map(value).collect::<Vec<_>>()).expect("it fits")
    }

    fn row(stages: &[Stage]) -> TractResult<TypedModel> {
        let mut model = TypedModel::default();
        let shape = [1, CHANNELS, SIDE, SIDE];
        let mut wire = model.add_source("x", f32::fact(shape))?;
        for (at, stage) in stages.iter().enumerate() {
            let name = format!("n{at}");
            let mut constant = |shape: &[usize], which: &str| {
                model.add_const(format!("{name}.{which}"), numbers(shape, at))
            };
            let each = |wide: bool| [1, if wide { CHANNELS } else { 1 }, 1, 1];
            let (op, inputs): (Box<dyn TypedOp>, TVec<OutletId>) = match stage {
                Stage::Add(wide) => (Box::new(add()), tvec!(wire, constant(&each(*wide), "c")?)),
                Stage::Mul(wide) => (Box::new(mul()), tvec!(constant(&each(*wide), "c")?, wire)),
                Stage::Sub(wide) => (Box::new(sub()), tvec!(wire, constant(&each(*wide), "c")?)),
                Stage::Div(wide) => (Box::new(div()), tvec!(wire, constant(&each(*wide), "c")?)),
                Stage::ConstantMinus => {
                    (Box::new(sub()), tvec!(constant(&each(false), "c")?, wire))
                }
                Stage::Relu => {
                    let zero = model.add_const(format!("{name}.c"), tensor4(&[[[[0f32]]]]))?;
                    (Box::new(max()), tvec!(wire, zero))
                }
                Stage::HardSwish => {
                    let mut bound = |op: TypedBinOp, wire, value: f32, part: &str| {
                        let name = format!("{name}.{part}");
                        let by = tensor4(&[[[[value]]]]);
                        let by = model.add_const(format!("{name}.c"), by)?;
                        TractResult::Ok(model.wire_node(name, op, &[wire, by])?[0])
                    };
                    let gate = bound(add(), wire, 3.0, "plus")?;
                    let gate = bound(max(), gate, 0.0, "max")?;
                    let gate = bound(min(), gate, 6.0, "min")?;
                    (Box::new(mul()), tvec!(wire, gate))
                }
                Stage::Depthwise { padded } => {
                    let kernel = constant(&[CHANNELS, 1, 3, 3], "w")?;
                    let bias = constant(&[CHANNELS], "b")?;
                    let pads = tvec!(usize::from(*padded), usize::from(*padded));
                    let pool_spec = PoolSpec {
                        data_format: DataFormat::NCHW,
                        kernel_shape: tvec!(3, 3),
                        padding: PaddingSpec::Explicit(pads.clone(), pads),
                        dilations: None,
                        strides: None,
                        input_channels: CHANNELS,
                        output_channels: CHANNELS,
                    };
                    let fits = model.outlet_fact(wire)?.shape[2].to_usize()? >= 3;
                    let kernel_fmt = KernelFormat::OIHW;
                    let op = Conv { pool_spec, kernel_fmt, group: CHANNELS, q_params: None };
                    if !fits {
                        continue;
                    }
                    (Box::new(op), tvec!(wire, kernel, bias))
                }
                Stage::Pointwise => {
                    let weights = constant(&[CHANNELS, CHANNELS], "w")?;
                    let axes = "NIHW,OI->NOHW".parse()?;
                    let op = EinSum { axes, operating_dt: DatumType::F32, q_params: None };
                    (Box::new(op), tvec!(wire, weights))
                }
            };
            wire = model.wire_node(name, op, &inputs)?[0];
        }
        model.select_output_outlets(&[wire])?;
        Ok(model)
    }

    fn run(model: TypedModel) -> TractResult<Tensor> {
        let mut input = numbers(&[1, CHANNELS, SIDE, SIDE], 99);
        input.to_plain_array_view_mut::<f32>()?.iter_mut().for_each(|x| *x = (*x - 1.0) * 8.0);
        let mut outputs = model.into_runnable()?.run(tvec!(input.into_tvalue()))?;
        Ok(outputs.remove(0).into_tensor())
    }

    /// Operators that compute something at a request.
    fn steps(model: &TypedModel) -> usize {
        let inputs = model.nodes.iter().map(|node| node.inputs.len());
        inputs.filter(|inputs| *inputs > 0).count()
    }

    fn settled(stages: &[Stage]) -> TypedModel {
        let mut model = row(stages).expect("the row stands");
        settle(&mut model).expect("the row settles");
        model
    }

    proptest! {
        #[test]
        fn a_settled_graph_computes_the_same(stages in prop::collection::vec(stage(), 1..9)) {
            let model = row(&stages).expect("the row stands");
            let before = run(model.clone()).expect("the row runs");
            let model = settled(&stages);
            let after = run(model).expect("the settled row runs");
            let largest = before.to_plain_array_view::<f32>().expect("numbers");
            let largest = largest.iter().fold(1f32, |all, value| all.max(value.abs()));
            let close = Approximation::Custom(largest * 1e-4, 1e-4, 0.0);
            prop_assert!(before.close_enough(&after, close).is_ok(), "{before:?} {after:?}");
        }
    }

    #[test]
    fn scales_next_to_weights_take_no_step() {
        use Stage::{Add, Depthwise, Mul, Pointwise};
        let around = [Mul(false), Add(false), Pointwise, Mul(true), Add(true)];
        assert_eq!(steps(&settled(&around)), 2 + 2, "a product and a sum, and two reshapes");
        let after = [Depthwise { padded: true }, Mul(true), Add(false), Mul(false)];
        assert_eq!(steps(&settled(&after)), 1);
        let before = [Mul(false), Add(false), Depthwise { padded: false }];
        assert_eq!(steps(&settled(&before)), 1);
    }

    #[test]
    fn a_summand_stays_before_a_convolution_that_pads() {
        use Stage::{Add, Depthwise};
        assert_eq!(steps(&settled(&[Add(false), Depthwise { padded: true }])), 2);
    }

    #[test]
    fn hard_swish_is_one_operator_and_a_factor() {
        let names: Vec<_> = settled(&[Stage::HardSwish, Stage::Mul(false)])
            .nodes
            .iter()
            .filter(|node| !node.inputs.is_empty())
            .map(|node| node.op.name().to_string())
            .collect();
        assert_eq!(names, ["HardSwish", "Mul"]);
    }
}
