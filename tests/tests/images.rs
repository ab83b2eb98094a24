//! Images on their way to a registry: the one of the local cloud, which takes what Artifact Registry
//! takes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use slsml_e2e::slsml::{LocalLambda, checkout, json, programs};

/// Packages the example as an image, with `program` or the real one.
fn package(cloud: &LocalLambda, out: &str, program: Option<&Path>) -> PathBuf {
    let model = checkout().join("examples/digits/models/v1.onnx");
    let (out, server) = (cloud.scratch().join(out), programs().unwrap().join("slsml-server"));
    let program = program.unwrap_or(&server).to_string_lossy().into_owned();
    let args = [
        "package",
        &model.to_string_lossy(),
        "--name",
        "digits",
        "--target",
        "cloudrun",
        "--out",
        &out.to_string_lossy(),
        "--runtime",
        &program,
        "--revision",
        "c0ffee",
        "--image-version",
        "1.2.3+4",
    ];
    let (code, value) = json(cloud.scratch(), &args).unwrap();
    assert_eq!(code, 0, "{value}");
    out.join("digits")
}

fn push(cloud: &LocalLambda, artifact: &Path, to: &str, more: &[&str]) -> (i32, Value) {
    let artifact = artifact.to_string_lossy();
    cloud.json(&[&["push", to, "--artifact", &*artifact], more].concat()).unwrap()
}

fn sent(pushed: &Value) -> Vec<(String, u64)> {
    let blobs = pushed["blobs"].as_array().unwrap().iter();
    let sent = blobs.filter(|blob| blob["fate"] == "sent");
    sent.map(|blob| (blob["digest"].as_str().unwrap().into(), blob["bytes"].as_u64().unwrap()))
        .collect()
}

fn tags(cloud: &LocalLambda, repository: &str) -> Option<Vec<String>> {
    let folder = cloud.dir().join("images/repositories").join(repository).join("_tags");
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut tags: Vec<String> =
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    tags.sort();
    Some(tags)
}

#[test]
fn what_is_there_is_not_sent_again() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = package(&cloud, "one", None);
    let (code, first) = push(&cloud, &artifact, "project/models/digits:live", &[]);
    assert_eq!(code, 0, "{first}");
    assert_eq!(sent(&first).len(), 3, "{first}");
    let digest = first["image"].as_str().unwrap().split_once('@').unwrap().1.to_owned();
    let content = digest.replace(':', "-")[..19].to_owned();
    let mut expected = vec!["1.2.3_4".to_owned(), "c0ffee".into(), "live".into(), content];
    expected.sort();
    assert_eq!(tags(&cloud, "project/models/digits").unwrap(), expected);

    let (_, again) = push(&cloud, &artifact, "project/models/digits", &[]);
    assert_eq!(sent(&again), []);
    let from = ["--mount-from", "project/models/digits"];
    let (_, mounted) = push(&cloud, &artifact, "project/models/other", &from);
    assert_eq!(sent(&mounted), []);
    assert_eq!(mounted["blobs"][0]["fate"], "mounted");

    // A new program goes without the model's bytes.
    let record: Value =
        serde_json::from_slice(&std::fs::read(artifact.join("artifact.json")).unwrap()).unwrap();
    let model = &record["image"]["platforms"][0]["layers"][1];
    assert_eq!(model["holds"], "model");
    let mut program = std::fs::read(programs().unwrap().join("slsml-server")).unwrap();
    program.push(0);
    let changed = cloud.scratch().join("slsml-server");
    std::fs::write(&changed, program).unwrap();
    let other = package(&cloud, "two", Some(&changed));
    let (_, new) = push(&cloud, &other, "project/models/digits", &[]);
    let went = sent(&new);
    assert_eq!(went.len(), 2, "the program and the configuration: {new}");
    assert!(went.iter().all(|(digest, _)| *digest != model["digest"]), "{new}");
}

#[test]
fn an_interrupted_push_leaves_no_tag_and_the_next_one_goes_on() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = package(&cloud, "one", None);
    let dir = cloud.dir();
    let clear = || {
        let clear = ["local", "fault", "clear", "--dir", &dir.to_string_lossy()];
        assert_eq!(json(cloud.scratch(), &clear).unwrap().0, 0);
    };
    let fault = |call: &str, nth: &str| {
        clear();
        let dir = dir.to_string_lossy();
        let set = ["local", "fault", "api", "--dir", &*dir, "--kind", "deny", "--times", "1000"];
        let set = [&set[..], &["--call", call, "--nth", nth]].concat();
        assert_eq!(json(cloud.scratch(), &set).unwrap().0, 0);
    };
    // Every call of an undisturbed push, refused from there on.
    let calls = [
        ("HEAD /v2/p/i", "1"),
        ("POST /v2/p/i", "1"),
        ("POST /v2/p/i", "2"),
        ("PUT /v2/p/i/blobs", "1"),
        ("PUT /v2/p/i/blobs", "2"),
        ("PUT /v2/p/i/manifests", "1"),
    ];
    for (call, nth) in calls {
        fault(call, nth);
        let (code, failed) = push(&cloud, &artifact, "p/i:live", &[]);
        assert_eq!(code, 4, "{call} {nth}: {failed}");
        assert_eq!(tags(&cloud, "p/i"), None, "{call} {nth}");
    }
    clear();
    let (code, pushed) = push(&cloud, &artifact, "p/i:live", &[]);
    assert_eq!(code, 0, "{pushed}");
    assert_eq!(sent(&pushed), [], "blobs that had arrived stay: {pushed}");
    assert!(tags(&cloud, "p/i").unwrap().contains(&"live".into()));
}

#[test]
fn a_passing_fault_is_not_seen() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = package(&cloud, "one", None);
    for kind in ["error", "throttle", "drop-before", "drop-after"] {
        for (call, at) in [("POST /v2/", "post"), ("PUT /v2/", "put"), ("HEAD /v2/", "head")] {
            let dir = cloud.dir();
            let set = ["local", "fault", "api", "--dir", &dir.to_string_lossy(), "--kind", kind];
            let set = [&set[..], &["--call", call]].concat();
            assert_eq!(json(cloud.scratch(), &set).unwrap().0, 0);
            let to = format!("p/{kind}/{at}");
            let (code, pushed) = push(&cloud, &artifact, &to, &[]);
            assert_eq!(code, 0, "{kind} of {call}: {pushed}");
            assert_eq!(tags(&cloud, &to).unwrap().len(), 3);
        }
    }
}

#[test]
fn a_damaged_layout_is_not_pushed() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = package(&cloud, "one", None);
    let record: Value =
        serde_json::from_slice(&std::fs::read(artifact.join("artifact.json")).unwrap()).unwrap();
    let digest =
        record["image"]["platforms"][0]["layers"][1]["digest"].as_str().unwrap().replace(':', "/");
    let blob = artifact.join("image/blobs").join(digest);
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let (code, failed) = push(&cloud, &artifact, "p/i", &[]);
    assert_eq!(code, 3, "{failed}");
    assert!(failed.to_string().contains("it was changed or is incomplete"), "{failed}");
    assert_eq!(tags(&cloud, "p/i"), None);
}
