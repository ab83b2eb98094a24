//! How a packaged model compares with the file it came from: what packaging found, for the record.

use serde::{Deserialize, Serialize};

/// How weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As the file has them.
    #[default]
    Full,
    /// 32-bit floats as 16-bit ones. The model computes in 32 bits all the same.
    F16,
}

/// How far apart two numbers may lie: relative to the larger one, or absolute below 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tolerance(pub f64);

impl Tolerance {
    /// For weights kept as they are: what the order of additions may change.
    pub const EXACT: Tolerance = Tolerance(1e-4);
    /// For weights in half precision, which has 11 significant bits.
    pub const HALF: Tolerance = Tolerance(2e-2);
}

/// What the comparison found. Without samples that the original could run, nothing is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// How many samples both ran.
    pub samples: usize,
    /// Where they came from.
    pub source: SampleSource,
    /// The tolerance that was asked for.
    pub tolerance: Tolerance,
    /// What was found for each output.
    pub outputs: Vec<OutputFidelity>,
}

/// Where samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleSource {
    /// Made up from the signature.
    Generated,
    /// The user's.
    File,
}

/// How one output differs over all samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputFidelity {
    /// The output's name.
    pub name: String,
    /// Elements compared.
    pub elements: u64,
    /// The largest difference; relative to the larger value, or absolute below 1.
    pub largest: f64,
    /// The mean difference.
    pub mean: f64,
}
