//! Strategies as data: the steps of weight and bake a release takes, and what it checks.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Weight;

/// How a release moves traffic. All-at-once is a strategy without steps; what follows the last
/// step is always the promotion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// The steps before promotion, in order.
    pub steps: Vec<Step>,
    /// What must hold during every step.
    pub checks: Vec<Check>,
    /// What to do at a step's end while a check has not enough evidence.
    pub on_inconclusive: OnInconclusive,
    /// How long a step may be held beyond its bake time before the release is aborted.
    pub hold: Duration,
}

/// A share of traffic and how long to watch it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The candidate's share.
    pub weight: Weight,
    /// How long to watch before the next step.
    pub bake: Duration,
}

/// A condition on the candidate's requests within one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is bounded.
    pub limit: Limit,
    /// Fewer requests than this say nothing.
    pub min_requests: u64,
}

/// What a check bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The candidate's failed requests, as a share of its requests, 0 to 1.
    ErrorRate(f64),
}

/// What to do when a step's time is over and the evidence is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// Keep the split until the deadline, then abort.
    Hold,
    /// Put all traffic back.
    Abort,
}

/// Why a strategy makes no sense.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs)]
pub enum StrategyError {
    #[error("step {step} has weight {weight}; a step's share lies between 0 and 100 %")]
    Weight { step: usize, weight: Weight },
    #[error("step {step} goes down to {weight}; each step must have more than the one before")]
    Decreasing { step: usize, weight: Weight },
    #[error("the error rate {0} is not a share from 0 to 1")]
    Rate(f64),
    #[error("a minimum sample of 0 requests would promote without evidence")]
    NoSample,
    #[error("a canary without steps would move all traffic at once")]
    NoSteps,
    #[error("a strategy with steps needs a check, or it would promote without evidence")]
    NoCheck,
}

impl Strategy {
    /// All traffic to the candidate in one move.
    pub fn all_at_once() -> Strategy {
        Strategy {
            steps: Vec::new(),
            checks: Vec::new(),
            on_inconclusive: OnInconclusive::Hold,
            hold: Duration::ZERO,
        }
    }

    /// Steps of weight and bake, each watched by the checks.
    pub fn canary(
        steps: Vec<Step>,
        checks: Vec<Check>,
        hold: Duration,
    ) -> Result<Strategy, StrategyError> {
        let strategy = Strategy { steps, checks, on_inconclusive: OnInconclusive::Hold, hold };
        if strategy.steps.is_empty() {
            return Err(StrategyError::NoSteps);
        }
        strategy.validate()?;
        Ok(strategy)
    }

    /// Whether it makes sense.
    pub fn validate(&self) -> Result<(), StrategyError> {
        let mut before = Weight::NONE;
        for (at, &Step { weight, .. }) in self.steps.iter().enumerate() {
            if weight == Weight::NONE || weight == Weight::ALL {
                return Err(StrategyError::Weight { step: at + 1, weight });
            }
            if weight <= before {
                return Err(StrategyError::Decreasing { step: at + 1, weight });
            }
            before = weight;
        }
        if !self.steps.is_empty() && self.checks.is_empty() {
            return Err(StrategyError::NoCheck);
        }
        for check in &self.checks {
            let Limit::ErrorRate(rate) = check.limit;
            if !(0.0..=1.0).contains(&rate) {
                return Err(StrategyError::Rate(rate));
            }
            if check.min_requests == 0 {
                return Err(StrategyError::NoSample);
            }
        }
        Ok(())
    }

    /// Whether it compares the candidate with a stable revision beside it.
    pub fn needs_stable(&self) -> bool {
        !self.steps.is_empty()
    }
}
