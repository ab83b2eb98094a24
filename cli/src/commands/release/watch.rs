//! `slsml release watch`: what a release does, whoever runs it. It reads the journal and nothing else.

use std::time::Duration;

use slsml_release::journal::Ask;
use slsml_release::ports::{Clock, SystemClock};
use slsml_release::{Action, Event, State, decide};

use super::open;
use super::show::{Shown, Teller};
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;

/// How often the journal is read.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn watch(
    engine: &Engine,
    name: &str,
    asked: Option<Ask>,
    printer: &Printer,
) -> Result<Exit, Failure> {
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
            return Shown { version, settings_changed: false, asked }
                .ended(engine, outcome, printer);
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
