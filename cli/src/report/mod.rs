//! A page about a release: one file with everything in it, from the journal alone.

mod charts;
mod page;

use slsml_release::journal::{Entry, Fact, Next};
use slsml_release::{Counts, Instant, Judgement, Latency, Rate, State};

pub(crate) use page::page;

/// What a page shows, gathered along the journal.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// The candidate's share in percent, and from when on.
    weights: Vec<(Instant, f64)>,
    /// For each check what it said at each look.
    checks: Vec<Series>,
    /// How long requests took: stable and candidate.
    latency: [Vec<(Instant, Latency)>; 2],
    /// Answers by class or range over the whole release: stable and candidate.
    outputs: [Vec<u64>; 2],
    /// When the first and the last line were written.
    span: (Instant, Instant),
}

/// One check along a release.
#[derive(Debug)]
struct Series {
    name: String,
    looks: Vec<Look>,
}

/// What a check said at one look.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    candidate: Rate,
    stable: Option<Rate>,
    /// Which step it was in.
    stage: usize,
}

impl Story {
    /// What a journal tells.
    pub(crate) fn of(entries: &[Entry]) -> Option<Story> {
        let (first, last) = (entries.first()?, entries.last()?);
        let Fact::Began(began) = &first.fact else { return None };
        let mut state = State::begin(began, &first.by, first.at);
        let mut story = Story { span: (first.at, last.at), ..Story::default() };
        story.weights.push((first.at, 0.0));
        for entry in &entries[1..] {
            let to = state.intended.as_ref().map(|intent| intent.to.clone());
            state.apply(entry);
            match &entry.fact {
                Fact::Moved { .. } => story.moved(entry.at, to.as_ref(), &state),
                Fact::RolledBackLater { .. } => story.weights.push((entry.at, 0.0)),
                Fact::Looked { block } => {
                    for judgement in state.judgements() {
                        story.judged(entry.at, &judgement, state.stage.unwrap_or(0));
                    }
                    story.counted(block.to, [&block.stable, &block.candidate]);
                }
                _ => {}
            }
        }
        Some(story)
    }

    fn moved(&mut self, at: Instant, to: Option<&Next>, state: &State) {
        let percent = match to {
            Some(Next::Stage(stage)) => state.strategy.weight(*stage).as_percent(),
            Some(Next::Promote { .. }) => 100.0,
            _ => 0.0,
        };
        self.weights.push((at, percent));
    }

    fn judged(&mut self, at: Instant, judgement: &Judgement, stage: usize) {
        let name = judgement.check.to_string();
        let known = self.checks.iter().position(|series| series.name == name);
        let at_index = known.unwrap_or_else(|| {
            self.checks.push(Series { name, looks: Vec::new() });
            self.checks.len() - 1
        });
        let Judgement { candidate, stable, .. } = *judgement;
        self.checks[at_index].looks.push(Look { at, candidate, stable, stage });
    }

    fn counted(&mut self, at: Instant, both: [&Counts; 2]) {
        for (which, counts) in both.into_iter().enumerate() {
            if let Some(latency) = counts.latency {
                self.latency[which].push((at, latency));
            }
            let all = &mut self.outputs[which];
            if all.len() < counts.outputs.len() {
                all.resize(counts.outputs.len(), 0);
            }
            all.iter_mut().zip(&counts.outputs).for_each(|(all, more)| *all += more);
        }
    }

    /// Seconds since the release began.
    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_sub(self.span.0).as_secs_f64()
    }

    /// How long it took, in seconds; at least one, so that there is something to draw along.
    fn lasted(&self) -> f64 {
        self.seconds(self.span.1).max(1.0)
    }
}
