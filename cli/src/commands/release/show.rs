//! Showing a release: while it runs, when it is over, and from its journal.

use std::time::Duration;

use serde_json::{Value, json};
use slsml_release::journal::{Ask, Log};
use slsml_release::ports::{Clock, SystemClock, Target};
use slsml_release::{DriveError, Event, Outcome, Reason, Revision, Split, State, lease};

use crate::commands::stopped;
use crate::engine::{Engine, Journals, duration, time_of};
use crate::failure::{Exit, Failure};
use crate::printer::{Printer, Step};
use crate::site::Site;
use crate::webhook::Webhook;
use crate::{story, summary};

/// How often the same line is told at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What a command knows beside the release.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The version that was deployed.
    pub(crate) version: Option<Revision>,
    /// Whether anything but traffic was changed.
    pub(crate) settings_changed: bool,
    /// Where a service answers.
    pub(crate) address: Option<String>,
    /// What the person who typed the command asked for.
    pub(crate) asked: Option<Ask>,
}

/// Runs a release, and stops when somebody asks to.
pub(crate) async fn run_to_end(
    engine: &Engine,
    shown: &Shown,
    printer: &Printer,
    work: impl Future<Output = Result<Outcome, DriveError>>,
) -> Result<Exit, Failure> {
    let ended = tokio::select! {
        ended = work => Some(ended),
        () = stopped() => None,
    };
    if let Some(webhook) = &engine.webhook
        && let Some(why) = webhook.finish().await
    {
        printer.note(&format!("the webhook was not told of everything: {why}"));
    }
    match ended {
        Some(ended) => {
            let outcome = ended.map_err(|error| stuck(engine, error))?;
            if let Err(failure) = summarize(engine).await {
                printer.note(&format!("the summary could not be written: {failure}"));
            }
            shown.ended(engine, &outcome, printer)
        }
        None => {
            // Whoever is in a hurry says so once more.
            tokio::select! {
                failure = interrupted(engine) => Err(failure),
                () = stopped() => Err(left(engine, "interrupted")),
            }
        }
    }
}

/// Tells the page of a GitHub Actions run, if this is one.
async fn summarize(engine: &Engine) -> Result<(), Failure> {
    if let Some(name) = engine.latest().await? {
        let log = super::open(engine, &name).await?;
        summary::write(&log.entries, &log.state)?;
    }
    Ok(())
}

/// An error that leaves a release where it is says how to go on with it.
fn stuck(engine: &Engine, error: DriveError) -> Failure {
    let goes_on = error.may_pass();
    let failure = under_way(engine, error);
    match (goes_on, failure.help.clone()) {
        (false, _) => failure,
        (true, None) => failure.help(how_to_go_on(engine)),
        (true, Some(first)) => failure.help(format!("{first}; then {}", how_to_go_on(engine))),
    }
}

fn how_to_go_on(engine: &Engine) -> String {
    let flags = engine.flags();
    let from = match engine.journals {
        Journals::Folder(_) => "on this machine",
        _ => "from any machine",
    };
    format!(
        "go on {from} with slsml release resume{flags}, or put the traffic back with slsml release abort{flags}"
    )
}

/// A release that is under way is not disturbed; what to type about it.
pub(crate) fn under_way(engine: &Engine, error: DriveError) -> Failure {
    match error {
        DriveError::UnderWay { .. } => {
            let (flags, failure) = (engine.flags(), Failure::from(error));
            failure.help(format!(
                "look at it with slsml release show{flags}; go on with slsml release resume{flags}, or end it with \
                 slsml release promote{flags} or abort{flags}"
            ))
        }
        other => other.into(),
    }
}

/// Whether somebody works on a target's release.
pub(super) async fn is_worked_on(engine: &Engine) -> Result<bool, Failure> {
    let last = lease::read(&engine.journals, &engine.name).await?;
    Ok(last.is_some_and(|(lease, _)| engine.is_worked_under(&lease)))
}

fn left(engine: &Engine, what: &str) -> Failure {
    Failure::new(Exit::Internal, what).help(how_to_go_on(engine))
}

/// The traffic stays where it is: whether to go on is for whoever stopped this to say.
async fn interrupted(engine: &Engine) -> Failure {
    // Others need not wait until the lease runs out; if this fails, they do.
    let given_back = lease::give_back(&engine.journals, &engine.name, &engine.holder).await;
    let lease = match given_back {
        Ok(()) => "",
        Err(_) => ", and the lease could not be given back",
    };
    let stays = match engine.target.observe().await {
        Ok(observed) => match observed.split {
            Some(split) => format!("the traffic stays at {split}"),
            None => format!("{} does not exist yet", engine.site.whole()),
        },
        Err(error) => format!("{} cannot be read: {error}", engine.site.whole()),
    };
    left(engine, &format!("interrupted; {stays}{lease}"))
}

/// Tells of a release that runs.
pub(crate) struct Teller<'a> {
    printer: &'a Printer,
    /// What it waits for, on a terminal: redrawn.
    live: Option<Step>,
    /// The same elsewhere: line after line.
    told: Option<(Duration, String)>,
    webhook: Option<&'a Webhook>,
}

impl<'a> Teller<'a> {
    pub(crate) fn new(printer: &'a Printer, webhook: Option<&'a Webhook>) -> Teller<'a> {
        Teller { printer, live: None, told: None, webhook }
    }

    pub(crate) fn tell(&mut self, event: Event<'_>) {
        match event {
            Event::Recorded(entry, state) => {
                if let Some(webhook) = self.webhook {
                    webhook.tell(entry, state);
                }
                if let Some(line) = story::entry(entry, state) {
                    self.live = None;
                    self.printer.note(&line);
                }
            }
            Event::LookFailed(cause) => {
                self.live = None;
                self.printer.note(&format!("  no look this time: {cause}"));
            }
            Event::Failed { cause, again_in } => {
                self.live = None;
                self.printer.note(&format!("  {cause}; trying again in {}", duration(again_in)));
            }
            Event::Waiting { judgements, left, why, .. } => {
                let line = story::waiting(judgements, left, why);
                if self.live.get_or_insert_with(|| self.printer.live()).say(&line) {
                    return;
                }
                let now = SystemClock.now();
                let fresh = self.told.as_ref().is_none_or(|(at, told)| {
                    now.saturating_sub(*at) >= TELL_EVERY && *told != line
                });
                if fresh {
                    self.printer.note(&line);
                    self.told = Some((now, line));
                }
            }
        }
    }
}

impl Shown {
    /// Nothing had to be released.
    pub(crate) fn unchanged(
        &self,
        engine: &Engine,
        version: &Revision,
        printer: &Printer,
    ) -> Result<Exit, Failure> {
        let (site, revision) = (&engine.site, engine.site.revision());
        let value = site.with(json!({
            "version": version,
            "changed": self.settings_changed,
            "outcome": "unchanged",
            "address": self.address,
        }));
        printer.result(&value, || match (self.settings_changed, site) {
            (true, Site::Alias { function, alias }) => {
                format!("Changed the settings of {function}; {alias} stays at version {version}.")
            }
            (true, Site::Service { .. }) => {
                format!("Changed the settings of {site}; it stays at {revision} {version}.")
            }
            (false, _) => format!("Nothing to do: {site} is at {revision} {version}."),
        })
    }

    /// It is over.
    pub(crate) fn ended(
        &self,
        engine: &Engine,
        outcome: &Outcome,
        printer: &Printer,
    ) -> Result<Exit, Failure> {
        let (site, revision) = (&engine.site, engine.site.revision());
        if let Outcome::Foreign { found } = outcome {
            return Err(Failure::new(
                Exit::Moved,
                format!("somebody else moved the traffic of {site}; it is now {found}"),
            )
            .help("it was left as it is: look at it with slsml status"));
        }
        let (name, reason, exit) = match outcome {
            Outcome::RolledBack(reason @ (Reason::Inconclusive(_) | Reason::Blind)) => {
                ("inconclusive", Some(reason), Exit::Inconclusive)
            }
            // Whoever asked for it got what they asked for.
            Outcome::RolledBack(reason @ Reason::Asked { .. })
                if self.asked == Some(Ask::Abort) =>
            {
                ("rolled_back", Some(reason), Exit::Done)
            }
            Outcome::RolledBack(reason) => ("rolled_back", Some(reason), Exit::RolledBack),
            Outcome::Failed(reason) => ("failed", Some(reason), Exit::RolledBack),
            _ => ("promoted", None, Exit::Done),
        };
        let value = site.with(json!({
            "version": self.version,
            "changed": true,
            "outcome": name,
            "reason": reason,
            "address": self.address,
        }));
        printer.result(&value, || match (reason, &self.version) {
            _ if matches!(outcome, Outcome::Failed(_)) => {
                format!("It was {}.", story::outcome(outcome))
            }
            (Some(reason), _) => format!("Rolled back: {}.", story::reason(reason)),
            (None, Some(version)) => {
                let next = match (site, &self.address) {
                    (Site::Alias { .. }, _) => {
                        let flags = engine.flags();
                        format!("\n\nNext: slsml invoke{flags} --body request.json")
                    }
                    (Site::Service { .. }, Some(address)) => format!("\n\nIt answers at {address}"),
                    (Site::Service { .. }, None) => String::new(),
                };
                format!("Released: {site} is at {revision} {version}.{next}")
            }
            (None, None) => format!("Released {site}: {}.", story::outcome(outcome)),
        })?;
        Ok(exit)
    }
}

/// `slsml release show`.
pub(super) async fn show(
    engine: &Engine,
    log: &Log<'_, Journals>,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let is_left = log.state.ended.is_none() && !is_worked_on(engine).await?;
    let value = engine.site.with(json!({
        "release": log.state.release,
        "is_worked_on": log.state.ended.is_none() && !is_left,
        "state": state(&log.state),
        "journal": log.entries,
    }));
    printer.result(&value, || {
        let left = is_left.then(|| nobody(engine));
        std::iter::once(text(log)).chain(left).collect::<Vec<_>>().join("\n")
    })
}

/// That a release waits for somebody to go on with it.
pub(super) fn nobody(engine: &Engine) -> String {
    format!("Nobody works on it: {}.", how_to_go_on(engine))
}

/// A state as machines read it.
pub(super) fn state(state: &State) -> Value {
    json!({
        "began_ms": state.began.as_millis() as u64,
        "by": state.by,
        "strategy": state.strategy,
        "stable": state.stable,
        "candidate": state.candidate,
        "stage": state.stage,
        "split": state.observed.split,
        "paused": state.paused,
        "judgements": state.judgements(),
        "outcome": state.ended,
        "rolled_back_later": state.rolled_back_later,
    })
}

fn text(log: &Log<'_, Journals>) -> String {
    let state = &log.state;
    let mut lines = Vec::new();
    for entry in &log.entries {
        if let Some(line) = story::entry(entry, state) {
            lines.push(format!("{}  {line}", time_of(entry.at)));
        }
    }
    match &state.ended {
        Some(outcome) => {
            let last = log.entries.last().map_or(state.began, |entry| entry.at);
            let took = duration(last.saturating_sub(state.began));
            lines.push(format!("After {took} it was {}.", story::outcome(outcome)));
        }
        None => {
            let split = state.observed.split.as_ref().map_or("nowhere".into(), Split::to_string);
            lines.push(format!("It is under way, traffic at {split}."));
            lines.extend(
                state.judgements().iter().map(|one| format!("  {}", story::judgement(one))),
            );
        }
    }
    lines.join("\n")
}
