//! Who gets which share of the traffic.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A deployed, immutable version of a model: a Lambda version's number, a Cloud Run revision's
/// name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub String);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A share of the traffic in hundredths of a percent, 0 to 10,000, so that it adds up exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Weight(u16);

/// A share that is none.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{0} is not a share of traffic from 0 to 100 percent with at most two decimals")]
pub struct WeightError(f64);

impl Weight {
    /// No traffic.
    pub const NONE: Weight = Weight(0);
    /// All traffic.
    pub const ALL: Weight = Weight(10_000);

    /// A share in percent.
    pub fn percent(percent: f64) -> Result<Weight, WeightError> {
        let hundredths = (percent * 100.0).round();
        let exact = (hundredths - percent * 100.0).abs() < 1e-6;
        if exact && (0.0..=10_000.0).contains(&hundredths) {
            Ok(Weight(hundredths as u16))
        } else {
            Err(WeightError(percent))
        }
    }

    /// The share in percent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The share as a fraction of one.
    pub fn as_fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// What is left for the other.
    pub fn rest(self) -> Weight {
        Weight(10_000 - self.0)
    }
}

impl TryFrom<f64> for Weight {
    type Error = WeightError;

    fn try_from(percent: f64) -> Result<Self, WeightError> {
        Weight::percent(percent)
    }
}

impl From<Weight> for f64 {
    fn from(weight: Weight) -> f64 {
        weight.as_percent()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.as_percent())
    }
}

/// How traffic is divided. The stable revision has what the candidate has not, so a split always
/// adds up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Who has the rest.
    pub stable: Revision,
    /// Who is being released, and its share.
    pub candidate: Option<(Revision, Weight)>,
}

impl Split {
    /// All traffic to one revision.
    pub fn all_to(stable: Revision) -> Split {
        Split { stable, candidate: None }
    }

    /// A share for `candidate`, the rest for `stable`.
    pub fn between(stable: Revision, candidate: Revision, weight: Weight) -> Split {
        Split { stable, candidate: Some((candidate, weight)) }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.candidate {
            None => write!(f, "{} 100 %", self.stable),
            Some((candidate, weight)) => {
                write!(f, "{} {}, {candidate} {weight}", self.stable, weight.rest())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_hundredths_of_a_percent() {
        assert_eq!(Weight::percent(0.1).unwrap().as_fraction(), 0.001);
        assert_eq!(Weight::percent(33.33).unwrap().rest(), Weight::percent(66.67).unwrap());
        for wrong in [-1.0, 100.01, 0.001, f64::NAN, f64::INFINITY] {
            assert!(Weight::percent(wrong).is_err(), "{wrong}");
        }
    }
}
