//! The example's models through import, package and run, against ONNX Runtime's answers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use slsml_import::{ImportError, Options, Shapes, import};
use slsml_model::{Data, Dim, Model, Tensor};

/// Not compiled in: checkouts may share compiled tests.
fn checkout() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..")
}

fn example(file: &str) -> PathBuf {
    checkout().join("examples/digits").join(file)
}

fn requests() -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(example("requests.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn image(request: &serde_json::Value) -> Tensor {
    let data = request["request"]["inputs"][0]["data"].as_array().unwrap();
    let data = data.iter().map(|pixel| pixel.as_f64().unwrap() as f32).collect();
    Tensor::new(vec![1, 64], Data::Fp32(data)).unwrap()
}

#[test]
fn every_version_answers_as_onnx_runtime_does() {
    for version in ["v1", "v2", "v3"] {
        let model =
            import(&example(&format!("models/{version}.onnx")), &Options::default()).unwrap().model;
        for request in requests() {
            let expected = &request["expected"][version];
            let answer = model.run(vec![image(&request)]);
            if expected.is_null() {
                assert!(answer.is_err(), "{version} should fail on {}", request["request"]["id"]);
                continue;
            }
            let answer = answer.unwrap();
            assert_eq!(answer[1].data(), &Data::Int64(vec![expected["class"].as_i64().unwrap()]));
            let Data::Fp32(probabilities) = answer[0].data() else { panic!("{:?}", answer[0]) };
            for (got, expected) in
                probabilities.iter().zip(expected["probabilities"].as_array().unwrap())
            {
                assert!((f64::from(*got) - expected.as_f64().unwrap()).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn a_model_that_failed_on_one_request_answers_the_next() {
    let model = import(&example("models/v3.onnx"), &Options::default()).unwrap().model;
    let (failing, working): (Vec<_>, Vec<_>) =
        requests().into_iter().partition(|request| request["expected"]["v3"].is_null());
    assert!(model.run(vec![image(&failing[0])]).is_err());
    assert!(model.run(vec![image(&working[0])]).is_ok());
}

#[test]
fn the_signature_keeps_names_and_named_dimensions() {
    let model = import(&example("models/v1.onnx"), &Options::default()).unwrap().model;
    let signature = model.signature();
    assert_eq!(signature.inputs[0].to_string(), "image FP32[batch,64]");
    assert_eq!(signature.outputs[0].to_string(), "probabilities FP32[batch,10]");
    assert_eq!(signature.outputs[1].to_string(), "class INT64[batch]");
    let fixed = Shapes { dims: vec!["batch=4".parse().unwrap()], ..Shapes::default() };
    let model = import(&example("models/v1.onnx"), &with(fixed)).unwrap().model;
    assert_eq!(model.signature().inputs[0].shape, [Dim::Fixed(4), Dim::Fixed(64)]);
    let fixed = Shapes { shapes: vec!["image=2x64".parse().unwrap()], ..Shapes::default() };
    let model = import(&example("models/v1.onnx"), &with(fixed)).unwrap().model;
    assert_eq!(model.signature().outputs[1].shape, [Dim::Fixed(2)]);
}

#[test]
fn a_dynamic_batch_runs_whole_batches() {
    let model = import(&example("models/v2.onnx"), &Options::default()).unwrap().model;
    let all = requests();
    let mut pixels = Vec::new();
    for request in &all {
        let Data::Fp32(one) = image(request).data().clone() else { unreachable!() };
        pixels.extend(one);
    }
    let batch = Tensor::new(vec![all.len(), 64], Data::Fp32(pixels)).unwrap();
    let classes = model.run(vec![batch]).unwrap().swap_remove(1);
    let expected = all.iter().map(|r| r["expected"]["v2"]["class"].as_i64().unwrap()).collect();
    assert_eq!(classes.data(), &Data::Int64(expected));
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    let once = import(&example("models/v3.onnx"), &Options::default()).unwrap().bytes;
    let again = import(&example("models/v3.onnx"), &Options::default()).unwrap().bytes;
    assert!(once == again);
    assert!(Model::from_bytes(&once, Path::new("model.slsml")).is_ok());
}

fn with(shapes: Shapes) -> Options<'static> {
    Options { shapes, ..Options::default() }
}

fn refused(bytes: &[u8]) -> ImportError {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    import(file.path(), &Options::default()).unwrap_err()
}

#[test]
fn what_is_not_onnx_is_told_from_what_is_damaged() {
    assert!(matches!(refused(b""), ImportError::NotOnnx { .. }));
    assert!(matches!(refused(b"PK\x03\x04 a zip"), ImportError::NotOnnx { .. }));
    assert!(matches!(refused(b"{\"json\": true}"), ImportError::NotOnnx { .. }));
    let whole = std::fs::read(example("models/v1.onnx")).unwrap();
    for part in [1, 3, 7] {
        let error = refused(&whole[..whole.len() * part / 8]);
        assert!(matches!(error, ImportError::Truncated { .. }), "{part}/8: {error}");
    }
}

#[test]
fn truncation_anywhere_is_refused_without_a_panic() {
    let whole = std::fs::read(example("models/v1.onnx")).unwrap();
    for length in (0..whole.len()).step_by(97) {
        refused(&whole[..length]);
    }
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let path = example("models/v1.onnx");
    let shapes = Shapes { shapes: vec!["picture=1x64".parse().unwrap()], ..Shapes::default() };
    let message = import(&path, &with(shapes)).unwrap_err().to_string();
    assert!(message.contains("no input `picture`; it has `image`"), "{message}");
    let shapes = Shapes { dims: vec!["rows=1".parse().unwrap()], ..Shapes::default() };
    let message = import(&path, &with(shapes)).unwrap_err().to_string();
    assert!(message.contains("no dimension `rows`; it has `batch`"), "{message}");
    let shapes = Shapes { shapes: vec!["image=1x65".parse().unwrap()], ..Shapes::default() };
    let message = import(&path, &with(shapes)).unwrap_err().to_string();
    assert!(message.contains("is 64 long in dimension 1"), "{message}");
}

#[test]
fn inputs_of_zeros_fit_any_signature() {
    for file in ["examples/digits/models/v2.onnx", "tests/fixtures/two_inputs.onnx"] {
        let path = checkout().join(file);
        let model = import(&path, &Options::default()).unwrap().model;
        let zeros = model.signature().zeros(1_000).unwrap();
        assert!(model.run(zeros).is_ok());
        assert_eq!(model.signature().zeros(1), None);
    }
}

#[test]
fn free_form_metadata_does_not_get_in_the_way() {
    let path = checkout().join("tests/fixtures/metadata.onnx");
    let model = import(&path, &Options::default()).unwrap().model;
    let input = Tensor::new(vec![1, 4], Data::Fp32(vec![-1.0, 0.0, 1.0, 2.0])).unwrap();
    let output = model.run(vec![input]).unwrap().remove(0);
    assert_eq!(output.data(), &Data::Fp32(vec![0.0, 0.0, 1.0, 2.0]));
}
