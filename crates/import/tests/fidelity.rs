//! A packaged model answers as its original does, or it is not packaged.

use std::path::{Path, PathBuf};

use slsml_import::{ImportError, Options, import};
use slsml_model::{Data, Precision, SampleSource, Signature, Tensor, Tolerance};

/// Tests run in their package's folder; a path compiled in may be that of another checkout.
fn model(file: &str) -> PathBuf {
    Path::new("../..").join(file)
}

fn digits() -> PathBuf {
    model("examples/digits/models/v2.onnx")
}

#[test]
fn made_up_samples_are_run_by_both() {
    let fidelity = import(&digits(), &Options::default()).unwrap().fidelity;
    // Two kinds of floats, each for a batch of one and of three.
    assert_eq!((fidelity.samples, fidelity.source), (4, SampleSource::Generated));
    assert_eq!(fidelity.outputs[0].name, "probabilities");
    assert_eq!(fidelity.outputs[0].elements, 2 * 10 + 2 * 30);
    assert!(fidelity.outputs.iter().all(|output| output.largest < 1e-6), "{fidelity:?}");
}

#[test]
fn half_precision_halves_the_weights_and_says_what_it_costs() {
    let full = import(&digits(), &Options::default()).unwrap();
    let options = Options { precision: Precision::F16, ..Options::default() };
    let half = import(&digits(), &options).unwrap();
    assert_eq!(half.full_weights, full.stored_weights);
    assert!(half.stored_weights * 10 < full.stored_weights * 6, "{}", half.stored_weights);
    let largest = half.fidelity.outputs[0].largest;
    assert!(largest > 0.0 && largest < 2e-2, "{largest}");
    assert!(half.fidelity.outputs[0].mean <= largest);
}

#[test]
fn a_difference_above_the_tolerance_is_refused_by_name() {
    let tolerance = Some(Tolerance(1e-9));
    let options = Options { precision: Precision::F16, tolerance, ..Options::default() };
    let error = import(&digits(), &options).unwrap_err();
    let ImportError::Different { difference, .. } = &error else { panic!("{error}") };
    assert_eq!(difference.output, "probabilities");
    assert_eq!(difference.element.len(), 2);
    let message = error.to_string();
    assert!(message.contains("output `probabilities`, element ["), "{message}");
    assert!(message.contains("the tolerance is 1e-9"), "{message}");
}

#[test]
fn the_users_samples_are_the_ones_that_count() {
    let read = |signature: &Signature| {
        assert_eq!(signature.inputs[0].name, "image");
        Ok(vec![vec![Tensor::new(vec![1, 64], Data::Fp32(vec![0.5; 64])).unwrap()]])
    };
    let options = Options { samples: Some(&read), ..Options::default() };
    let fidelity = import(&digits(), &options).unwrap().fidelity;
    assert_eq!((fidelity.samples, fidelity.source), (1, SampleSource::File));
    let unfit = |_: &Signature| Err("sample 1: input `image` is missing".to_owned());
    let options = Options { samples: Some(&unfit), ..Options::default() };
    assert!(matches!(import(&digits(), &options).unwrap_err(), ImportError::Samples { .. }));
    let wrong =
        |_: &Signature| Ok(vec![vec![Tensor::new(vec![1, 3], Data::Fp32(vec![0.5; 3])).unwrap()]]);
    let options = Options { samples: Some(&wrong), ..Options::default() };
    let error = import(&digits(), &options).unwrap_err();
    assert!(matches!(error, ImportError::Unfit { sample: 1, .. }), "{error}");
}
