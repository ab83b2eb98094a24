//! The arrows of ARCHITECTURE.md, asked of cargo.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::process::Command;

use slsml_e2e::slsml::checkout;

/// The names of all crates that are linked into `package`.
fn linked(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            package,
        ])
        .current_dir(checkout())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn own(package: &str) -> BTreeSet<String> {
    linked(package)
        .into_iter()
        .filter(|name| name.starts_with("slsml") && name != package)
        .collect()
}

#[test]
fn the_runtimes_link_no_cloud_sdk_no_arguments_no_importer_and_no_release_engine() {
    for runtime in ["slsml-bootstrap", "slsml-server"] {
        links_nothing_large(runtime);
    }
}

fn links_nothing_large(runtime: &str) {
    let linked = linked(runtime);
    let banned = [
        "tract-onnx",
        "tract-hir",
        "clap",
        "slsml-release",
        "slsml-import",
        "slsml-package",
        "zip",
    ];
    for name in banned {
        assert!(!linked.contains(name), "{runtime} links {name}");
    }
    let sdk =
        linked.iter().find(|name| name.starts_with("aws-sdk-") || name.starts_with("aws-smithy"));
    assert_eq!(sdk, None, "{runtime}");
}

#[test]
fn arrows_point_down_only() {
    let none: BTreeSet<String> = BTreeSet::new();
    assert_eq!(own("slsml-local"), none);
    assert_eq!(own("slsml-release"), none);
    assert_eq!(own("slsml-kernels"), none);
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(own("slsml-model"), set(&["slsml-kernels"]));
    for package in ["slsml-inference", "slsml-import", "slsml-package"] {
        assert_eq!(own(package), set(&["slsml-kernels", "slsml-model"]), "{package}");
    }
    let below = ["slsml-kernels", "slsml-model", "slsml-package", "slsml-release"];
    assert_eq!(own("slsml-lambda"), set(&below));
    assert_eq!(own("slsml-cloudrun"), set(&below));
    let below = ["slsml-inference", "slsml-kernels", "slsml-model"];
    assert_eq!(own("slsml-bootstrap"), set(&below));
    assert_eq!(own("slsml-server"), set(&below));
}
