//! `slsml release watch`: what a release does, whoever runs it. It reads the journal and nothing else.

use std::time::Duration;

use slsml_release::journal::{Ask, Log};
use slsml_release::ports::{Clock, SystemClock};
use slsml_release::{Action, Event, State, decide};

use super::open;
use super::show::{Shown, Teller, is_worked_on, nobody};
use crate::engine::{Engine, Journals};
use crate::failure::{Exit, Failure};
use crate::printer::Printer;

/// How often the journal is read.
const EVERY: Duration = Duration::from_secs(1);

/// Watches until it is over.
pub(super) async fn watch(engine: &Engine, name: &str, printer: &Printer) -> Result<Exit, Failure> {
    let mut watched = Watched::open(engine, name, None, printer).await?;
    let mut is_told = false;
    loop {
        if let Some(exit) = watched.tell()? {
            return Ok(exit);
        }
        let is_left = !is_worked_on(engine).await?;
        if is_left && !is_told {
            printer.note(&nobody(engine));
        }
        is_told = is_left;
        watched.wait().await?;
    }
}

/// Watches while whoever works on it lives; none if nobody does and it is not over.
pub(super) async fn watch_worker(
    engine: &Engine,
    name: &str,
    asked: Option<Ask>,
    printer: &Printer,
) -> Result<Option<Exit>, Failure> {
    let mut watched = Watched::open(engine, name, asked, printer).await?;
    loop {
        if let Some(exit) = watched.tell()? {
            return Ok(Some(exit));
        }
        if !is_worked_on(engine).await? {
            return Ok(None);
        }
        watched.wait().await?;
    }
}

/// A release that is watched, and how much of it was told.
struct Watched<'a> {
    engine: &'a Engine,
    printer: &'a Printer,
    asked: Option<Ask>,
    log: Log<'a, Journals>,
    teller: Teller<'a>,
    told: usize,
}

impl<'a> Watched<'a> {
    async fn open(
        engine: &'a Engine,
        name: &str,
        asked: Option<Ask>,
        printer: &'a Printer,
    ) -> Result<Watched<'a>, Failure> {
        let (log, teller) = (open(engine, name).await?, Teller::new(printer, None));
        Ok(Watched { engine, printer, asked, log, teller, told: 0 })
    }

    /// Tells what is new; how it ended, once it has.
    fn tell(&mut self) -> Result<Option<Exit>, Failure> {
        let state = &self.log.state;
        for entry in &self.log.entries[self.told..] {
            self.teller.tell(Event::Recorded(entry, state));
        }
        self.told = self.log.entries.len();
        let Some(outcome) = &state.ended else { return Ok(None) };
        let version = Some(state.candidate.clone());
        let shown = Shown { version, asked: self.asked, ..Shown::default() };
        shown.ended(self.engine, outcome, self.printer).map(Some)
    }

    /// Says what it waits for, and reads the journal again after a while.
    async fn wait(&mut self) -> Result<(), Failure> {
        waiting(&self.log.state, &mut self.teller);
        tokio::time::sleep(EVERY).await;
        self.log.refresh().await?;
        Ok(())
    }
}

/// What it waits for, as whoever runs it would decide.
fn waiting(state: &State, teller: &mut Teller<'_>) {
    let judgements = state.judgements();
    let now = SystemClock.now();
    if let Action::Wait { until, why } = decide(&state.strategy, state, &judgements, now) {
        let left = until.saturating_sub(now);
        teller.tell(Event::Waiting { state, judgements: &judgements, left, why });
    }
}
