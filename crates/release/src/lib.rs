//! The release engine: how traffic moves from the stable revision to the candidate, and when it
//! moves back.
//!
//! [`decide()`] is pure: strategy, state, evidence and time in, one [`Action`] out. [`drive()`] observes,
//! asks `decide`, and does what it says through the ports in [`ports`]; it makes no choice of its
//! own. No provider is known here, and no time but the [`ports::Clock`]'s.
//!
//! Deliberately absent: how a revision is built or published, and where metrics come from.
#![forbid(unsafe_code)]

mod decide;
mod drive;
mod evidence;
pub mod ports;
mod split;
mod strategy;
pub mod virtual_clock;

pub use decide::{Action, Reason, State, Verdict, decide};
pub use drive::{DriveError, Ended, Event, Release, drive};
pub use evidence::{Counts, Evidence};
pub use split::{Revision, Split, Weight, WeightError};
pub use strategy::{Check, Limit, OnInconclusive, Step, Strategy, StrategyError};
