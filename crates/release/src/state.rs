//! Where a release stands: what its journal adds up to.

use std::time::Duration;

use crate::check::{Judge, Judgement, Levels};
use crate::decide::Outcome;
use crate::evidence::Counts;
use crate::journal::{Ask, Began, Entry, Fact, Intent, Next, Probed};
use crate::ports::Observed;
use crate::{Instant, Revision, Split, Stage, Strategy, Weight};

/// Where a release stands.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The release's name.
    pub release: String,
    /// What is released.
    pub target: String,
    /// Who began it.
    pub by: String,
    /// When it began.
    pub began: Instant,
    /// How traffic moves.
    pub strategy: Strategy,
    /// Who served before; none at a first release.
    pub stable: Option<Revision>,
    /// Who is being released.
    pub candidate: Revision,
    /// The target as this release last left it or found it.
    pub observed: Observed,
    /// The stage in force, counted from 0; none before the first.
    pub stage: Option<usize>,
    /// When it began.
    pub stage_began: Instant,
    /// When a person last said go on after a pause.
    pub resumed_at: Instant,
    /// How late a request may be counted.
    pub settle: Duration,
    /// Since when requests are counted: the first stage that is watched.
    pub watched_since: Option<Instant>,
    /// What became of the requests of our own in this stage.
    pub probed: Option<Probed>,
    /// A move that was begun and is not known to be done.
    pub intended: Option<Intent>,
    /// Up to when requests were counted.
    pub looked_until: Instant,
    /// Counts from `watched_since` until then: stable and candidate.
    pub counted: (Counts, Counts),
    /// Since when nothing could be read. It is no part of the journal.
    pub blind_since: Option<Instant>,
    /// Whether a person wants it to stay in its stage.
    pub paused: bool,
    /// Whether a person said go on in this stage.
    pub resumed: bool,
    /// A person's wish to end it, and whose.
    pub wish: Option<(Ask, String)>,
    /// How it ended.
    pub ended: Option<Outcome>,
    /// Whether traffic was put back after its end.
    pub rolled_back_later: bool,
    judges: Vec<Judge>,
}

impl State {
    /// Before its first stage.
    pub fn begin(began: &Began, by: &str, at: Instant) -> State {
        let strategy = began.strategy.clone();
        let judges = strategy.checks.iter();
        let judge = |check| Judge::new(check, strategy.stages_of(check), &began.before);
        let judges = judges.map(judge).collect();
        State {
            release: began.release.clone(),
            target: began.target.clone(),
            by: by.into(),
            began: at,
            stable: began.observed.split.as_ref().map(|split| split.stable.clone()),
            candidate: began.candidate.clone(),
            observed: began.observed.clone(),
            stage: None,
            stage_began: at,
            resumed_at: at,
            settle: began.settle,
            watched_since: None,
            probed: None,
            intended: None,
            looked_until: at,
            counted: Default::default(),
            blind_since: None,
            paused: false,
            resumed: false,
            wish: None,
            ended: None,
            rolled_back_later: false,
            judges,
            strategy,
        }
    }

    /// What one more line of the journal changes.
    pub fn apply(&mut self, entry: &Entry) {
        match &entry.fact {
            Fact::Began(_) | Fact::TakenOver => {}
            Fact::Intended(intent) if intent.split.is_some() => {
                self.intended = Some((**intent).clone());
            }
            Fact::Intended(intent) => self.arrive(&intent.to, entry.at),
            Fact::Dropped => self.intended = None,
            Fact::Moved { observed } => {
                self.observed = observed.clone();
                if let Some(intent) = self.intended.take() {
                    self.arrive(&intent.to, entry.at);
                }
            }
            Fact::Probed(probed) => self.probed = Some(probed.clone()),
            Fact::Looked { block } => {
                let weight = self.weight();
                let applying = self.judges.iter_mut().zip(&self.strategy.checks);
                for (judge, check) in applying {
                    if check.applies_at(weight) {
                        judge.add(block);
                    }
                }
                let (stable, candidate) = std::mem::take(&mut self.counted);
                self.counted = (stable.plus(&block.stable), candidate.plus(&block.candidate));
                self.looked_until = block.to;
            }
            Fact::Asked { what: Ask::Pause } => self.paused = true,
            Fact::Asked { what: Ask::Resume } => {
                self.paused = false;
                (self.resumed, self.resumed_at) = (true, entry.at);
            }
            Fact::Asked { what } => self.wish = Some((*what, entry.by.clone())),
            Fact::Ended { outcome } => {
                self.intended = None;
                self.ended = Some(outcome.clone());
            }
            Fact::RolledBackLater { observed } => {
                self.observed = observed.clone();
                self.rolled_back_later = true;
            }
        }
    }

    fn arrive(&mut self, to: &Next, at: Instant) {
        match to {
            Next::Stage(stage) => {
                self.stage = Some(*stage);
                self.stage_began = at;
                (self.probed, self.resumed) = (None, false);
                let weight = self.strategy.weight(*stage);
                if self.strategy.stages.get(*stage).is_some_and(Stage::is_watched) {
                    // What is counted late belongs to a stage that is over, and counts.
                    if self.watched_since.is_none() {
                        (self.watched_since, self.looked_until) = (Some(at), at);
                    }
                    for (judge, check) in self.judges.iter_mut().zip(&self.strategy.checks) {
                        if check.applies_at(weight) {
                            judge.begin_stage();
                        }
                    }
                }
            }
            Next::Promote { by } => self.ended = Some(Outcome::Promoted { by: Some(by.clone()) }),
            Next::RollBack(reason) => self.ended = Some(Outcome::RolledBack(reason.clone())),
        }
    }

    /// The candidate's share in the stage in force.
    pub fn weight(&self) -> Weight {
        self.stage.map_or(Weight::NONE, |stage| self.strategy.weight(stage))
    }

    /// Whether requests are counted in the stage in force.
    pub fn is_watched(&self) -> bool {
        let stage = self.stage.and_then(|stage| self.strategy.stages.get(stage));
        stage.is_some_and(Stage::is_watched) && !self.strategy.checks.is_empty()
    }

    /// What the checks that apply now say.
    pub fn judgements(&self) -> Vec<Judgement> {
        let weight = self.weight();
        let levels = Levels { alpha: self.strategy.alpha, checks: self.strategy.checks.len() };
        let judges = self.judges.iter().zip(&self.strategy.checks);
        let applying = judges.filter(|(_, check)| check.applies_at(weight));
        applying.map(|(judge, _)| judge.judge(levels)).collect()
    }

    /// How traffic is divided in a stage.
    pub(crate) fn split_of(&self, stage: usize) -> Option<Split> {
        let weight = self.strategy.weight(stage);
        let candidate = self.candidate.clone();
        match (weight, &self.stable) {
            (Weight::NONE, _) => None,
            (Weight::ALL, _) | (_, None) => Some(Split::all_to(candidate)),
            (weight, Some(stable)) => Some(Split::between(stable.clone(), candidate, weight)),
        }
    }
}
