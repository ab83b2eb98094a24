//! What must hold of a candidate, and what the evidence says of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::evidence::{Block, Counts, Measure, OUTPUTS, UnknownMeasure};
use crate::sequential::{Bound, Evidence, Share, interval};

/// A condition on the candidate's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is counted.
    pub metric: Measure,
    /// What the candidate's share is held against.
    pub against: Against,
    /// With fewer requests than this in a step, it says nothing good.
    pub min_requests: u64,
}

/// What the candidate's share of requests is held against. For `outputs` it is the share of each
/// class or range, which may be neither above nor below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The stable revision's over the same time, and this much more.
    Stable {
        /// How much more, from 0 to 1.
        tolerance: f64,
    },
    /// This share, from 0 to 1.
    Limit(f64),
}

/// What a check says of the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It is broken.
    Fail,
    /// Too little is known.
    Inconclusive,
}

/// A check and all that is known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// What was checked.
    pub check: Check,
    /// What the evidence says.
    pub verdict: Verdict,
    /// The candidate's share since the step began, of the worst class or range for `outputs`.
    pub candidate: Rate,
    /// The stable revision's over the same time; none where it had no requests to compare with.
    pub stable: Option<Rate>,
    /// Which class or range of the outputs is meant, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<usize>,
    /// How many times likelier it is than chance allows that the check is broken; at 1/α of this
    /// check it fails.
    pub fault: f64,
    /// The same for its being kept; at 1/α of the release it passes.
    pub health: f64,
}

/// A share of requests and the rates it does not contradict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How many, of how many.
    #[serde(flatten)]
    pub share: Share,
    /// The lowest rate at level α.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Rate {
    fn of(share: Share, alpha: f64) -> Rate {
        let (low, high) = interval(share, alpha);
        Rate { share, low, high }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.against {
            Against::Stable { tolerance } => {
                write!(f, "{} at most stable + {} %", self.metric, percent(tolerance))
            }
            Against::Limit(limit) => write!(f, "{} at most {} %", self.metric, percent(limit)),
        }
    }
}

/// A check as it is written in settings, without its minimum sample: `errors <= stable + 0.01`,
/// `slower_than_250ms <= 0.05`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What is counted.
    pub metric: Measure,
    /// What the candidate's share is held against.
    pub against: Against,
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs)]
pub enum RuleError {
    #[error(transparent)]
    Metric(#[from] UnknownMeasure),
    #[error("`{0}` is no check: write METRIC <= stable + 0.01, or METRIC <= 0.05")]
    Form(String),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let form = || RuleError::Form(text.into());
        let (metric, bound) = text.split_once("<=").ok_or_else(form)?;
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| form());
        let against = match bound.trim().strip_prefix("stable") {
            None => Against::Limit(number(bound)?),
            Some("") => Against::Stable { tolerance: 0.0 },
            Some(more) => {
                let tolerance = more.trim().strip_prefix('+').ok_or_else(form)?;
                Against::Stable { tolerance: number(tolerance)? }
            }
        };
        Ok(Rule { metric: metric.trim().parse()?, against })
    }
}

/// A share in percent, with as many digits as it has.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// The evidence on one check, gathered block by block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judge {
    check: Check,
    /// One for a share of requests; for outputs two for each class, more and less.
    evidence: Vec<Evidence>,
    /// The most evidence of a fault there ever was, as a logarithm: what has failed stays failed.
    worst: f64,
    /// Since the step began.
    candidate: Counts,
    stable: Counts,
}

/// The levels of a release: how often it may be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Levels {
    /// The probability that a release is ever aborted though every check holds.
    pub(crate) alpha: f64,
    /// How many checks share it.
    pub(crate) checks: usize,
}

impl Judge {
    /// None yet, in a release that watches so many stages. `before` is what the stable revision did
    /// before it.
    pub(crate) fn new(check: &Check, stages: usize, before: &Counts) -> Judge {
        let evidence = match check.metric {
            // How many are used is not known beforehand, and what is bet on must be.
            Measure::Outputs => (0..OUTPUTS)
                .map(|bin| before.output(bin.into()))
                .flat_map(|share| [share, share.complement()])
                .map(|usual| Evidence::new(bound(check), stages).knowing(usual))
                .collect(),
            _ => vec![Evidence::new(bound(check), stages).knowing(before.share(&check.metric))],
        };
        Judge {
            check: check.clone(),
            evidence,
            worst: f64::NEG_INFINITY,
            candidate: Counts::default(),
            stable: Counts::default(),
        }
    }

    pub(crate) fn begin_stage(&mut self) {
        self.evidence.iter_mut().for_each(Evidence::begin_stage);
        (self.candidate, self.stable) = Default::default();
    }

    pub(crate) fn add(&mut self, block: &Block) {
        let (candidate, stable) = (&block.candidate, &block.stable);
        if self.check.metric == Measure::Outputs {
            for (bin, pair) in self.evidence.chunks_exact_mut(2).enumerate() {
                let (candidate, stable) = (candidate.output(bin), stable.output(bin));
                pair[0].add(candidate, stable);
                pair[1].add(candidate.complement(), stable.complement());
            }
        } else {
            let metric = &self.check.metric;
            for evidence in &mut self.evidence {
                evidence.add(candidate.share(metric), stable.share(metric));
            }
        }
        self.candidate = std::mem::take(&mut self.candidate).plus(candidate);
        self.stable = std::mem::take(&mut self.stable).plus(stable);
        self.worst = self.worst.max(crate::sequential::ln_mean_exp(&self.faults()));
    }

    fn faults(&self) -> Vec<f64> {
        self.evidence.iter().map(Evidence::ln_fault).collect()
    }

    pub(crate) fn judge(&self, levels: Levels) -> Judgement {
        let Levels { alpha, checks } = levels;
        // Any class that moves is a fault: the mean of the evidence on each is evidence on all.
        let faults = self.faults();
        let fault = self.worst.max(crate::sequential::ln_mean_exp(&faults));
        // All is well when each class is, so the least evidence counts.
        let health = self.evidence.iter().map(Evidence::ln_health).fold(f64::INFINITY, f64::min);
        let output = (self.check.metric == Measure::Outputs).then(|| {
            let worst = (0..faults.len()).max_by(|&a, &b| faults[a].total_cmp(&faults[b]));
            worst.unwrap_or(0) / 2
        });
        let share = |counts: &Counts| match (&self.check.metric, output) {
            (Measure::Outputs, bin) => counts.output(bin.unwrap_or(0)),
            (metric, _) => counts.share(metric),
        };
        let (candidate, stable) = (share(&self.candidate), share(&self.stable));
        let enough = candidate.trials >= self.check.min_requests.max(1);
        let verdict = if fault >= (checks as f64 / alpha).ln() {
            Verdict::Fail
        } else if enough && health >= (1.0 / alpha).ln() {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        };
        Judgement {
            check: self.check.clone(),
            verdict,
            candidate: Rate::of(candidate, alpha),
            stable: (stable.trials > 0).then(|| Rate::of(stable, alpha)),
            output,
            // JSON has no infinities.
            fault: fault.min(700.0).exp(),
            health: health.min(700.0).exp(),
        }
    }
}

fn bound(check: &Check) -> Bound {
    match check.against {
        Against::Stable { tolerance } => Bound::AboveStable(tolerance),
        Against::Limit(limit) => Bound::Fixed(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let stable = |tolerance| Against::Stable { tolerance };
        let table = [
            ("errors <= stable + 0.01", Measure::Errors, stable(0.01)),
            ("errors<=stable", Measure::Errors, stable(0.0)),
            (
                "slower_than_250ms <= 0.05",
                Measure::SlowerThan(std::time::Duration::from_millis(250)),
                Against::Limit(0.05),
            ),
            ("custom:fallbacks <= stable+0.1", Measure::Custom("fallbacks".into()), stable(0.1)),
            ("outputs <= stable + 0.05", Measure::Outputs, stable(0.05)),
        ];
        for (text, metric, against) in table {
            assert_eq!(text.parse::<Rule>(), Ok(Rule { metric, against }), "{text}");
        }
        for wrong in
            ["", "errors", "errors <= ", "errors < 1", "errors <= stable - 1", "errors <= x"]
        {
            assert!(matches!(wrong.parse::<Rule>(), Err(RuleError::Form(_))), "{wrong}");
        }
        for unknown in
            ["cpu <= 0.1", "custom: <= 0.1", "slower_than_0ms <= 0.1", "slower_than_x <= 0.1"]
        {
            assert!(matches!(unknown.parse::<Rule>(), Err(RuleError::Metric(_))), "{unknown}");
        }
    }
}
