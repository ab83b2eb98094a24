//! Strategies as data: the stages a release goes through, and what it checks in them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::check::{Against, Check};
use crate::evidence::Measure;
use crate::{Weight, millis};

/// How a release moves traffic: the stages in order. The last one always gives the candidate all
/// traffic; when it is over, the candidate is promoted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// What it is called.
    pub name: StrategyName,
    /// What it goes through, in order.
    pub stages: Vec<Stage>,
    /// What must hold in every stage that is watched.
    pub checks: Vec<Check>,
    /// The probability that the release is ever aborted though every check holds, split over the
    /// checks; and of each check, that it passes though it does not hold.
    pub alpha: f64,
    /// What to do at a stage's end while a check has not enough evidence.
    pub on_inconclusive: OnInconclusive,
    /// How long a stage may be held beyond its time before the release is aborted.
    #[serde(with = "millis", rename = "hold_ms")]
    pub hold: Duration,
    /// How long the whole release may take before it is aborted.
    #[serde(with = "millis", rename = "deadline_ms")]
    pub deadline: Duration,
}

/// The name of a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyName {
    /// All traffic in one move, after the candidate has answered requests of our own.
    AllAtOnce,
    /// The same, and the old revision stays ready while the candidate is watched.
    BlueGreen,
    /// Steps of weight, each watched.
    Canary,
    /// Equal steps in equal intervals.
    Linear,
}

/// One stage of a release.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Stage {
    /// Requests of our own to the candidate's own address. All must be answered.
    WarmUp {
        /// How many.
        requests: u32,
    },
    /// A share of traffic for the candidate, watched for a time.
    Watch {
        /// The candidate's share.
        #[serde(rename = "percent")]
        weight: Weight,
        /// How long to watch it.
        #[serde(with = "millis", rename = "bake_ms")]
        bake: Duration,
    },
    /// The shares stay as they are, watched on, until a person says go on.
    Pause,
}

/// What to do when a stage's time is over and the evidence is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// Keep the split until the hold is over, then abort.
    Hold,
    /// Put all traffic back.
    Abort,
    /// Go on without evidence. Somebody has to ask for this.
    Promote,
}

/// Why a strategy makes no sense.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs)]
pub enum StrategyError {
    #[error("step {step} has weight {weight}; a step's share lies above 0 and at most at 100 %")]
    Weight { step: usize, weight: Weight },
    #[error("step {step} goes to {weight} only; each step must have more than the one before")]
    Decreasing { step: usize, weight: Weight },
    #[error(
        "step {step} has no time to be watched in, and nobody is waited for: nothing could stop it"
    )]
    Unwatched { step: usize },
    #[error("{what} is {value}; it must lie {range}")]
    Number { what: String, value: f64, range: &'static str },
    #[error(
        "nothing can show that {metric} are not above stable at all: say by how much they may be, as in {metric} <= stable + 0.005"
    )]
    NoTolerance { metric: Measure },
    #[error("a minimum sample of 0 requests would promote without evidence")]
    NoSample,
    #[error("a {0} without steps would move all traffic at once")]
    NoSteps(StrategyName),
    #[error("a {0} needs a check, or it would promote without evidence")]
    NoCheck(StrategyName),
    #[error(
        "step {step} bakes for {bake:?}, but metrics arrive up to {delay:?} late: nothing of it would be seen in time"
    )]
    BakeBelowDelay { step: usize, bake: Duration, delay: Duration },
    #[error("the steps alone take {stages:?}, longer than the release's deadline of {deadline:?}")]
    Deadline { stages: Duration, deadline: Duration },
    #[error(
        "while the candidate has all traffic there is no stable revision to compare with: a {0} that is watched then needs a check against a limit"
    )]
    NoLimit(StrategyName),
    #[error("a pause before any traffic has moved comes too early: put it after a step")]
    EarlyPause,
}

impl Strategy {
    /// All traffic to the candidate in one move, after so many requests of our own.
    pub fn all_at_once(warm_up: u32) -> Strategy {
        Strategy {
            name: StrategyName::AllAtOnce,
            stages: vec![Stage::WarmUp { requests: warm_up }, Stage::at_once(Duration::ZERO)],
            checks: Vec::new(),
            alpha: 0.05,
            on_inconclusive: OnInconclusive::Hold,
            hold: Duration::ZERO,
            deadline: Duration::from_secs(24 * 3600),
        }
    }

    /// Whether it makes sense.
    pub fn validate(&self) -> Result<(), StrategyError> {
        self.validate_stages()?;
        self.validate_checks()
    }

    fn validate_stages(&self) -> Result<(), StrategyError> {
        let mut before = Weight::NONE;
        for (at, stage) in self.stages.iter().enumerate() {
            match *stage {
                Stage::WarmUp { .. } => {}
                Stage::Pause if before == Weight::NONE => return Err(StrategyError::EarlyPause),
                Stage::Pause => {}
                Stage::Watch { weight, bake } => {
                    let waits = matches!(self.stages.get(at + 1), Some(Stage::Pause));
                    if bake.is_zero() && weight != Weight::ALL && !waits {
                        return Err(StrategyError::Unwatched { step: self.step(at) });
                    }
                    if weight == Weight::NONE || weight == Weight::ALL && !self.is_last_step(at) {
                        return Err(StrategyError::Weight { step: self.step(at), weight });
                    }
                    if weight <= before {
                        return Err(StrategyError::Decreasing { step: self.step(at), weight });
                    }
                    before = weight;
                }
            }
        }
        if before != Weight::ALL {
            return Err(StrategyError::NoSteps(self.name));
        }
        let stages: Duration = self.stages.iter().map(|stage| stage.lasts()).sum();
        if stages > self.deadline {
            return Err(StrategyError::Deadline { stages, deadline: self.deadline });
        }
        Ok(())
    }

    fn validate_checks(&self) -> Result<(), StrategyError> {
        let number = |what: &dyn fmt::Display, value: f64, ok: bool, range| match ok {
            true => Ok(()),
            false => Err(StrategyError::Number { what: what.to_string(), value, range }),
        };
        number(&"alpha", self.alpha, self.alpha > 0.0 && self.alpha <= 0.5, "above 0, up to 0.5")?;
        for check in &self.checks {
            let metric = &check.metric;
            match check.against {
                Against::Stable { tolerance } => {
                    let what = format!("the tolerance of {metric}");
                    number(&what, tolerance, (0.0..1.0).contains(&tolerance), "from 0 to below 1")?;
                    if tolerance == 0.0 && self.on_inconclusive != OnInconclusive::Promote {
                        return Err(StrategyError::NoTolerance { metric: metric.clone() });
                    }
                }
                Against::Limit(limit) => {
                    let what = format!("the limit of {metric}");
                    let fits = limit > 0.0 && limit < 1.0 && *metric != Measure::Outputs;
                    number(&what, limit, fits, "between 0 and 1, and outputs have none")?;
                }
            }
            if check.min_requests == 0 {
                return Err(StrategyError::NoSample);
            }
        }
        let watched = |stage: &Stage| match *stage {
            Stage::Watch { weight, bake } => weight != Weight::ALL || bake > Duration::ZERO,
            Stage::WarmUp { .. } | Stage::Pause => false,
        };
        if self.checks.is_empty() && self.stages.iter().any(watched) {
            return Err(StrategyError::NoCheck(self.name));
        }
        let kept = self.stages.iter().any(
            |stage| matches!(*stage, Stage::Watch { weight: Weight::ALL, bake } if bake > Duration::ZERO),
        );
        if kept && !self.checks.iter().any(|check| check.applies_at(Weight::ALL)) {
            return Err(StrategyError::NoLimit(self.name));
        }
        Ok(())
    }

    /// Whether every step is long enough for metrics that come so late.
    pub fn validate_delay(&self, delay: Duration) -> Result<(), StrategyError> {
        for (at, stage) in self.stages.iter().enumerate() {
            if let Stage::Watch { bake, .. } = *stage
                && bake > Duration::ZERO
                && bake < delay
            {
                return Err(StrategyError::BakeBelowDelay { step: self.step(at), bake, delay });
            }
        }
        Ok(())
    }

    /// Whether nothing is watched after a stage: what is counted late has to be waited for.
    pub(crate) fn is_last_watched(&self, at: usize) -> bool {
        !self.stages.iter().skip(at + 1).any(|stage| stage.lasts() > Duration::ZERO)
    }

    fn is_last_step(&self, at: usize) -> bool {
        !self.stages[at + 1..].iter().any(|stage| matches!(stage, Stage::Watch { .. }))
    }

    /// Which step a stage is, counted from 1.
    pub fn step(&self, stage: usize) -> usize {
        let steps = self.stages.iter().take(stage + 1);
        steps.filter(|stage| matches!(stage, Stage::Watch { .. })).count().max(1)
    }

    /// The candidate's share during a stage: its own, or that of the last one before it.
    pub fn weight(&self, stage: usize) -> Weight {
        let before = self.stages.iter().take(stage + 1).rev();
        let mut weights = before.filter_map(|stage| match stage {
            Stage::Watch { weight, .. } => Some(*weight),
            Stage::WarmUp { .. } | Stage::Pause => None,
        });
        weights.next().unwrap_or(Weight::NONE)
    }

    /// What is to be counted.
    pub fn measures(&self) -> Vec<Measure> {
        let mut all: Vec<Measure> = self.checks.iter().map(|check| check.metric.clone()).collect();
        // What every report shows.
        all.push(Measure::Errors);
        all.sort();
        all.dedup();
        all
    }

    /// How many stages a check is watched in.
    pub(crate) fn stages_of(&self, check: &Check) -> usize {
        let all = self.stages.iter().enumerate();
        all.filter(|(at, stage)| stage.is_watched() && check.applies_at(self.weight(*at))).count()
    }

    /// Whether it can run with no revision in service: nothing is compared with one.
    pub fn needs_stable(&self) -> bool {
        self.stages
            .iter()
            .any(|stage| matches!(stage, Stage::Watch { weight, .. } if *weight != Weight::ALL))
    }
}

impl Stage {
    /// All traffic, watched for this long.
    pub fn at_once(keep: Duration) -> Stage {
        Stage::Watch { weight: Weight::ALL, bake: keep }
    }

    pub(crate) fn is_watched(&self) -> bool {
        matches!(self, Stage::Watch { .. } | Stage::Pause)
    }

    /// How long it takes at least.
    pub fn lasts(&self) -> Duration {
        match self {
            Stage::Watch { bake, .. } => *bake,
            Stage::WarmUp { .. } | Stage::Pause => Duration::ZERO,
        }
    }
}

impl Check {
    /// Whether it can say something while the candidate has this share: what is compared with the
    /// stable revision needs requests of both.
    pub fn applies_at(&self, weight: Weight) -> bool {
        weight > Weight::NONE && (weight < Weight::ALL || matches!(self.against, Against::Limit(_)))
    }
}

impl fmt::Display for StrategyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllAtOnce => "all-at-once release",
            Self::BlueGreen => "blue-green release",
            Self::Canary => "canary",
            Self::Linear => "linear release",
        })
    }
}
