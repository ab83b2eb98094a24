//! Which answers are counted, and how: what a model predicts is as much a part of its behaviour as
//! whether it fails. Answers fall into at most [`BINS`] classes or ranges.

use serde::{Deserialize, Serialize};

use crate::{Data, Datatype, Dim, Signature, Tensor};

/// The most classes or ranges there are.
pub const BINS: usize = 16;

/// An output whose values are counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CountedOutput {
    /// Its name.
    pub output: String,
    /// How.
    pub by: CountedBy,
}

/// What of an output is counted, for each item of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// Which of its numbers is the largest. Beyond 16 classes, neighbours are counted together.
    LargestOf {
        /// How many numbers an item has.
        classes: usize,
    },
    /// The whole number it is; 15 and more are one class, as are those below 0 with 15.
    Label,
    /// Which of 14 equal ranges between two numbers it falls into; 0 is below, 15 above.
    Score {
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
    },
}

impl CountedOutput {
    /// What to count, judging by a signature: labels, or probabilities of classes, or a score; none
    /// where an answer is neither.
    pub fn of(signature: &Signature) -> Option<CountedOutput> {
        let outputs = || signature.outputs.iter();
        let whole = |kind| matches!(kind, Datatype::Int64 | Datatype::Int32);
        let float = |kind| matches!(kind, Datatype::Fp32 | Datatype::Fp64 | Datatype::Fp16);
        let label = outputs().find(|spec| whole(spec.datatype) && one_an_item(&spec.shape));
        if let Some(spec) = label {
            return Some(CountedOutput { output: spec.name.clone(), by: CountedBy::Label });
        }
        let classes = outputs().find_map(|spec| match spec.shape.as_slice() {
            [_, Dim::Fixed(classes @ 2..=10_000)] if float(spec.datatype) => {
                Some((spec, CountedBy::LargestOf { classes: *classes }))
            }
            _ => None,
        });
        let score = || {
            let spec = outputs().find(|spec| float(spec.datatype) && one_an_item(&spec.shape))?;
            Some((spec, CountedBy::Score { low: 0.0, high: 1.0 }))
        };
        let (spec, by) = classes.or_else(score)?;
        Some(CountedOutput { output: spec.name.clone(), by })
    }

    /// The class or range of each item in a tensor of this output.
    pub fn bins(&self, tensor: &Tensor) -> Vec<u8> {
        match (self.by, tensor.data()) {
            (CountedBy::Label, Data::Int64(labels)) => labels.iter().map(|n| label(*n)).collect(),
            (CountedBy::Label, Data::Int32(labels)) => {
                labels.iter().map(|n| label((*n).into())).collect()
            }
            (by, data) => by.of_numbers(&numbers(data)),
        }
    }
}

impl CountedBy {
    fn of_numbers(self, numbers: &[f64]) -> Vec<u8> {
        match self {
            CountedBy::Label => Vec::new(),
            CountedBy::LargestOf { classes } => {
                let items = numbers.chunks_exact(classes.max(1));
                items.map(|item| class(largest(item), classes)).collect()
            }
            CountedBy::Score { low, high } => {
                numbers.iter().map(|number| range(*number, low, high)).collect()
            }
        }
    }
}

/// Whether a shape has one number for each item of a batch.
fn one_an_item(shape: &[Dim]) -> bool {
    match shape {
        [_] | [_, Dim::Fixed(1)] => true,
        _ => shape.is_empty(),
    }
}

fn numbers(data: &Data) -> Vec<f64> {
    match data {
        Data::Fp32(numbers) => numbers.iter().map(|number| f64::from(*number)).collect(),
        Data::Fp64(numbers) => numbers.clone(),
        Data::Fp16(numbers) => numbers.iter().map(|number| number.to_f64()).collect(),
        _ => Vec::new(),
    }
}

fn label(label: i64) -> u8 {
    match label {
        0..=14 => label.unsigned_abs() as u8,
        _ => 15,
    }
}

/// The first of the largest numbers; what is no number is smaller than any.
fn largest(item: &[f64]) -> usize {
    let mut best = 0;
    for (at, number) in item.iter().enumerate() {
        if *number > item[best] || item[best].is_nan() && !number.is_nan() {
            best = at;
        }
    }
    best
}

fn class(class: usize, classes: usize) -> u8 {
    match classes {
        0..=BINS => class as u8,
        _ => (class * BINS / classes).min(BINS - 1) as u8,
    }
}

fn range(number: f64, low: f64, high: f64) -> u8 {
    if number < low {
        return 0;
    }
    if number.is_nan() || number > high {
        return 15;
    }
    1 + ((number - low) / (high - low) * 14.0).min(13.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorSpec;

    fn output(name: &str, datatype: Datatype, shape: &[usize]) -> TensorSpec {
        let shape = shape.iter().map(|length| Dim::Fixed(*length)).collect();
        TensorSpec { name: name.into(), datatype, shape }
    }

    #[test]
    fn a_signature_says_what_is_counted() {
        let of = |outputs: Vec<TensorSpec>| {
            CountedOutput::of(&Signature { inputs: vec![], outputs })
                .map(|counted| (counted.output, counted.by))
        };
        let probabilities = || output("p", Datatype::Fp32, &[1, 10]);
        let label = || output("label", Datatype::Int64, &[1]);
        assert_eq!(of(vec![probabilities(), label()]), Some(("label".into(), CountedBy::Label)));
        let largest = CountedBy::LargestOf { classes: 10 };
        assert_eq!(of(vec![probabilities()]), Some(("p".into(), largest)));
        let score = CountedBy::Score { low: 0.0, high: 1.0 };
        assert_eq!(of(vec![output("s", Datatype::Fp32, &[1, 1])]), Some(("s".into(), score)));
        assert_eq!(of(vec![output("image", Datatype::Fp32, &[1, 3, 8, 8])]), None);
    }

    #[test]
    fn every_answer_has_its_class_or_range() {
        let bins = |by, data| {
            let n = match &data {
                Data::Int64(all) => all.len(),
                Data::Fp32(all) => all.len(),
                _ => 0,
            };
            let counted = CountedOutput { output: "y".into(), by };
            counted.bins(&Tensor::new(vec![n], data).unwrap())
        };
        assert_eq!(
            bins(CountedBy::Label, Data::Int64(vec![0, 14, 15, 99, -1])),
            [0, 14, 15, 15, 15]
        );
        let three = CountedBy::LargestOf { classes: 3 };
        let nan = f32::NAN;
        assert_eq!(
            bins(three, Data::Fp32(vec![0.1, 0.7, 0.2, 5.0, 5.0, 1.0, nan, nan, 0.0])),
            [1, 0, 2]
        );
        let many = CountedBy::LargestOf { classes: 100 };
        let mut item = vec![0.0; 100];
        item[99] = 1.0;
        assert_eq!(bins(many, Data::Fp32(item)), [15]);
        let score = CountedBy::Score { low: 0.0, high: 1.0 };
        assert_eq!(
            bins(score, Data::Fp32(vec![-0.1, 0.0, 0.5, 1.0, 1.1, nan])),
            [0, 1, 8, 14, 15, 15]
        );
    }
}
