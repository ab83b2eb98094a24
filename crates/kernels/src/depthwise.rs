//! Depthwise convolution: every channel with a filter of its own.
//!
//! A channel is copied into a padded plane, one plane for each phase of the strides, so that a tap
//! of the filter is a slice of a plane, and rows follow one another without an end: what is computed
//! between them is left out when the rows are copied out. There is no border to be treated apart.

use crate::lanes::{LANES, Tap, add_taps};

/// Results that are computed before they are copied out; they stay in the first cache.
const BLOCK: usize = 32 * LANES;

/// Elements that planes may have beyond four times input and result: padding and wide filters.
const MAX_PADDING: usize = 1 << 20;

/// What happens along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Elements of the input.
    pub input: usize,
    /// Elements of the result.
    pub output: usize,
    /// Elements of the filter.
    pub kernel: usize,
    /// From one result to the next, in elements of the input.
    pub stride: usize,
    /// From one element of the filter to the next, in elements of the input.
    pub dilation: usize,
    /// Zeros before the input.
    pub pad_before: usize,
}

impl Axis {
    /// An axis of one element: height, where there is only width.
    pub const ONE: Axis =
        Axis { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, pad_before: 0 };

    /// Elements of one phase of the padded axis.
    fn phase_len(&self) -> usize {
        self.output + (self.kernel - 1) * self.dilation / self.stride
    }

    /// The phase that a filter's element reads, and its distance from the result there.
    fn tap(&self, element: usize) -> (usize, usize) {
        let distance = element * self.dilation;
        (distance % self.stride, distance / self.stride)
    }

    /// Which elements of a phase are in the input, and where the first of them is.
    fn inside(&self, phase: usize) -> (std::ops::Range<usize>, usize) {
        let first = self.pad_before.saturating_sub(phase).div_ceil(self.stride);
        let end = (self.input + self.pad_before).saturating_sub(phase).div_ceil(self.stride);
        let end = end.min(self.phase_len());
        (first..end.max(first), (first * self.stride + phase).saturating_sub(self.pad_before))
    }
}

/// A convolution of one geometry, over any number of channels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Depthwise {
    height: Axis,
    width: Axis,
    /// Where each tap of the filter starts among the planes.
    starts: Vec<usize>,
    /// Phases that a tap reads.
    phases: Vec<(usize, usize)>,
}

impl Depthwise {
    /// Prepares a geometry; `None` if an axis is empty, or the padded planes would be out of all
    /// proportion to what is convolved.
    pub fn new(height: Axis, width: Axis) -> Option<Depthwise> {
        let plausible = |axis: &Axis| {
            let counts = [axis.input, axis.output, axis.kernel, axis.stride, axis.dilation];
            let reach = axis.kernel.checked_mul(axis.dilation)?;
            let reach = reach.checked_add(axis.output.checked_mul(axis.stride)?)?;
            let fits = reach.checked_add(axis.input)?.checked_add(axis.pad_before)? < 1 << 28;
            (counts.iter().all(|count| *count > 0) && fits).then_some(())
        };
        plausible(&height)?;
        plausible(&width)?;
        let mut this = Depthwise { height, width, starts: Vec::new(), phases: Vec::new() };
        let plane = this.plane_len()?;
        for ky in 0..height.kernel {
            for kx in 0..width.kernel {
                let ((py, y), (px, x)) = (height.tap(ky), width.tap(kx));
                let phase = (py, px);
                let index = this.phases.iter().position(|other| *other == phase);
                let index = index.unwrap_or_else(|| {
                    this.phases.push(phase);
                    this.phases.len() - 1
                });
                this.starts.push(index.checked_mul(plane)? + y * width.phase_len() + x);
            }
        }
        let room = 4 * (this.input_len() + this.output_len()) + MAX_PADDING;
        (this.phases.len().checked_mul(plane)? <= room).then_some(this)
    }

    /// Elements of a filter.
    pub fn taps(&self) -> usize {
        self.starts.len()
    }

    /// Elements of one channel of the input.
    pub fn input_len(&self) -> usize {
        self.height.input * self.width.input
    }

    /// Elements of one channel of the result.
    pub fn output_len(&self) -> usize {
        self.height.output * self.width.output
    }

    fn plane_len(&self) -> Option<usize> {
        self.height.phase_len().checked_mul(self.width.phase_len())
    }

    /// Convolves `input` into `output`, channel after channel, with one filter and one bias each;
    /// both begin anew when there are more channels than filters (the next element of a batch).
    ///
    /// # Panics
    /// If the slices are not of the sizes that the geometry asks for.
    pub fn run(&self, input: &[f32], filters: &[f32], bias: &[f32], output: &mut [f32]) {
        let channels = input.len() / self.input_len();
        assert_eq!(input.len(), channels * self.input_len(), "a part of a channel");
        assert_eq!(output.len(), channels * self.output_len(), "another number of channels");
        assert_eq!(filters.len(), bias.len() * self.taps(), "filters of another size");
        let plane = self.height.phase_len() * self.width.phase_len();
        // Padding stays what it is; the last block of results may read beyond the last plane.
        let mut planes = vec![0f32; self.phases.len() * plane + BLOCK];
        let mut sums = [0f32; BLOCK];
        let mut taps: Vec<Tap> =
            self.starts.iter().map(|start| Tap { start: *start, weight: 0.0 }).collect();
        let channels =
            input.chunks_exact(self.input_len()).zip(output.chunks_exact_mut(self.output_len()));
        let filters = filters.chunks_exact(self.taps()).zip(bias).cycle();
        for ((input, output), (filter, bias)) in channels.zip(filters) {
            for (phase, plane) in self.phases.iter().zip(planes.chunks_exact_mut(plane)) {
                self.fill(*phase, input, plane);
            }
            for (tap, weight) in taps.iter_mut().zip(filter) {
                tap.weight = *weight;
            }
            self.convolve(&planes, &taps, *bias, &mut sums, output);
        }
    }

    /// Copies one phase of a channel to where it belongs in its padded plane.
    fn fill(&self, (py, px): (usize, usize), input: &[f32], plane: &mut [f32]) {
        let (rows, from_y) = self.height.inside(py);
        let (columns, from_x) = self.width.inside(px);
        if columns.is_empty() {
            return;
        }
        let into = plane.chunks_exact_mut(self.width.phase_len()).skip(rows.start).take(rows.len());
        for (row, into) in into.enumerate() {
            let y = from_y + row * self.height.stride;
            let from = &input[y * self.width.input..][from_x..self.width.input];
            every(self.width.stride, from, &mut into[columns.clone()]);
        }
    }

    fn convolve(
        &self,
        planes: &[f32],
        taps: &[Tap],
        bias: f32,
        sums: &mut [f32; BLOCK],
        output: &mut [f32],
    ) {
        let step = self.width.phase_len();
        let width = self.width.output;
        let rows = (BLOCK / step).max(1);
        for (block, output) in output.chunks_mut(rows * width).enumerate() {
            let from = &planes[block * rows * step..];
            if step > BLOCK {
                wide_row(from, taps, bias, sums, output);
                continue;
            }
            let count = output.len() / width * step;
            let sums = &mut sums[..count.next_multiple_of(LANES)];
            add_taps(from, taps, bias, sums);
            for (into, sums) in output.chunks_exact_mut(width).zip(sums.chunks(step)) {
                into.copy_from_slice(&sums[..width]);
            }
        }
    }
}

/// A row that is longer than a block.
fn wide_row(from: &[f32], taps: &[Tap], bias: f32, sums: &mut [f32; BLOCK], output: &mut [f32]) {
    for (block, output) in output.chunks_mut(BLOCK).enumerate() {
        let sums = &mut sums[..output.len().next_multiple_of(LANES)];
        add_taps(&from[block * BLOCK..], taps, bias, sums);
        output.copy_from_slice(&sums[..output.len()]);
    }
}

/// Every so many elements of a row.
fn every(stride: usize, from: &[f32], into: &mut [f32]) {
    match stride {
        1 => into.copy_from_slice(&from[..into.len()]),
        2 => {
            let (pairs, rest) = from.as_chunks::<2>();
            let (last, whole) = (into.len().saturating_sub(pairs.len()), pairs.len());
            let whole = whole.min(into.len());
            for (into, pair) in into[..whole].iter_mut().zip(pairs) {
                *into = pair[0];
            }
            if last > 0 {
                into[whole] = rest[0];
            }
        }
        _ => {
            for (into, from) in into.iter_mut().zip(from.iter().step_by(stride)) {
                *into = *from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn axis() -> impl Strategy<Value = Axis> {
        let numbers = (1usize..80, 1usize..6, 1usize..4, 1usize..4, 0usize..6, 0usize..6);
        numbers.prop_filter_map("fits", |(input, kernel, stride, dilation, before, after)| {
            let reach = (kernel - 1) * dilation + 1;
            let output = (input + before + after).checked_sub(reach)? / stride + 1;
            Some(Axis { input, output, kernel, stride, dilation, pad_before: before })
        })
    }

    /// By the definition, one element after the other.
    fn by_definition(h: Axis, w: Axis, input: &[f32], filter: &[f32], bias: f32) -> Vec<f32> {
        let mut output = Vec::new();
        for y in 0..h.output {
            for x in 0..w.output {
                let mut sum = f64::from(bias);
                for ky in 0..h.kernel {
                    for kx in 0..w.kernel {
                        let y = (y * h.stride + ky * h.dilation).wrapping_sub(h.pad_before);
                        let x = (x * w.stride + kx * w.dilation).wrapping_sub(w.pad_before);
                        if y < h.input && x < w.input {
                            let weight = f64::from(filter[ky * w.kernel + kx]);
                            sum += weight * f64::from(input[y * w.input + x]);
                        }
                    }
                }
                output.push(sum as f32);
            }
        }
        output
    }

    fn check(h: Axis, w: Axis) {
        let conv = Depthwise::new(h, w).unwrap();
        let channels = 2;
        let input: Vec<f32> =
            (0..2 * channels * conv.input_len()).map(|i| (i as f32 * 0.77).sin()).collect();
        let filters: Vec<f32> =
            (0..channels * conv.taps()).map(|i| (i as f32 * 0.31).cos()).collect();
        let bias = [0.5, -0.25];
        let mut output = vec![f32::NAN; 2 * channels * conv.output_len()];
        conv.run(&input, &filters, &bias, &mut output);
        for (plane, output) in output.chunks(conv.output_len()).enumerate() {
            let channel = plane % channels;
            let expected = by_definition(
                h,
                w,
                &input[plane * conv.input_len()..][..conv.input_len()],
                &filters[channel * conv.taps()..][..conv.taps()],
                bias[channel],
            );
            for (a, b) in output.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4, "{a} instead of {b}: {h:?} {w:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_computes_what_its_definition_says(h in axis(), w in axis()) {
            check(h, w);
        }
    }

    #[test]
    fn rows_longer_than_a_block_are_computed_too() {
        let w = Axis { input: 5000, output: 4998, kernel: 3, ..Axis::ONE };
        check(Axis { input: 3, output: 2, kernel: 2, ..Axis::ONE }, w);
        check(
            Axis::ONE,
            Axis { input: 5000, output: 2500, stride: 2, kernel: 3, pad_before: 1, ..w },
        );
    }

    #[test]
    fn sizes_beyond_all_measure_are_refused() {
        assert_eq!(Depthwise::new(Axis { kernel: 0, ..Axis::ONE }, Axis::ONE), None);
        let huge = Axis { input: usize::MAX, ..Axis::ONE };
        assert_eq!(Depthwise::new(Axis::ONE, huge), None);
        let strided = Axis { output: usize::MAX / 2, stride: 3, ..Axis::ONE };
        assert_eq!(Depthwise::new(strided, Axis::ONE), None);
        let sparse = Axis { kernel: 2, dilation: 1 << 20, pad_before: 1 << 20, ..Axis::ONE };
        assert_eq!(Depthwise::new(sparse, sparse), None);
    }
}
