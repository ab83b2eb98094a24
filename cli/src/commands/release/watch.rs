//! `slsml release watch`: what a release does, whoever runs it. It reads the journal and nothing else.

use std::time::Duration;

use slsml_release::journal::Ask;
use slsml_release::ports::{Clock, SystemClock};
use slsml_release::{Action, Event, State, decide, lease};

use super::open;
use super::show::{Shown, Teller};
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;

/// How often the journal is read.
const EVERY: Duration = Duration::from_secs(1);

/// Watches until it is over.
pub(super) async fn watch(engine: &Engine, name: &str, printer: &Printer) -> Result<Exit, Failure> {
    let always = async || Ok(true);
    let watched = watch_while(engine, name, None, printer, always).await?;
    watched.ok_or_else(|| Failure::new(Exit::Internal, "nobody watches any more"))
}

/// Watches while whoever works on it lives; none if nobody does and it is not over.
pub(super) async fn watch_worker(
    engine: &Engine,
    name: &str,
    asked: Option<Ask>,
    printer: &Printer,
) -> Result<Option<Exit>, Failure> {
    let lives = async || {
        let last = lease::read(&engine.journals, &engine.name).await?;
        let gone = engine.world().is_gone;
        Ok(last.is_some_and(|(lease, _)| lease.is_live(SystemClock.now(), gone)))
    };
    watch_while(engine, name, asked, printer, lives).await
}

async fn watch_while(
    engine: &Engine,
    name: &str,
    asked: Option<Ask>,
    printer: &Printer,
    goes_on: impl AsyncFn() -> Result<bool, Failure>,
) -> Result<Option<Exit>, Failure> {
    let mut log = open(engine, name).await?;
    let mut teller = Teller::new(printer, None);
    let mut told = 0;
    loop {
        for entry in &log.entries[told..] {
            teller.tell(Event::Recorded(entry, &log.state));
        }
        told = log.entries.len();
        if let Some(outcome) = &log.state.ended {
            let version = Some(log.state.candidate.clone());
            let shown = Shown { version, settings_changed: false, asked };
            return shown.ended(engine, outcome, printer).map(Some);
        }
        if !goes_on().await? {
            return Ok(None);
        }
        waiting(&log.state, &mut teller);
        tokio::time::sleep(EVERY).await;
        log.refresh().await?;
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
