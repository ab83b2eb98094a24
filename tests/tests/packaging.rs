//! `slsml package`: what it refuses, how it says so, and that its bytes depend on its input alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use slsml_e2e::slsml::{checkout, command, json, program_for_arm64, programs, run};

fn digits(version: &str) -> PathBuf {
    checkout().join(format!("examples/digits/models/{version}.onnx"))
}

fn fixture(name: &str) -> PathBuf {
    checkout().join("tests/fixtures").join(format!("{name}.onnx"))
}

#[test]
fn what_cannot_be_packaged_is_refused_by_name_with_a_way_out() {
    let scratch = tempfile::tempdir().unwrap();
    let truncated = scratch.path().join("truncated.onnx");
    let whole = std::fs::read(digits("v2")).unwrap();
    std::fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let garbage = scratch.path().join("garbage.onnx");
    std::fs::write(&garbage, "this is no model").unwrap();
    let table: [(PathBuf, i32, &[&str], &str); 7] = [
        (scratch.path().join("nothing.onnx"), 2, &["no such file", "nothing.onnx"], "model.onnx"),
        (garbage, 3, &["garbage.onnx is not an ONNX file"], "torch.onnx.export"),
        (truncated, 3, &["truncated.onnx is truncated or damaged"], "compare its size"),
        (
            fixture("unknown_operator"),
            3,
            &["FusedGelu", "com.microsoft", "opset 1", "node `fused`"],
            "ai.onnx operators",
        ),
        (
            fixture("dynamic_reshape"),
            3,
            &["`rows` of input `x`", "`columns` of input `x`"],
            "--dim rows=N --dim columns=N",
        ),
        (
            fixture("external_outside"),
            3,
            &["`w` outside the model's folder", "Cargo.toml"],
            "into the model's own folder",
        ),
        (fixture("external_missing"), 3, &["not-there.bin"], "in one folder"),
    ];
    for (model, code, words, help) in table {
        let args = ["package", &model.to_string_lossy(), "--out", "out"];
        let output = run(scratch.path(), &args).unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(output.stdout.is_empty());
        for word in words.iter().chain([&help]) {
            assert!(told.contains(word), "{word} is missing in: {told}");
        }
        let (json_code, value) = json(scratch.path(), &args).unwrap();
        assert_eq!((json_code, &value["error"]["exit_code"]), (code, &code.into()));
        assert!(value["error"]["help"].as_str().unwrap().contains(help), "{value}");
        assert!(
            !scratch.path().join("out").exists(),
            "something half-done is left of {}",
            model.display()
        );
    }
}

#[test]
fn fixed_dimensions_package_what_dynamic_ones_do_not() {
    let scratch = tempfile::tempdir().unwrap();
    let reshape = fixture("dynamic_reshape");
    let reshape = reshape.to_string_lossy();
    for fixed in [&["--dim", "rows=4", "--dim", "columns=4"][..], &["--shape", "x=2x8"]] {
        let (code, value) =
            json(scratch.path(), &[&["package", &*reshape][..], fixed].concat()).unwrap();
        assert_eq!(code, 0, "{value}");
    }
    let contradicting = fixture("contradicting_output");
    let args = ["package", &contradicting.to_string_lossy(), "--shape", "x=3x4"];
    let (code, value) = json(scratch.path(), &args).unwrap();
    assert_eq!(code, 0, "{value}");
    assert_eq!(
        value["built"]["model"]["signature"]["outputs"][0]["shape"],
        serde_json::json!([3, 4])
    );
}

#[test]
fn the_same_input_gives_the_same_bytes_anywhere() {
    // The index names the digest of all there is in the image.
    for (target, file) in [("lambda", "lambda.zip"), ("cloudrun", "image/index.json")] {
        let machines = [("022", "UTC", "C"), ("077", "Asia/Kathmandu", "de_DE.UTF-8")];
        let packages = machines.map(|(umask, zone, locale)| {
            let scratch = tempfile::tempdir().unwrap();
            let copy = scratch.path().join("copied model.onnx");
            std::fs::copy(digits("v2"), &copy).unwrap();
            let mut shell = Command::new("sh");
            let line = "umask \"$1\"; exec \"$2\" package \"$3\" --target \"$4\" --name digits";
            shell.args(["-c", line, "sh", umask]);
            shell.arg(programs().unwrap().join("slsml")).arg(&copy).arg(target);
            let shell = shell.current_dir(scratch.path()).env("TZ", zone).env("LC_ALL", locale);
            let output = shell.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let folder = scratch.path().join("dist/digits");
            [file, "artifact.json"].map(|file| std::fs::read(folder.join(file)).unwrap())
        });
        assert!(packages[0] == packages[1], "{target}");
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", slsml_package::sha256_hex(bytes))
}

#[test]
fn an_image_is_what_the_specification_says_and_other_tools_read_it() {
    let scratch = tempfile::tempdir().unwrap();
    let model = digits("v1");
    let package =
        ["package", &*model.to_string_lossy(), "--name", "digits", "--target", "cloudrun"];
    let more = ["--revision", "abc", "--docker-archive", "digits.tar"];
    let (code, value) = json(scratch.path(), &[&package[..], &more].concat()).unwrap();
    assert_eq!(code, 0, "{value}");
    let folder = scratch.path().join("dist/digits/image");
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = folder.join("blobs").join(digest.replace(':', "/"));
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(
            (sha256(&bytes).as_str(), bytes.len() as u64),
            (digest, descriptor["size"].as_u64().unwrap())
        );
        bytes
    };
    let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let index = parse(&std::fs::read(folder.join("index.json")).unwrap());
    let manifest = &index["manifests"][0];
    assert_eq!(manifest["digest"], value["built"]["image"]["digest"]);
    let manifest = parse(&blob(manifest));
    assert_eq!(manifest["annotations"]["org.opencontainers.image.revision"], "abc");
    let config = parse(&blob(&manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    for (layer, diff_id) in
        [0, 1].map(|at| (&manifest["layers"][at], &config["rootfs"]["diff_ids"][at]))
    {
        let mut archive = blob(layer);
        if layer["mediaType"].as_str().unwrap().ends_with("gzip") {
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*archive), &mut plain)
                .unwrap();
            archive = plain;
        }
        assert_eq!(&sha256(&archive), diff_id.as_str().unwrap());
    }
    // Where it is installed, somebody else's reader of layouts and archives has the last word.
    for from in [format!("oci:{}", folder.display()), "docker-archive:digits.tar".into()] {
        let skopeo =
            Command::new("skopeo").args(["inspect", &from]).current_dir(scratch.path()).output();
        let Ok(output) = skopeo else { continue };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(parse(&output.stdout)["Architecture"], "amd64");
    }
    let (code, value) = json(scratch.path(), &["deploy", "lambda", "--local"]).unwrap();
    assert_eq!(code, 3, "{value}");
    assert!(value["error"]["message"].as_str().unwrap().contains("no zip for Lambda"), "{value}");
    // The same model for another target lies beside it.
    let zip = ["package", &*model.to_string_lossy(), "--name", "digits"];
    let (code, value) = json(scratch.path(), &zip).unwrap();
    assert_eq!(code, 0, "{value}");
    assert!(value["built"]["image"].is_object() && value["built"]["lambda"].is_object(), "{value}");
    let model = digits("v2");
    let other = ["package", &*model.to_string_lossy(), "--name", "digits"];
    let (_, value) = json(scratch.path(), &other).unwrap();
    assert!(value["built"]["image"].is_null(), "it is of another model: {value}");
}

#[test]
fn an_image_over_its_budget_is_not_written_and_budgets_belong_to_their_target() {
    let scratch = tempfile::tempdir().unwrap();
    let model = digits("v1").to_string_lossy().into_owned();
    let package = |more: &[&str]| {
        let args = [&["package", &*model, "--name", "digits"][..], more].concat();
        json(scratch.path(), &args).unwrap()
    };
    let (code, value) = package(&["--target", "cloudrun", "--max-image-bytes", "1000"]);
    let message = value["error"]["message"].as_str().unwrap();
    assert_eq!(code, 3, "{value}");
    assert!(message.contains("the budget is 1000") && message.contains("the program"), "{message}");
    assert!(!scratch.path().join("dist/digits/artifact.json").exists());
    for wrong in
        [&["--target", "cloudrun", "--max-zip-bytes", "9"][..], &["--max-image-bytes", "9"]]
    {
        let (code, value) = package(wrong);
        assert_eq!(code, 2, "{value}");
        assert!(value["error"]["message"].as_str().unwrap().contains("goes with"), "{value}");
    }
}

#[test]
fn packaged_for_both_targets_at_once_both_are_in_the_record() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("dist/digits");
    std::fs::create_dir_all(&folder).unwrap();
    let model = digits("v1").to_string_lossy().into_owned();
    // A third that is about to write there.
    let lock = std::fs::File::open(&folder).unwrap();
    lock.lock().unwrap();
    let package = |target| {
        let args = ["--json", "package", &*model, "--name", "digits", "--target", target];
        let mut command = command(&args).unwrap();
        command.current_dir(scratch.path()).stdout(Stdio::null()).spawn().unwrap()
    };
    let both = ["lambda", "cloudrun"].map(package);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "they wait");
    drop(lock);
    for mut one in both {
        assert!(one.wait().unwrap().success());
    }
    let artifact = slsml_package::Artifact::read(&folder).unwrap();
    artifact.for_lambda().unwrap();
    artifact.for_cloudrun().unwrap();
}

#[test]
fn an_image_for_both_processors_is_an_index_and_reads_as_either() {
    let scratch = tempfile::tempdir().unwrap();
    let (arm, amd) =
        (program_for_arm64(scratch.path()).unwrap(), programs().unwrap().join("slsml-server"));
    let [model, arm, amd] =
        [digits("v1"), arm, amd].map(|path| path.to_string_lossy().into_owned());
    let package = ["package", &*model, "--name", "digits", "--target", "cloudrun"];
    let both = ["--arch", "x86_64,arm64", "--runtime", &*amd, "--runtime", &*arm];
    let (code, value) = json(scratch.path(), &[&package[..], &both].concat()).unwrap();
    assert_eq!(code, 0, "{value}");
    let image = &value["built"]["image"];
    assert_eq!(image["platforms"].as_array().unwrap().len(), 2, "{image}");
    let folder = scratch.path().join("dist/digits/image");
    for arch in ["amd64", "arm64"] {
        let from = format!("oci:{}", folder.display());
        let args = ["--override-arch", arch, "inspect", &from];
        let Ok(output) = Command::new("skopeo").args(args).output() else { continue };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let inspected: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(inspected["Architecture"], arch);
    }
    let archive = scratch.path().join("image.tar").to_string_lossy().into_owned();
    let before = std::fs::read(scratch.path().join("dist/digits/artifact.json")).unwrap();
    let of_both = [&both[..], &["--docker-archive", &*archive]].concat();
    let wrong: [(&[&str], &[&str], &str); 5] = [
        (&package, &["--arch", "x86_64,arm64", "--runtime", &*amd], "no --runtime is for arm64"),
        (&package, &["--runtime", &*amd, "--runtime", &*amd], "a second runtime for x86_64"),
        (&package, &["--arch", "arm64", "--runtime", &*amd], "x86_64"),
        (&package[..4], &["--arch", "x86_64,arm64", "--target", "lambda"], "two processors"),
        (&package, &of_both, "one processor"),
    ];
    for (package, more, says) in wrong {
        let (code, value) = json(scratch.path(), &[package, more].concat()).unwrap();
        assert_ne!(code, 0, "{more:?}: {value}");
        assert!(value["error"]["message"].as_str().unwrap().contains(says), "{more:?}: {value}");
    }
    assert_eq!(std::fs::read(scratch.path().join("dist/digits/artifact.json")).unwrap(), before);
    slsml_package::Artifact::read(&scratch.path().join("dist/digits")).unwrap();
    assert!(
        folder.join("blobs/sha256").join(image["digest"].as_str().unwrap().split_at(7).1).exists()
    );
}

#[test]
fn a_dockerfile_comes_with_all_it_copies() {
    let scratch = tempfile::tempdir().unwrap();
    let model = digits("v1").to_string_lossy().into_owned();
    let package = ["package", &*model, "--name", "digits", "--target", "cloudrun"];
    let more = ["--emit", "dockerfile", "--revision", "a $b \"c\""];
    let (code, value) = json(scratch.path(), &[&package[..], &more].concat()).unwrap();
    assert_eq!(code, 0, "{value}");
    let folder = scratch.path().join("dist/digits/docker");
    let text = std::fs::read_to_string(folder.join("Dockerfile")).unwrap();
    assert!(text.contains("COPY amd64/slsml-server /slsml-server"), "{text}");
    let mode = std::fs::metadata(folder.join("amd64/slsml-server")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755, "what is copied keeps its mode");
    for file in ["amd64/slsml-server", "model/model.slsml", "model/manifest.json"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
}

#[test]
fn the_zip_is_what_artifact_json_says_and_a_changed_one_is_not_deployed() {
    let scratch = tempfile::tempdir().unwrap();
    let (code, value) =
        json(scratch.path(), &["package", &digits("v1").to_string_lossy(), "--name", "digits"])
            .unwrap();
    assert_eq!(code, 0, "{value}");
    let folder = scratch.path().join("dist/digits");
    let artifact = slsml_package::Artifact::read(&folder).unwrap();
    let zip = artifact.lambda_zip(&folder).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
    let recorded: Vec<&str> =
        artifact.for_lambda().unwrap().entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(recorded, ["bootstrap", "manifest.json", "model.slsml"]);
    for entry in &artifact.for_lambda().unwrap().entries {
        let mut bytes = Vec::new();
        let mut file = archive.by_name(&entry.path).unwrap();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        assert_eq!(slsml_package::sha256_hex(&bytes), entry.sha256, "{}", entry.path);
        assert_eq!(file.unix_mode().unwrap() & 0o111 != 0, entry.path == "bootstrap");
    }
    std::fs::write(folder.join("lambda.zip"), b"something else").unwrap();
    let (code, value) = json(scratch.path(), &["deploy", "lambda", "--local"]).unwrap();
    assert_eq!(code, 3, "{value}");
    assert!(value["error"]["message"].as_str().unwrap().contains("is not the file"), "{value}");
}

fn settings(folder: &Path, text: &str) {
    std::fs::write(folder.join("slsml.toml"), text).unwrap();
}

#[test]
fn settings_are_read_and_an_unknown_key_names_the_nearest() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::copy(digits("v1"), scratch.path().join("m.onnx")).unwrap();
    settings(
        scratch.path(),
        "[model]\npath = \"m.onnx\"\nname = \"numbers\"\ndims = [\"batch=2\"]\n",
    );
    let (code, value) = json(scratch.path(), &["package"]).unwrap();
    assert_eq!((code, &value["built"]["name"]), (0, &"numbers".into()), "{value}");
    assert_eq!(
        value["built"]["model"]["signature"]["inputs"][0]["shape"],
        serde_json::json!([2, 64])
    );
    settings(scratch.path(), "[release]\nstrategy = \"canary\"\nsteps = []\n");
    let (code, value) =
        json(scratch.path(), &["deploy", "lambda", "--local", "--artifact", "dist/numbers"])
            .unwrap();
    assert_eq!(code, 2, "a canary without steps is none: {value}");
    settings(scratch.path(), "[lambda]\nmemory = 512\n");
    let (code, value) = json(scratch.path(), &["package"]).unwrap();
    assert_eq!(code, 2, "{value}");
    assert_eq!(value["error"]["help"], "did you mean `memory_mb`?");
}

#[test]
fn usage_errors_have_their_code_and_json_form() {
    let scratch = tempfile::tempdir().unwrap();
    for args in [
        &["nonsense"][..],
        &["package", "--shape", "x"],
        &["invoke"],
        &["local", "up", "--port", "x"],
    ] {
        let (code, value) = json(scratch.path(), args).unwrap();
        assert_eq!((code, &value["error"]["exit"]), (2, &"usage".into()), "{args:?}: {value}");
    }
    let (code, value) =
        json(scratch.path(), &["package", &digits("v1").to_string_lossy(), "--runtime", "no"])
            .unwrap();
    assert_eq!(code, 2, "{value}");
    assert!(value["error"]["help"].as_str().unwrap().contains("bootstrap"), "{value}");
    let (code, value) = json(scratch.path(), &["schema"]).unwrap();
    assert_eq!((code, &value["title"]), (0, &"Settings".into()));
}

#[test]
fn a_local_lambda_that_does_not_run_is_named_with_the_way_to_start_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cloud");
    let dir = dir.to_string_lossy();
    let (_, value) = json(scratch.path(), &["package", &digits("v1").to_string_lossy()]).unwrap();
    assert_eq!(value["built"]["name"], "v1");
    for args in [
        &["deploy", "lambda", "--local", "--local-dir", &*dir][..],
        &["status", "--local", "--local-dir", &*dir],
        &["local", "env", "--dir", &*dir],
    ] {
        let (code, value) = json(scratch.path(), args).unwrap();
        assert_eq!(code, 4, "{args:?}: {value}");
        assert!(value["error"]["help"].as_str().unwrap().contains("slsml local up"), "{value}");
    }
}

#[test]
fn help_says_how_slsml_ends() {
    let output = command(&["--help"]).unwrap().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("5 the release was rolled back"), "{text}");
}
