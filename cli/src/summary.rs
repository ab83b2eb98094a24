//! What became of a release, as Markdown for the page of a GitHub Actions run.
//! <https://docs.github.com/actions/reference/workflow-commands#adding-a-job-summary>

use std::io::Write;

use slsml_release::State;
use slsml_release::journal::{Entry, Fact};

use crate::engine::{duration, time_of};
use crate::site::Site;
use crate::story;

/// Appends to the file that `GITHUB_STEP_SUMMARY` names, if it names one.
pub(crate) fn write(entries: &[Entry], state: &State) -> std::io::Result<()> {
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let mut file = std::fs::File::options().append(true).create(true).open(path)?;
    file.write_all(markdown(entries, state).as_bytes())
}

fn markdown(entries: &[Entry], state: &State) -> String {
    let stable = state.stable.as_ref().map_or("nothing".into(), ToString::to_string);
    let outcome = state.ended.as_ref().map_or("under way".into(), story::outcome);
    let last = entries.last().map_or(state.began, |entry| entry.at);
    let mut text = format!(
        "### {}: {} {stable} to {}\n\n**{}** after {}, {}.\n",
        cell(&state.target),
        Site::revision_of(&state.target),
        cell(&state.candidate.0),
        cell(&outcome),
        duration(last.saturating_sub(state.began)),
        state.strategy.name,
    );
    let judgements = entries.iter().rev().find_map(|entry| match &entry.fact {
        Fact::Intended(intent) if !intent.judgements.is_empty() => Some(&intent.judgements),
        _ => None,
    });
    if let Some(judgements) = judgements {
        text.push_str("\n| Check | Candidate | Stable | Verdict |\n| --- | --- | --- | --- |\n");
        for judgement in judgements {
            let stable = judgement.stable.as_ref().map(story::rate).unwrap_or_default();
            text.push_str(&format!(
                "| {} | {} | {stable} | {} |\n",
                cell(&judgement.check.to_string()),
                story::rate(&judgement.candidate),
                story::verdict(judgement.verdict),
            ));
        }
    }
    text.push_str("\n| Time | |\n| --- | --- |\n");
    for entry in entries {
        if let Some(line) = story::entry(entry, state) {
            text.push_str(&format!("| {} | {} |\n", time_of(entry.at), cell(&line)));
        }
    }
    text.push('\n');
    text
}

/// What others wrote must not break out of its cell.
fn cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|").replace('<', "&lt;")
}
