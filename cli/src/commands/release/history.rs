//! `slsml release list` and `slsml history`: what was released, by whom, and what became of it.

use serde_json::json;
use slsml_release::State;
use slsml_release::ports::Store;

use super::{connect, open};
use crate::args::ReleaseTarget;
use crate::engine::{Engine, time_of};
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::story;

/// `slsml history`: the same for an alias that is named.
pub(crate) async fn run(
    settings: &Settings,
    args: ReleaseTarget,
    printer: &Printer,
) -> Result<Exit, Failure> {
    list(&connect(settings, args).await?, printer).await
}

pub(super) async fn list(engine: &Engine, printer: &Printer) -> Result<Exit, Failure> {
    let prefix = format!("{}/", engine.name);
    let keys = engine.journals.list(&prefix).await?;
    let mut all = Vec::new();
    let mut unreadable = Vec::new();
    for key in keys.iter().rev() {
        let Some(name) = key.strip_prefix(&prefix).and_then(|key| key.strip_suffix(".jsonl"))
        else {
            continue;
        };
        match open(engine, name).await {
            Ok(log) => all.push(log.state),
            Err(failure) => unreadable.push((name, failure.message)),
        }
    }
    let releases = all.iter().map(|state| {
        json!({
            "release": state.release,
            "began_ms": state.began.as_millis() as u64,
            "by": state.by,
            "strategy": state.strategy.name,
            "stable": state.stable,
            "candidate": state.candidate,
            "outcome": state.ended,
            "rolled_back_later": state.rolled_back_later,
        })
    });
    let value = engine.site.with(json!({
        "releases": releases.collect::<Vec<_>>(),
        "unreadable": unreadable,
    }));
    printer.result(&value, || {
        if all.is_empty() && unreadable.is_empty() {
            return format!("There has been no release of {} yet.", engine.site);
        }
        let lines = all.iter().map(line);
        let broken = unreadable.iter().map(|(name, why)| format!("{name}  {why}"));
        lines.chain(broken).collect::<Vec<_>>().join("\n")
    })
}

fn line(state: &State) -> String {
    let stable = state.stable.as_ref().map_or("-".into(), ToString::to_string);
    let outcome = state.ended.as_ref().map_or("under way".into(), story::outcome);
    let later = if state.rolled_back_later { ", rolled back later" } else { "" };
    format!(
        "{}  {}  {stable} to {}, {}, by {}: {outcome}{later}",
        state.release,
        time_of(state.began),
        state.candidate,
        state.strategy.name,
        state.by
    )
}
