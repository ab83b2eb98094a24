//! Doing what `decide` says, through the ports.

use std::time::Duration;

use thiserror::Error;

use crate::check::Judgement;
use crate::decide::{Action, Instant, Outcome, Waiting, decide};
use crate::evidence::{Block, Counts, Measure};
use crate::journal::{Began, Entry, FORMAT, Fact, Intent, JournalError, Log, Next};
use crate::lease::{self, Held, Holder, Lease, LeaseError};
use crate::ports::{Clock, Metrics, Observed, PortError, Store, Tag, Target};
use crate::{Revision, Split, State, Strategy};

/// The longest time between two looks at first: a move by others is seen this late.
const LOOK_AT_LEAST: Duration = Duration::from_secs(15);

/// The longest time between two looks, however long a stage lasts.
const LOOK_AT_MOST: Duration = Duration::from_secs(60);

/// How many looks a stage has got before they become rarer.
const LOOKS_A_STEP: u32 = 240;

/// How long before a release the stable revision's requests show what is usual.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// How often in a row something may fail before the release is left as it is: half a minute, which
/// a lease outlasts.
const TRIES: u32 = 6;

/// How often a write that only keeps others out is tried.
const FENCE_TRIES: u32 = 3;

/// What a release works with.
#[derive(Clone, Copy, Debug)]
pub struct World<'a, T, M, S, C> {
    /// Where traffic is divided.
    pub target: &'a T,
    /// What revisions did.
    pub metrics: &'a M,
    /// Where journal and lease are.
    pub store: &'a S,
    /// Time.
    pub clock: &'a C,
    /// Who works.
    pub holder: &'a Holder,
    /// Whether the holder of a lease is known to have died.
    pub is_gone: fn(&Holder) -> bool,
}

/// What to release, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Its name; names sort by time.
    pub name: String,
    /// What is released: provider, place, function and alias, or service.
    pub target: String,
    /// Who is to get the traffic.
    pub candidate: Revision,
    /// How it gets there.
    pub strategy: Strategy,
    /// The slsml that begins it.
    pub slsml: String,
}

/// What happens while a release runs, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something was written down; the state is the one after it.
    Recorded(&'a Entry, &'a State),
    /// Nothing is to be done for a while.
    Waiting {
        /// Where the release stands.
        state: &'a State,
        /// What the checks say.
        judgements: &'a [Judgement],
        /// How long at most.
        left: Duration,
        /// What for.
        why: Waiting,
    },
    /// Something could not be read. Without evidence nothing is promoted; it is tried again.
    LookFailed(&'a PortError),
    /// Something else failed, and is tried again after a while.
    Failed {
        /// What.
        cause: &'a DriveError,
        /// How soon.
        again_in: Duration,
    },
}

/// Why a release stopped where it was.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum DriveError {
    #[error("release {name} of {target} is under way already; {who}")]
    UnderWay { name: String, target: String, who: String },
    #[error("the traffic is divided already ({split}), and no release of slsml did it")]
    Divided { split: Split },
    #[error("revision {candidate} of {target} has all the traffic already")]
    Already { target: String, candidate: Revision },
    #[error("the target does not exist yet, and a strategy with steps needs a stable revision")]
    NoStable,
    #[error("the traffic could not be moved to {to}: {cause}")]
    Stuck { to: Split, cause: PortError },
    #[error("nothing has ever been counted as {metric}, so a check on it would always pass")]
    Unknown { metric: Measure },
    #[error("the metrics cannot be read, so nothing was moved: {0}")]
    NoMetrics(PortError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Where the journal of a release is.
pub fn key(target: &str, release: &str) -> String {
    format!("{target}/{release}.jsonl")
}

/// Begins a release and runs it to its end.
pub async fn begin<T: Target, M: Metrics, S: Store, C: Clock>(
    world: &World<'_, T, M, S, C>,
    release: &Release,
    mut tell: impl FnMut(Event<'_>),
) -> Result<Outcome, DriveError> {
    // What was seen of the lease is what it is taken by: nobody begins anything in between.
    let last = idle(world, &release.target).await?;
    let observed = world.target.observe().await?;
    check_begin(world, release, &observed).await?;
    let before = usual(world, release, &observed).await?;
    let lease = take_lease(world, &release.target, &release.name, last).await?;
    let settle = world.metrics.delay();
    let first = Fact::Began(Box::new(Began {
        format: FORMAT,
        slsml: release.slsml.clone(),
        release: release.name.clone(),
        target: release.target.clone(),
        observed,
        before,
        candidate: release.candidate.clone(),
        strategy: release.strategy.clone(),
        settle,
    }));
    let first = entry(world, first);
    let log = match Log::create(world.store, &key(&release.target, &release.name), first).await {
        Ok(log) => log,
        Err(error) => {
            // One that cannot be given back runs out.
            let _ = lease.give_back().await;
            return Err(error.into());
        }
    };
    tell(Event::Recorded(&log.entries[0], &log.state));
    Driver { world, log, lease, tell: &mut tell }.run().await
}

/// Goes on with a release that was begun, wherever its holder died.
pub async fn resume<T: Target, M: Metrics, S: Store, C: Clock>(
    world: &World<'_, T, M, S, C>,
    target: &str,
    release: &str,
    mut tell: impl FnMut(Event<'_>),
) -> Result<Outcome, DriveError> {
    let last = last(world.store, target).await?;
    if let Some(Last { lease, release: Some(newer), .. }) = &last
        && newer != release
    {
        let (by, release) = (lease.holder.by.clone(), newer.clone());
        return Err(LeaseError::Lost { by, release }.into());
    }
    let lease = take_lease(world, target, release, last).await?;
    let log = Log::open(world.store, &key(target, release)).await?;
    let mut driver = Driver { world, log, lease, tell: &mut tell };
    if driver.log.state.ended.is_none() {
        driver.write(Fact::TakenOver).await?;
    }
    driver.run().await
}

/// What would stop the release later stops it before anything is written.
async fn check_begin<T: Target, M: Metrics, S: Store, C: Clock>(
    world: &World<'_, T, M, S, C>,
    release: &Release,
    observed: &Observed,
) -> Result<(), DriveError> {
    match &observed.split {
        Some(split) if split.candidate.is_some() => {
            return Err(DriveError::Divided { split: split.clone() });
        }
        Some(split) if split.stable == release.candidate => {
            let (target, candidate) = (release.target.clone(), release.candidate.clone());
            return Err(DriveError::Already { target, candidate });
        }
        None if release.strategy.needs_stable() => return Err(DriveError::NoStable),
        _ => {}
    }
    check_metrics(world.metrics, &release.strategy).await
}

/// The lease of a target, and the latest release that has begun under it.
#[derive(Clone, Debug)]
pub struct Last {
    /// The lease.
    pub lease: Lease,
    /// What identifies it.
    pub tag: Tag,
    /// The release: its holder may have died between taking the lease and writing the first line, and
    /// then it is the one before.
    pub release: Option<String>,
    /// Whether that release is under way.
    pub is_under_way: bool,
}

/// What is known of the latest release of a target; none before the first.
pub async fn last<S: Store>(store: &S, target: &str) -> Result<Option<Last>, DriveError> {
    let Some((lease, tag)) = lease::read(store, target).await? else { return Ok(None) };
    let mut last = Last { lease, tag, release: None, is_under_way: false };
    let named = [Some(last.lease.release.clone()), last.lease.before.clone()];
    for release in named.into_iter().flatten() {
        match Log::open(store, &key(target, &release)).await {
            Ok(log) => {
                last.is_under_way = log.state.ended.is_none();
                last.release = Some(release);
                break;
            }
            Err(JournalError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(last))
}

/// The last lease of a target that no release of is under way.
pub async fn idle<T, M, S: Store, C: Clock>(
    world: &World<'_, T, M, S, C>,
    target: &str,
) -> Result<Option<Last>, DriveError> {
    let last = last(world.store, target).await?;
    match last {
        Some(Last { lease, release: Some(name), is_under_way: true, .. }) => {
            let by = &lease.holder.by;
            let who = match lease.is_live(world.clock.now(), world.is_gone) {
                true => format!("{by} works on it"),
                false => format!("nobody works on it since {by} stopped"),
            };
            Err(DriveError::UnderWay { name, target: target.into(), who })
        }
        last => Ok(last),
    }
}

/// Whether everything a strategy checks is counted at all.
pub async fn check_metrics<M: Metrics>(metrics: &M, strategy: &Strategy) -> Result<(), DriveError> {
    for metric in strategy.measures() {
        match metrics.knows(&metric).await {
            Ok(true) => {}
            Ok(false) => return Err(DriveError::Unknown { metric }),
            Err(error) => return Err(DriveError::NoMetrics(error)),
        }
    }
    Ok(())
}

/// What the stable revision did before the release. That this can be read is known before anything
/// moves.
async fn usual<T: Target, M: Metrics, S: Store, C: Clock>(
    world: &World<'_, T, M, S, C>,
    release: &Release,
    observed: &Observed,
) -> Result<Counts, DriveError> {
    let Some(split) = observed.split.as_ref().filter(|_| !release.strategy.checks.is_empty())
    else {
        return Ok(Counts::default());
    };
    let to = floor(world.clock.now(), world.metrics.resolution());
    let from = to.saturating_sub(LOOK_BACK);
    let measures = release.strategy.measures();
    let counted = world.metrics.counts(&split.stable, &measures, from, to).await;
    counted.map_err(DriveError::NoMetrics)
}

/// The release of a target that is under way, if there is one, and who works on it.
pub async fn unfinished<S: Store>(
    store: &S,
    target: &str,
) -> Result<Option<(String, Lease)>, DriveError> {
    Ok(match last(store, target).await? {
        Some(Last { lease, release: Some(name), is_under_way: true, .. }) => Some((name, lease)),
        _ => None,
    })
}

/// Takes the lease as it was seen.
pub async fn take_lease<'a, T, M, S: Store, C: Clock>(
    world: &World<'a, T, M, S, C>,
    target: &str,
    release: &str,
    last: Option<Last>,
) -> Result<Held<'a, S>, LeaseError> {
    let World { store, clock, holder, is_gone, .. } = *world;
    let before = last.as_ref().and_then(|last| last.release.clone());
    let lease = Lease::new(release, before.filter(|before| before != release), holder, clock.now());
    let seen = last.map(|last| (last.lease, last.tag));
    Held::take(store, target, lease, seen, clock.now(), is_gone).await
}

fn entry<T, M, S, C: Clock>(world: &World<'_, T, M, S, C>, fact: Fact) -> Entry {
    Entry::new(world.clock.now(), &world.holder.by, fact)
}

impl DriveError {
    /// Whether it may be otherwise a moment later.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Stuck { .. }
                | Self::Port(_)
                | Self::Lease(LeaseError::Port(_))
                | Self::Journal(JournalError::Port(_))
        )
    }
}

struct Driver<'a, 'w, T, M, S, C, F> {
    world: &'w World<'a, T, M, S, C>,
    log: Log<'a, S>,
    lease: Held<'a, S>,
    tell: &'w mut F,
}

impl<T: Target, M: Metrics, S: Store, C: Clock, F: FnMut(Event<'_>)> Driver<'_, '_, T, M, S, C, F> {
    async fn run(mut self) -> Result<Outcome, DriveError> {
        let result = self.go_on().await;
        // A lease that cannot be given back runs out.
        let _ = self.lease.give_back().await;
        result
    }

    /// Step after step. What fails is tried again a few times: until the answer to a write is known,
    /// reading says whether it was done.
    async fn go_on(&mut self) -> Result<Outcome, DriveError> {
        let mut failed = 0;
        loop {
            match self.step().await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => failed = 0,
                Err(error) if failed + 1 < TRIES && error.may_pass() => {
                    let again_in = Duration::from_secs(1 << failed);
                    failed += 1;
                    (self.tell)(Event::Failed { cause: &error, again_in });
                    self.world.clock.sleep_until(self.world.clock.now() + again_in).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One step; the outcome once there is one.
    async fn step(&mut self) -> Result<Option<Outcome>, DriveError> {
        self.lease.renew(self.world.clock.now()).await?;
        self.refresh().await?;
        if self.log.state.ended.is_none() {
            if let Some(intent) = self.log.state.intended.clone() {
                self.fulfil(&intent).await?;
                return Ok(None);
            }
            if !self.look().await? {
                return Ok(None);
            }
        }
        let now = self.world.clock.now();
        let state = &self.log.state;
        let judgements = state.judgements();
        match decide(&state.strategy, state, &judgements, now) {
            Action::End(outcome) if state.ended.is_some() => return Ok(Some(outcome)),
            Action::End(outcome) => {
                self.write(Fact::Ended { outcome }).await?;
            }
            Action::Probe { requests } => {
                let probed = self.world.target.probe(&state.candidate, requests).await?;
                self.write(Fact::Probed(probed)).await?;
            }
            Action::Go { to: Next::RollBack(reason), split: Some(back) }
                if self.is_deleted(&back.stable).await =>
            {
                self.write(Fact::Ended { outcome: Outcome::Failed(reason) }).await?;
            }
            Action::Go { to, split } => {
                let seen = state.observed.clone();
                let intent = Intent { to, split, seen, judgements };
                self.write(Fact::Intended(Box::new(intent))).await?;
            }
            Action::Wait { until, why } => {
                let left = until.saturating_sub(now);
                (self.tell)(Event::Waiting { state, judgements: &judgements, left, why });
                let look = self.look_every();
                self.world.clock.sleep_until(until.min(now + look)).await;
            }
        }
        Ok(None)
    }

    /// Appends a fact; false if others have written, and what to do has to be decided anew.
    async fn write(&mut self, fact: Fact) -> Result<bool, DriveError> {
        let before = self.log.entries.len();
        let written = self.log.append(entry(self.world, fact)).await?;
        self.tell_since(before);
        Ok(written)
    }

    async fn refresh(&mut self) -> Result<(), DriveError> {
        let before = self.log.entries.len();
        self.log.refresh().await?;
        self.tell_since(before);
        Ok(())
    }

    fn tell_since(&mut self, before: usize) {
        for entry in &self.log.entries[before..] {
            (self.tell)(Event::Recorded(entry, &self.log.state));
        }
    }

    /// Often at first and less often the longer a stage lasts, so that its journal stays readable.
    fn look_every(&self) -> Duration {
        let often = self.world.metrics.resolution().min(LOOK_AT_LEAST);
        let lasted = self.world.clock.now().saturating_sub(self.log.state.stage_began);
        often.max((lasted / LOOKS_A_STEP).min(LOOK_AT_MOST))
    }

    /// Does what was written down, unless it is done already or not wanted any more.
    async fn fulfil(&mut self, intent: &Intent) -> Result<(), DriveError> {
        let Some(split) = &intent.split else { return Ok(()) };
        let stuck = |cause| DriveError::Stuck { to: split.clone(), cause };
        let found = match self.world.target.observe().await {
            Err(PortError::Moved(found)) => return self.foreign(found).await,
            other => other.map_err(stuck)?,
        };
        // The token is older than this look into the journal: whoever takes over and moves traffic
        // later than that makes the write fail.
        let known = self.log.entries.len();
        self.refresh().await?;
        if self.log.entries.len() > known {
            return Ok(());
        }
        if found.split.as_ref() == Some(split) {
            self.write(Fact::Moved { observed: found }).await?;
        } else if found.split != intent.seen.split {
            self.foreign(shown(&found)).await?;
        } else if !self.is_still_wanted(intent) {
            self.fence(&found).await.map_err(stuck)?;
            self.write(Fact::Dropped).await?;
        } else {
            let moved = self.world.target.route(split, found.token.as_ref()).await;
            let observed = moved.map_err(stuck)?;
            self.write(Fact::Moved { observed }).await?;
        }
        Ok(())
    }

    /// Sets the split that is there once more: whoever hangs between looking and moving has a token
    /// that is not good any more.
    async fn fence(&self, found: &Observed) -> Result<(), PortError> {
        let Some(split) = &found.split else { return Ok(()) };
        for _ in 0..FENCE_TRIES {
            match self.world.target.route(split, found.token.as_ref()).await {
                Ok(_) => return Ok(()),
                Err(PortError::Moved(what)) => return Err(PortError::Moved(what)),
                Err(PortError::Failed(_)) => {}
            }
            self.world.clock.sleep_until(self.world.clock.now() + Duration::from_secs(1)).await;
        }
        // Where nothing may be written, nobody who hangs will write.
        Ok(())
    }

    /// Whether the same would be decided now: somebody may want something else, and much time may
    /// have passed since it was written down.
    fn is_still_wanted(&self, intent: &Intent) -> bool {
        let mut state = self.log.state.clone();
        state.intended = None;
        let now = self.world.clock.now();
        match decide(&state.strategy, &state, &state.judgements(), now) {
            Action::Go { to, split } if split == intent.split => match (&to, &intent.to) {
                (Next::RollBack(_), Next::RollBack(_)) => true,
                (to, intended) => to == intended,
            },
            _ => false,
        }
    }

    /// Whether a revision is known to be gone. If that cannot be told, a move will.
    async fn is_deleted(&self, revision: &Revision) -> bool {
        matches!(self.world.target.exists(revision).await, Ok(false))
    }

    async fn foreign(&mut self, found: String) -> Result<(), DriveError> {
        self.write(Fact::Ended { outcome: Outcome::Foreign { found } }).await?;
        Ok(())
    }

    /// Looks at the target and at what was counted; false if what to do has to be decided anew.
    async fn look(&mut self) -> Result<bool, DriveError> {
        match self.observe_twice().await {
            Ok(found) if found.split == self.log.state.observed.split => {}
            Ok(found) => {
                self.foreign(shown(&found)).await?;
                return Ok(false);
            }
            // As when a third revision got a share: no split of ours is like that.
            Err(PortError::Moved(found)) => {
                self.foreign(found).await?;
                return Ok(false);
            }
            Err(error) => self.blind(&error),
        }
        if !self.log.state.is_watched() {
            return Ok(true);
        }
        match self.count().await {
            Ok(None) => {}
            Ok(Some(block)) => {
                self.log.state.blind_since = None;
                return self.write(Fact::Looked { block }).await;
            }
            Err(error) => self.blind(&error),
        }
        Ok(true)
    }

    /// What is there; if it is not what was left there, what is there a moment later: an answer may
    /// be older than the last move.
    async fn observe_twice(&self) -> Result<Observed, PortError> {
        match self.world.target.observe().await {
            Ok(found) if found.split == self.log.state.observed.split => return Ok(found),
            Ok(_) | Err(PortError::Moved(_)) => {}
            Err(error) => return Err(error),
        }
        self.world.clock.sleep_until(self.world.clock.now() + Duration::from_secs(1)).await;
        self.world.target.observe().await
    }

    fn blind(&mut self, error: &PortError) {
        (self.tell)(Event::LookFailed(error));
        self.log.state.blind_since.get_or_insert(self.world.clock.now());
    }

    /// What was counted since traffic is watched, beyond what is written down already. Requests that
    /// were counted late are thus part of a later block.
    async fn count(&self) -> Result<Option<Block>, PortError> {
        let state = &self.log.state;
        let resolution = self.world.metrics.resolution();
        let to = floor(self.world.clock.now(), resolution);
        if to + 2 * resolution < state.looked_until {
            let behind = (state.looked_until - to).as_secs();
            let why = format!("this machine's clock is {behind} s behind the journal");
            return Err(PortError::Failed(why.into()));
        }
        let Some(since) = state.watched_since.filter(|_| to > state.looked_until) else {
            return Ok(None);
        };
        let measures = state.strategy.measures();
        let count = |revision| self.world.metrics.counts(revision, &measures, since, to);
        let (known_stable, known_candidate) = &state.counted;
        let candidate = beyond(count(&state.candidate).await?, known_candidate);
        let stable = match &state.stable {
            Some(stable) if state.weight() < crate::Weight::ALL => {
                beyond(count(stable).await?, known_stable)
            }
            _ => Counts::default(),
        };
        Ok(Some(Block { from: state.looked_until, to, stable, candidate }))
    }
}

fn shown(found: &Observed) -> String {
    found.split.as_ref().map_or("gone".into(), Split::to_string)
}

fn floor(time: Instant, step: Duration) -> Instant {
    let step = step.as_millis().max(1);
    Duration::from_millis(u64::try_from(time.as_millis() / step * step).unwrap_or(u64::MAX))
}

/// What is in `all` and not in `known`. Events whose requests are not counted yet wait for them.
fn beyond(all: Counts, known: &Counts) -> Counts {
    let requests = all.requests.saturating_sub(known.requests);
    let events = all.events.into_iter().map(|(measure, events)| {
        let more = events.saturating_sub(known.events.get(&measure).copied().unwrap_or(0));
        let more = if measure == Measure::Throttles { more } else { more.min(requests) };
        (measure, more)
    });
    let outputs = all.outputs.iter().enumerate();
    let outputs =
        outputs.map(|(at, n)| n.saturating_sub(known.outputs.get(at).copied().unwrap_or(0)));
    Counts { requests, events: events.collect(), outputs: outputs.collect(), latency: all.latency }
}
