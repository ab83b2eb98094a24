//! Commands in, text out: each file of `golden` is typed into a local cloud of its own, where the
//! example's three versions are packaged and the first is live. `TRYCMD=overwrite` writes down what
//! is said now.
#![allow(missing_docs, clippy::unwrap_used)]

use slsml_e2e::slsml::{LocalLambda, checkout, programs};
use trycmd::TestCases;

#[test]
fn every_script_says_what_is_written() {
    let mut scripts: Vec<_> = std::fs::read_dir(checkout().join("tests/golden"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    for script in scripts {
        let cloud = LocalLambda::start().unwrap();
        for version in ["v1", "v2", "v3"] {
            cloud.package(version).unwrap();
        }
        let first = cloud.scratch().join("v1/digits");
        assert_eq!(cloud.deploy(&first, &[]).unwrap().0, 0);
        std::fs::create_dir(cloud.dir().join("s3/artifacts")).unwrap();
        // Scripts name the packages by where they lie.
        std::env::set_current_dir(cloud.scratch()).unwrap();
        let cases = TestCases::new();
        cases.register_bin("slsml", programs().unwrap().join("slsml"));
        cases.env("NO_COLOR", "1");
        cases.env("SLSML_LOCAL_DIR", cloud.dir().to_string_lossy());
        cases.env("USER", "ada");
        cases.case(script);
        cases.run();
    }
}
