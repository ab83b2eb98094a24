//! The discrete Fourier transform, and its short-time form.
//!
//! tract computes both with a library that is a tenth of the served binary. Few models use them
//! and their frames are short: a radix-2 transform (Cooley and Tukey, 1965) for lengths that are
//! powers of two and the plain sum for others do.

use std::f64::consts::TAU;

use tract_core::internal::*;
use tract_core::ops::fft::{Fft, Stft};

/// A transform along one axis of `[…, re/im]` tensors; tract's [`Fft`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dft {
    pub(crate) axis: usize,
    pub(crate) inverse: bool,
}

/// Transforms of overlapping frames along one axis; tract's [`Stft`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FramedDft {
    pub(crate) axis: usize,
    pub(crate) frame: usize,
    pub(crate) stride: usize,
    pub(crate) window: Option<Arc<Tensor>>,
}

/// A complex number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Complex {
    re: f64,
    im: f64,
}

impl Complex {
    fn times(self, other: Complex) -> Complex {
        Complex {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }

    fn plus(self, other: Complex) -> Complex {
        Complex { re: self.re + other.re, im: self.im + other.im }
    }

    fn minus(self, other: Complex) -> Complex {
        Complex { re: self.re - other.re, im: self.im - other.im }
    }
}

/// Roots of unity for transforms of one length.
struct Transform {
    roots: Vec<Complex>,
}

impl Transform {
    fn new(length: usize, inverse: bool) -> Transform {
        let sign = if inverse { 1.0 } else { -1.0 };
        let root = |k: usize| {
            let angle = sign * TAU * k as f64 / length as f64;
            Complex { re: angle.cos(), im: angle.sin() }
        };
        Transform { roots: (0..length).map(root).collect() }
    }

    /// In place, without scaling.
    fn run(&self, values: &mut [Complex]) {
        if values.len().is_power_of_two() { self.radix_2(values) } else { self.sums(values) }
    }

    fn radix_2(&self, values: &mut [Complex]) {
        let length = values.len();
        let bits = length.trailing_zeros();
        for index in 0..length {
            let mirrored = if bits == 0 { 0 } else { index.reverse_bits() >> (usize::BITS - bits) };
            if index < mirrored {
                values.swap(index, mirrored);
            }
        }
        let mut half = 1;
        while half < length {
            let step = length / (2 * half);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for (k, (low, high)) in low.iter_mut().zip(high).enumerate() {
                    let turned = high.times(self.roots[k * step]);
                    (*low, *high) = (low.plus(turned), low.minus(turned));
                }
            }
            half *= 2;
        }
    }

    fn sums(&self, values: &mut [Complex]) {
        let length = values.len();
        let given = values.to_vec();
        for (k, value) in values.iter_mut().enumerate() {
            let mut at = 0;
            *value = Complex::default();
            for given in &given {
                *value = value.plus(given.times(self.roots[at]));
                at = (at + k) % length;
            }
        }
    }
}

/// A tensor of any float type as 64-bit floats, and its type.
fn widened(input: &Tensor) -> TractResult<(Vec<f64>, DatumType)> {
    let datum = input.datum_type();
    ensure!(datum.is_float(), "no Fourier transform of {datum:?}");
    let wide = input.cast_to::<f64>()?;
    Ok((wide.try_as_plain_ram()?.as_slice::<f64>()?.to_vec(), datum))
}

fn narrowed(values: &[f64], shape: &[usize], datum: DatumType) -> TractResult<TVec<TValue>> {
    let wide = Tensor::from_shape(shape, values)?;
    Ok(tvec!(wide.cast_to_dt(datum)?.into_owned().into_tvalue()))
}

impl Op for Dft {
    fn name(&self) -> StaticName {
        "Dft".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Dft {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let (mut values, datum) = widened(&input)?;
        let shape = input.shape();
        let length = shape[self.axis];
        let transform = Transform::new(length, self.inverse);
        // Complex numbers lie together; those of one transform are `stride` of them apart.
        let stride: usize = shape[self.axis + 1..shape.len() - 1].iter().product();
        let outer: usize = shape[..self.axis].iter().product();
        let mut line = vec![Complex::default(); length];
        for start in (0..outer).flat_map(|o| (0..stride).map(move |i| o * length * stride + i)) {
            for (k, slot) in line.iter_mut().enumerate() {
                let at = 2 * (start + k * stride);
                *slot = Complex { re: values[at], im: values[at + 1] };
            }
            transform.run(&mut line);
            for (k, value) in line.iter().enumerate() {
                let at = 2 * (start + k * stride);
                (values[at], values[at + 1]) = (value.re, value.im);
            }
        }
        narrowed(&values, shape, datum)
    }
}

impl TypedOp for Dft {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(self.axis + 1 < inputs[0].rank(), "no axis {} to transform", self.axis);
        Fft { axis: self.axis, inverse: self.inverse }.output_facts(inputs)
    }

    as_op!();
}

impl Op for FramedDft {
    fn name(&self) -> StaticName {
        "FramedDft".into()
    }

    op_as_typed_op!();
}

impl EvalOp for FramedDft {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let (values, datum) = widened(&input)?;
        let shape = input.shape();
        let window = self.window.as_ref().map(|window| widened(window)).transpose()?;
        let (length, frame) = (shape[self.axis], self.frame);
        let frames = length.checked_sub(frame).context("fewer samples than a frame has")?;
        let frames = frames / self.stride + 1;
        let transform = Transform::new(frame, false);
        let inner: usize = shape[self.axis + 1..shape.len() - 1].iter().product();
        let outer: usize = shape[..self.axis].iter().product();
        let mut output = vec![0.0; 2 * outer * frames * frame * inner];
        let mut line = vec![Complex::default(); frame];
        for (o, f, i) in tract_ndarray::indices((outer, frames, inner)) {
            for (k, slot) in line.iter_mut().enumerate() {
                let at = 2 * ((o * length + f * self.stride + k) * inner + i);
                *slot = Complex { re: values[at], im: values[at + 1] };
            }
            if let Some((window, _)) = &window {
                weigh(&mut line, window)?;
            }
            transform.run(&mut line);
            for (k, value) in line.iter().enumerate() {
                let at = 2 * (((o * frames + f) * frame + k) * inner + i);
                (output[at], output[at + 1]) = (value.re, value.im);
            }
        }
        let mut output_shape: TVec<usize> = shape.into();
        output_shape[self.axis] = frames;
        output_shape.insert(self.axis + 1, frame);
        narrowed(&output, &output_shape, datum)
    }
}

/// A window shorter than the frame stands in its middle, among zeros.
fn weigh(line: &mut [Complex], window: &[f64]) -> TractResult<()> {
    let spare = line.len().checked_sub(window.len()).context("a window longer than its frame")?;
    let before = spare / 2;
    for (k, value) in line.iter_mut().enumerate() {
        let weight = k.checked_sub(before).and_then(|k| window.get(k)).copied().unwrap_or(0.0);
        *value = Complex { re: value.re * weight, im: value.im * weight };
    }
    Ok(())
}

impl TypedOp for FramedDft {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(self.axis + 1 < inputs[0].rank(), "no axis {} to transform", self.axis);
        let FramedDft { axis, frame, stride, window } = self.clone();
        Stft { axis, frame, stride, window }.output_facts(inputs)
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against tract's own, which the served binary leaves out.
    #[test]
    fn it_gives_what_tract_gives() {
        for (shape, axis) in [([2, 8, 2], 1), ([8, 3, 2], 0), ([2, 6, 2], 1), ([5, 7, 2], 1)] {
            let values: Vec<f32> =
                (0..shape.iter().product::<usize>()).map(|v| (v * v % 17) as f32 - 8.0).collect();
            let input = Tensor::from_shape(&shape, &values).unwrap();
            let context = EvalContext::out_of_plan();
            for inverse in [false, true] {
                let run = |op: &dyn TypedOp| {
                    op.eval(&context, tvec!(input.clone().into_tvalue())).unwrap().remove(0)
                };
                let (ours, theirs) = (run(&Dft { axis, inverse }), run(&Fft { axis, inverse }));
                ours.close_enough(&theirs, Approximation::Approximate).unwrap();
            }
        }
    }

    #[test]
    fn frames_are_what_tract_gives() {
        let values: Vec<f32> = (0..2 * 40).map(|v| (v * v % 23) as f32 - 11.0).collect();
        let input = Tensor::from_shape(&[1, 40, 2], &values).unwrap();
        let context = EvalContext::out_of_plan();
        for window in [None, Some(tensor1(&[0.5f32, 1.0, 1.0, 0.25, 2.0]).into_arc_tensor())] {
            let (axis, frame, stride) = (1, 8, 3);
            let ours = FramedDft { axis, frame, stride, window: window.clone() };
            let theirs = Stft { axis, frame, stride, window };
            let run = |op: &dyn TypedOp| {
                op.eval(&context, tvec!(input.clone().into_tvalue())).unwrap().remove(0)
            };
            let facts = |op: &dyn TypedOp| {
                let fact = f32::fact([1, 40, 2]);
                op.output_facts(&[&fact]).unwrap()
            };
            run(&ours).close_enough(&run(&theirs), Approximation::Approximate).unwrap();
            assert_eq!(facts(&ours), facts(&theirs));
        }
    }
}
