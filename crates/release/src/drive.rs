//! Doing what `decide` says, through the ports.

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::ports::{Clock, Metrics, Observed, PortError, Target};
use crate::{Action, Evidence, Reason, Revision, Split, State, Strategy, decide};

/// The longest time between two looks while a step bakes: a move by others is seen this late.
const LOOK_AT_LEAST: Duration = Duration::from_secs(15);

/// How long a release goes on without being able to look before it tries to put the traffic back.
const BLIND_LIMIT: Duration = Duration::from_secs(300);

/// What to release, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Who is to get the traffic.
    pub candidate: Revision,
    /// How it gets there.
    pub strategy: Strategy,
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The candidate had all traffic already; nothing was written.
    Unchanged,
    /// The candidate has all traffic.
    Promoted,
    /// The stable revision has all traffic again.
    RolledBack(Reason),
}

/// What happens while a release runs, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Traffic is about to move.
    Moving {
        /// The new split.
        split: Split,
    },
    /// Traffic has moved.
    Moved {
        /// The split in force.
        split: Split,
    },
    /// Evidence was read.
    Looked {
        /// What was counted since the step began.
        evidence: Evidence,
        /// How long the step still bakes or is held.
        left: Duration,
        /// Whether the bake is over and evidence is missing.
        held: bool,
    },
    /// Something could not be read. Without evidence nothing is promoted; it is tried again.
    LookFailed {
        /// What went wrong.
        cause: String,
    },
}

/// Why a release stopped where it was.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum DriveError {
    #[error("{0}")]
    Moved(String),
    #[error("the traffic is at {split} and nobody watches it: {cause}")]
    Abandoned { split: Split, cause: PortError },
    #[error("a release is under way already: {split}")]
    UnderWay { split: Split },
    #[error("the target does not exist yet, and a strategy with steps needs a stable revision")]
    NoStable,
    #[error(transparent)]
    Failed(PortError),
}

impl From<PortError> for DriveError {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Moved(what) => Self::Moved(what),
            failed => Self::Failed(failed),
        }
    }
}

/// Runs a release to its end.
pub async fn drive(
    release: &Release,
    target: &impl Target,
    metrics: &impl Metrics,
    clock: &impl Clock,
    mut tell: impl FnMut(Event),
) -> Result<Ended, DriveError> {
    let mut seen = target.observe().await?;
    let mut state = begin(release, &seen, clock.now())?;
    let look_every = metrics.resolution().min(LOOK_AT_LEAST);
    let mut moved = false;
    let mut blind = Blind::default();
    loop {
        let now = clock.now();
        let looked = gather(&state, metrics, now).await;
        let evidence = *looked.as_ref().unwrap_or(&Evidence::default());
        blind.note(&looked, now, &mut tell);
        match decide(&release.strategy, &state, &evidence, now) {
            Action::Done if moved => return Ok(Ended::Promoted),
            Action::Done => return Ok(Ended::Unchanged),
            Action::Wait { until, held } => {
                if looked.is_ok() {
                    tell(Event::Looked { evidence, left: until.saturating_sub(now), held });
                }
                if let (true, Some(stable), Some(check)) =
                    (blind.too_long(now), &state.stable, release.strategy.checks.first())
                {
                    route(&Split::all_to(stable.clone()), &mut seen, target, &mut tell).await?;
                    let reason = Reason::Inconclusive { check: *check, evidence };
                    return Ok(Ended::RolledBack(reason));
                }
                clock.sleep_until(until.min(now + look_every)).await;
                // Writes carry what was seen, so going on without a look overwrites nobody.
                match target.observe().await {
                    Ok(found) => still_ours(&seen, found)?,
                    Err(PortError::Moved(what)) => return Err(DriveError::Moved(what)),
                    Err(failed) => tell(Event::LookFailed { cause: failed.to_string() }),
                }
            }
            Action::RollBack { split, reason } => {
                route(&split, &mut seen, target, &mut tell).await?;
                return Ok(Ended::RolledBack(reason));
            }
            Action::Shift { split, .. } | Action::Promote { split } => {
                route(&split, &mut seen, target, &mut tell).await?;
                moved = true;
                state.split = seen.split.clone();
                state.step_began = clock.now();
            }
        }
    }
}

/// Since when no look has succeeded.
#[derive(Debug, Default)]
struct Blind {
    since: Option<Duration>,
}

impl Blind {
    fn note(
        &mut self,
        looked: &Result<Evidence, PortError>,
        now: Duration,
        tell: &mut impl FnMut(Event),
    ) {
        match looked {
            Ok(_) => self.since = None,
            Err(cause) => {
                self.since.get_or_insert(now);
                tell(Event::LookFailed { cause: cause.to_string() });
            }
        }
    }

    fn too_long(&self, now: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_sub(since) >= BLIND_LIMIT)
    }
}

/// The state before the first step.
fn begin(release: &Release, seen: &Observed, now: Duration) -> Result<State, DriveError> {
    match &seen.split {
        Some(split) if split.candidate.is_some() => {
            return Err(DriveError::UnderWay { split: split.clone() });
        }
        None if release.strategy.needs_stable() => return Err(DriveError::NoStable),
        _ => {}
    }
    Ok(State {
        stable: seen.split.as_ref().map(|split| split.stable.clone()),
        candidate: release.candidate.clone(),
        split: seen.split.clone(),
        step_began: now,
    })
}

/// Counts of both revisions since the step began; nothing while the candidate has no traffic.
async fn gather(
    state: &State,
    metrics: &impl Metrics,
    now: Duration,
) -> Result<Evidence, PortError> {
    let (Some(stable), Some(split)) = (&state.stable, &state.split) else {
        return Ok(Evidence::default());
    };
    let Some((candidate, _)) = &split.candidate else { return Ok(Evidence::default()) };
    Ok(Evidence {
        stable: metrics.counts(stable, state.step_began, now).await?,
        candidate: metrics.counts(candidate, state.step_began, now).await?,
    })
}

fn still_ours(seen: &Observed, now: Observed) -> Result<(), DriveError> {
    if now == *seen {
        return Ok(());
    }
    let split = now.split.map_or_else(|| "gone".into(), |split| split.to_string());
    Err(DriveError::Moved(format!("somebody else moved the traffic; it is now {split}")))
}

async fn route(
    split: &Split,
    seen: &mut Observed,
    target: &impl Target,
    tell: &mut impl FnMut(Event),
) -> Result<(), DriveError> {
    tell(Event::Moving { split: split.clone() });
    match target.route(split, seen.token.as_ref()).await {
        Ok(found) => *seen = found,
        Err(cause @ PortError::Failed(_)) => {
            return Err(match seen.split.take().filter(|split| split.candidate.is_some()) {
                Some(split) => DriveError::Abandoned { split, cause },
                None => DriveError::Failed(cause),
            });
        }
        Err(moved) => return Err(moved.into()),
    }
    tell(Event::Moved { split: split.clone() });
    Ok(())
}
