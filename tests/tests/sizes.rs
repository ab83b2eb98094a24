//! Fidelity, sizes and budgets, as users meet them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use slsml_e2e::slsml::{checkout, command, json, run};

fn digits(version: &str) -> String {
    checkout().join(format!("examples/digits/models/{version}.onnx")).display().to_string()
}

fn packaged(folder: &Path, more: &[&str]) -> Value {
    let model = digits("v2");
    let args = [&["package", &*model, "--name", "digits"], more].concat();
    let (code, value) = json(folder, &args).unwrap();
    assert_eq!(code, 0, "{value}");
    value
}

fn told(folder: &Path, args: &[&str], code: i32) -> String {
    let output = run(folder, args).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{told}");
    told
}

#[test]
fn half_precision_is_on_record_with_what_it_costs() {
    let scratch = tempfile::tempdir().unwrap();
    let full = packaged(scratch.path(), &[]);
    assert_eq!(full["built"]["model"]["precision"], "full");
    assert_eq!(full["built"]["model"]["parity"]["samples"], 4);
    let half = packaged(scratch.path(), &["--precision", "f16"]);
    let model = &half["built"]["model"];
    assert_eq!(model["precision"], "f16");
    assert!(model["bytes"].as_u64() < full["built"]["model"]["bytes"].as_u64());
    let output = &model["parity"]["outputs"][0];
    assert!(output["largest"].as_f64() > output["mean"].as_f64(), "{output}");
    assert!(half["stored_weights_bytes"].as_u64() < half["full_weights_bytes"].as_u64());
}

#[test]
fn samples_are_the_users_and_a_difference_names_its_element() {
    let scratch = tempfile::tempdir().unwrap();
    let request = checkout().join("examples/digits/request.json");
    let request = std::fs::read_to_string(request).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(scratch.path().join(name), text).unwrap();
    };
    write("one.json", &request);
    write("array.json", &format!("[{request},{request}]"));
    write("lines.json", &format!("{request}\n{request}\n{request}"));
    for (file, count) in [("one.json", 1), ("array.json", 2), ("lines.json", 3)] {
        let parity =
            packaged(scratch.path(), &["--samples", file])["built"]["model"]["parity"].take();
        assert_eq!((&parity["samples"], &parity["source"]), (&count.into(), &"file".into()));
    }
    let model = digits("v2");
    let refused = ["package", &*model, "--precision", "f16", "--tolerance", "1e-9"];
    let message = told(scratch.path(), &refused, 3);
    assert!(message.contains("output `probabilities`, element ["), "{message}");
    write(
        "unfit.json",
        r#"{"inputs":[{"name":"image","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}"#,
    );
    write("broken.json", "[{");
    write("empty.json", " ");
    for (file, word) in [
        ("unfit.json", "sample 1: input `image` has shape [1, 3]"),
        ("broken.json", "cannot be used"),
        ("empty.json", "it holds none"),
        ("missing.json", "No such file"),
    ] {
        let message = told(scratch.path(), &["package", &model, "--samples", file], 2);
        assert!(message.contains(word), "{message}");
    }
    let message = told(scratch.path(), &["package", &model, "--tolerance", "nan"], 2);
    assert!(message.contains("tolerance must be a number above 0"), "{message}");
}

#[test]
fn a_budget_names_what_weighs_most_and_nothing_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let model = digits("v2");
    for (flag, words) in [
        ("--max-zip-bytes", "the budget is 1000; most of it"),
        ("--max-unzipped-bytes", "is bootstrap"),
    ] {
        let message = told(scratch.path(), &["package", &model, flag, "1000"], 3);
        assert!(message.contains(words) && message.contains("explain-size"), "{message}");
    }
    let message = told(scratch.path(), &["package", &model, "--max-ready-ms", "0.0001"], 3);
    assert!(message.contains("ms to load here, the budget is 0.0001 ms"), "{message}");
    assert!(!scratch.path().join("dist").exists());
    let settings = |text: &str| std::fs::write(scratch.path().join("slsml.toml"), text).unwrap();
    settings("[package]\nmax_zip_bytes = \"many\"\n");
    let message = told(scratch.path(), &["package", &model], 2);
    assert!(message.contains("slsml.toml") && message.contains("max_zip_bytes"), "{message}");
    settings("[package]\nmax_zip_bytes = 2000\n");
    let message = told(scratch.path(), &["package", &model], 3);
    assert!(message.contains("the budget is 2000"), "{message}");
}

/// Every part is the sum of its own.
fn sums(part: &Value) -> u64 {
    let parts = part["parts"].as_array();
    let bytes = part["bytes"].as_u64().unwrap();
    if let Some(parts) = parts {
        assert_eq!(parts.iter().map(sums).sum::<u64>(), bytes, "{}", part["name"]);
    }
    bytes
}

#[test]
fn explained_sizes_sum_to_the_file_and_can_be_drawn() {
    let scratch = tempfile::tempdir().unwrap();
    packaged(scratch.path(), &[]);
    let zip = scratch.path().join("dist/digits/lambda.zip");
    for target in [&[][..], &["dist/digits"], &["dist/digits/lambda.zip"]] {
        let args = [&["explain-size", "--svg", "size.svg"], target].concat();
        let (code, value) = json(scratch.path(), &args).unwrap();
        assert_eq!(code, 0, "{value}");
        let wholes = value["wholes"].as_array().unwrap();
        assert_eq!(sums(&wholes[0]), zip.metadata().unwrap().len());
        assert_eq!(wholes[1]["name"], "unpacked");
        sums(&wholes[1]);
        let model = wholes[1]["parts"].as_array().unwrap();
        let model = model.iter().find(|part| part["name"] == "model.slsml").unwrap();
        let tensors = model["parts"].as_array().unwrap();
        let largest = tensors.iter().max_by_key(|part| part["bytes"].as_u64()).unwrap();
        assert!(largest["bytes"].as_u64() > Some(10_000), "{largest}");
    }
    let svg = std::fs::read_to_string(scratch.path().join("size.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("model.slsml"));
    let request = checkout().join("examples/digits/request.json").display().to_string();
    let message = told(scratch.path(), &["explain-size", &request], 3);
    assert!(message.contains("is neither an artifact's folder, a zip nor a packaged model"));
    let message = told(scratch.path(), &["explain-size", "nothing"], 2);
    assert!(message.contains("cannot read nothing"), "{message}");
}

#[test]
fn inspect_says_what_a_model_is_and_why_it_cannot_be_packaged() {
    let scratch = tempfile::tempdir().unwrap();
    let (code, value) = json(scratch.path(), &["inspect", &digits("v2")]).unwrap();
    assert_eq!(code, 0, "{value}");
    assert_eq!(value["packaged"]["signature"]["inputs"][0]["name"], "image");
    assert!(value["operators"].as_object().unwrap().values().all(|count| count.as_u64() > Some(0)));
    let stages = value["packaged"]["stages_ms"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage[0].as_str().unwrap()).collect();
    assert_eq!(names, ["decode", "analyse", "declutter", "store", "load"]);
    let unknown = checkout().join("tests/fixtures/unknown_operator.onnx").display().to_string();
    let (code, value) = json(scratch.path(), &["inspect", &unknown]).unwrap();
    assert_eq!((code, &value["unsupported"][0]["operator"]), (3, &"FusedGelu".into()), "{value}");
    assert!(value["refusal"]["message"].as_str().unwrap().contains("FusedGelu"), "{value}");
    let output = run(scratch.path(), &["inspect", &digits("v1")]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("takes       image FP32[batch,64]"), "{text}");
}

fn zip_with(epoch: Option<&str>, folder: &Path) -> (i32, PathBuf) {
    let model = digits("v1");
    let mut command = command(&["package", &model, "--name", "digits"]).unwrap();
    command.current_dir(folder).env_remove("SOURCE_DATE_EPOCH");
    command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
    let status = command.output().unwrap().status;
    (status.code().unwrap(), folder.join("dist/digits/lambda.zip"))
}

#[test]
fn source_date_epoch_is_the_time_of_every_file() {
    let scratch = tempfile::tempdir().unwrap();
    for (epoch, stated) in
        [(None, "1980-01-01 00:00:00"), (Some("951782400"), "2000-02-29 00:00:00")]
    {
        let (code, zip) = zip_with(epoch, scratch.path());
        assert_eq!(code, 0);
        let mut archive = zip::ZipArchive::new(std::fs::File::open(zip).unwrap()).unwrap();
        for index in 0..archive.len() {
            let time = archive.by_index(index).unwrap().last_modified().unwrap();
            assert_eq!(time.to_string(), stated);
        }
    }
    for unusable in ["yesterday", "1", "99999999999999"] {
        assert_eq!(zip_with(Some(unusable), scratch.path()).0, 2, "{unusable}");
    }
}

#[test]
fn another_processors_runtime_is_not_packaged_unasked() {
    let scratch = tempfile::tempdir().unwrap();
    let message = told(scratch.path(), &["package", &digits("v1"), "--arch", "arm64"], 2);
    assert!(message.contains("bootstrap-arm64"), "{message}");
}
