//! The example's requests and the answers ONNX Runtime gave to them.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::{Error, slsml};

/// One request and what each version must answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The infer request.
    pub request: Value,
    /// The answers by version; none where the version fails.
    pub expected: BTreeMap<String, Option<Expected>>,
}

/// An answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Expected {
    /// The digit.
    pub class: i64,
    /// Its and the others' probabilities.
    pub probabilities: Vec<f64>,
}

/// All of them.
pub fn cases() -> Result<Vec<Case>, Error> {
    let path = slsml::checkout().join("examples/digits/requests.json");
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

impl Case {
    /// Whether an answer is what this version must give.
    pub fn is_answered_by(&self, version: &str, answer: &Value) -> bool {
        let Some(Some(expected)) = self.expected.get(version) else { return false };
        let output = |name: &str| {
            let outputs = answer["outputs"].as_array()?;
            outputs.iter().find(|output| output["name"] == name)?["data"].as_array().cloned()
        };
        let (Some(class), Some(probabilities)) = (output("class"), output("probabilities")) else {
            return false;
        };
        let near = |(got, expected): (&Value, &f64)| {
            got.as_f64().is_some_and(|got| (got - expected).abs() < 1e-4)
        };
        answer["id"] == self.request["id"]
            && class == [expected.class]
            && probabilities.len() == expected.probabilities.len()
            && probabilities.iter().zip(&expected.probabilities).all(near)
    }

    /// Whether this version must fail.
    pub fn fails_on(&self, version: &str) -> bool {
        matches!(self.expected.get(version), Some(None))
    }
}
