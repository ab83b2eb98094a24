//! Does the packaged model answer as the original does? Both run the same samples; where they
//! differ by more than the tolerance, packaging refuses.

use std::fmt;

use slsml_model::{
    Data, Fidelity, Model, OutputFidelity, Plan, SampleSource, Signature, Tensor, Tolerance,
};

use crate::samples;

/// Where the packaged model differs too much.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The output's name.
    pub output: String,
    /// The element's position.
    pub element: Vec<usize>,
    /// The sample's number, from 1.
    pub sample: usize,
    /// What the original gives there.
    pub original: String,
    /// What the packaged model gives there.
    pub packaged: String,
    /// How far apart they are.
    pub difference: f64,
    /// How far apart they may be.
    pub tolerance: Tolerance,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { output, element, sample, original, packaged, difference, tolerance } =
            self;
        write!(
            f,
            "output `{output}`, element {element:?} of sample {sample}: the original gives \
             {original}, the packaged model {packaged}; they differ by {difference:.3e}, the \
             tolerance is {:e}",
            tolerance.0
        )
    }
}

/// Why samples could not be compared, or what they showed.
#[derive(Debug)]
pub(crate) enum Verdict {
    Alike(Fidelity),
    Different(Box<Difference>),
    /// The original runs a sample and the packaged model does not.
    Fails {
        sample: usize,
        cause: String,
    },
    /// The original cannot run the user's own sample.
    Unfit {
        sample: usize,
        cause: String,
    },
    /// They give tensors of other types or shapes.
    OtherForm {
        output: String,
    },
}

/// The user's samples, or `None` to make some up.
pub(crate) fn compare(
    original: &Plan,
    packaged: &Model,
    given: Option<&[Vec<Tensor>]>,
    tolerance: Tolerance,
) -> Verdict {
    let signature = packaged.signature();
    let source = if given.is_some() { SampleSource::File } else { SampleSource::Generated };
    let samples = given.map_or_else(|| samples::generate(signature), <[_]>::to_vec);
    let mut sums = vec![Sum::default(); signature.outputs.len()];
    let mut compared = 0;
    for (sample, inputs) in (1..).zip(samples) {
        let expected = match original.run(inputs.clone()) {
            Ok(expected) => expected,
            // Values that are made up may be none the model takes: an index beyond a vocabulary.
            Err(_) if source == SampleSource::Generated => continue,
            Err(error) => return Verdict::Unfit { sample, cause: error.to_string() },
        };
        let given = match packaged.run(inputs.clone()) {
            Ok(given) => given,
            Err(error) => return Verdict::Fails { sample, cause: error.to_string() },
        };
        for (at, (expected, given)) in expected.iter().zip(&given).enumerate() {
            let name = &signature.outputs[at].name;
            if expected.shape() != given.shape() || expected.datatype() != given.datatype() {
                return Verdict::OtherForm { output: name.clone() };
            }
            if let Some(worst) = sums[at].add(expected, given)
                && worst.difference > tolerance.0
            {
                if is_random(original, inputs, at, tolerance) {
                    return Verdict::Alike(Fidelity {
                        samples: 0,
                        source,
                        tolerance,
                        outputs: vec![],
                    });
                }
                return Verdict::Different(Box::new(Difference {
                    output: name.clone(),
                    element: position(worst.index, expected.shape()),
                    sample,
                    original: text(expected.data(), worst.index),
                    packaged: text(given.data(), worst.index),
                    difference: worst.difference,
                    tolerance,
                }));
            }
        }
        compared += 1;
    }
    Verdict::Alike(Fidelity {
        samples: compared,
        source,
        tolerance,
        outputs: outputs(signature, &sums),
    })
}

/// Whether the original differs from itself as much: then there is nothing to compare with.
fn is_random(original: &Plan, inputs: Vec<Tensor>, output: usize, tolerance: Tolerance) -> bool {
    let (Ok(once), Ok(again)) = (original.run(inputs.clone()), original.run(inputs)) else {
        return false;
    };
    let worst = Sum::default().add(&once[output], &again[output]);
    worst.is_some_and(|worst| worst.difference > tolerance.0)
}

fn outputs(signature: &Signature, sums: &[Sum]) -> Vec<OutputFidelity> {
    let each = signature.outputs.iter().zip(sums);
    each.map(|(spec, sum)| OutputFidelity {
        name: spec.name.clone(),
        elements: sum.elements,
        largest: sum.largest,
        mean: if sum.elements == 0 { 0.0 } else { sum.total / sum.elements as f64 },
    })
    .collect()
}

/// Differences of one output, added up.
#[derive(Clone, Debug, Default)]
struct Sum {
    elements: u64,
    largest: f64,
    total: f64,
}

struct Worst {
    index: usize,
    difference: f64,
}

impl Sum {
    /// Adds two tensors of one form; the element that differs most.
    fn add(&mut self, expected: &Tensor, given: &Tensor) -> Option<Worst> {
        let mut worst: Option<Worst> = None;
        for (index, difference) in differences(expected.data(), given.data()).enumerate() {
            self.elements += 1;
            self.total += difference;
            if worst.as_ref().is_none_or(|worst| difference > worst.difference) {
                worst = Some(Worst { index, difference });
            }
        }
        if let Some(worst) = &worst {
            self.largest = self.largest.max(worst.difference);
        }
        worst
    }
}

/// The difference of each element. Values that are not numbers differ from all but themselves.
fn differences<'a>(expected: &'a Data, given: &'a Data) -> Box<dyn Iterator<Item = f64> + 'a> {
    match (numbers(expected), numbers(given)) {
        (Some(a), Some(b)) => Box::new(a.zip(b).map(|(a, b)| apart(a, b))),
        _ => {
            let same = expected == given;
            Box::new(std::iter::repeat_n(if same { 0.0 } else { f64::INFINITY }, expected.len()))
        }
    }
}

fn apart(a: f64, b: f64) -> f64 {
    if a == b || a.is_nan() && b.is_nan() {
        return 0.0;
    }
    let apart = (a - b).abs() / a.abs().max(b.abs()).max(1.0);
    // Infinity against a number, or NaN against anything.
    if apart.is_nan() { f64::INFINITY } else { apart }
}

fn numbers(data: &Data) -> Option<Box<dyn Iterator<Item = f64> + '_>> {
    Some(match data {
        Data::Bool(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Uint8(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Uint16(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Uint32(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Uint64(all) => Box::new(all.iter().map(|value| *value as f64)),
        Data::Int8(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Int16(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Int32(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Int64(all) => Box::new(all.iter().map(|value| *value as f64)),
        Data::Fp16(all) => Box::new(all.iter().map(|value| value.to_f64())),
        Data::Fp32(all) => Box::new(all.iter().map(|value| f64::from(*value))),
        Data::Fp64(all) => Box::new(all.iter().copied()),
        Data::Bytes(_) => return None,
    })
}

fn text(data: &Data, index: usize) -> String {
    match data {
        Data::Bytes(all) => format!("{:?}", all.get(index)),
        _ => numbers(data)
            .and_then(|mut numbers| numbers.nth(index))
            .map_or_else(|| "nothing".into(), |number| number.to_string()),
    }
}

fn position(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (slot, length) in at.iter_mut().zip(shape).rev() {
        *slot = index % length.max(&1);
        index /= length.max(&1);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_above_one_and_absolute_below() {
        assert_eq!(apart(1000.0, 1001.0), 1.0 / 1001.0);
        assert_eq!(apart(0.001, 0.002), 0.001);
        assert_eq!(apart(f64::NAN, f64::NAN), 0.0);
        assert_eq!(apart(f64::INFINITY, f64::INFINITY), 0.0);
        assert_eq!(apart(f64::NAN, 1.0), f64::INFINITY);
        assert_eq!(apart(f64::INFINITY, 1.0), f64::INFINITY);
    }

    #[test]
    fn the_element_that_differs_most_is_found() {
        let a = Tensor::new(vec![2, 2], Data::Fp32(vec![0.0, 1.0, 2.0, 3.0])).unwrap();
        let b = Tensor::new(vec![2, 2], Data::Fp32(vec![0.0, 1.5, 2.0, 3.1])).unwrap();
        let mut sum = Sum::default();
        let worst = sum.add(&a, &b).unwrap();
        assert_eq!(position(worst.index, a.shape()), [0, 1]);
        assert_eq!((sum.elements, sum.largest), (4, 0.5 / 1.5));
    }
}
