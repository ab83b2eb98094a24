//! The release engine: how traffic moves from the stable revision to the candidate, and when it
//! moves back.
//!
//! [`decide()`] is pure: strategy, state, what the checks say and time in, one [`Action`] out.
//! [`begin()`] and [`resume()`] observe, count, ask `decide`, write down what it says in a
//! [`journal`] and do it, through the ports in [`ports`]; they make no choice of their own.
//! [`unfold()`] shows beforehand what they would do. No provider is known here, and no time but the
//! [`ports::Clock`]'s.
//!
//! Deliberately absent: how a revision is built or published, and where metrics come from.
#![forbid(unsafe_code)]

mod check;
mod decide;
mod drive;
mod evidence;
pub mod journal;
pub mod lease;
pub mod memory;
mod millis;
mod plan;
pub mod ports;
pub mod sequential;
mod split;
mod state;
mod strategy;
pub mod virtual_clock;

pub use check::{Against, Check, Judgement, Rate, Rule, RuleError, Verdict};
pub use decide::{Action, BLIND_LIMIT, Instant, Outcome, Reason, Waiting, decide};
pub use drive::{
    DriveError, Event, Last, Release, World, begin, check_metrics, idle, key, last, resume,
    take_lease, unfinished,
};
pub use evidence::{Block, Counts, Latency, Measure, OUTPUTS, UnknownMeasure};
pub use plan::{Need, Planned, requests_to_pass, unfold};
pub use split::{Revision, Split, Weight, WeightError};
pub use state::State;
pub use strategy::{OnInconclusive, Stage, Strategy, StrategyError, StrategyName};
