//! The page itself.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use slsml_release::journal::{Entry, Fact, Next};
use slsml_release::{Judgement, Outcome, State};

use super::{Story, charts};
use crate::engine::{duration, time_of};
use crate::story;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', sans-serif; color: #1f2328; background: #fff; max-width: 960px; margin: 40px auto; padding: 0 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 36px 0 8px; }
p.sub { color: #57606a; margin: 0 0 20px; }
.verdict { display: inline-block; padding: 6px 14px; border-radius: 6px; font-weight: 600; }
.good { background: #dafbe1; color: #116329; } .bad { background: #ffebe9; color: #a40e26; } .open { background: #fff8c5; color: #6b4e00; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 20px 0; } dt { color: #57606a; } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; } th { text-align: left; color: #57606a; font-weight: 500; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid #eaeef2; vertical-align: top; } td.n, th.n { text-align: right; } td.at { white-space: nowrap; }
svg { width: 100%; height: auto; display: block; }
.key { color: #57606a; font-size: 13px; } .key b { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin: 0 6px 0 0; vertical-align: -1px; } .key span { margin-right: 20px; }
.bar { background: #eaeef2; height: 10px; border-radius: 2px; min-width: 120px; } .bar i { display: block; height: 10px; border-radius: 2px; }
footer { color: #57606a; margin: 48px 0 0; font-size: 13px; }
";

const STABLE: &str = "#57606a";
const CANDIDATE: &str = "#0969da";

/// A page about a release.
pub(crate) fn page(entries: &[Entry], state: &State, told: &Story) -> Result<String, String> {
    let stable = state.stable.as_ref().map_or("nothing".into(), ToString::to_string);
    let title = format!("Release {} of {}", state.release, state.target);
    let judgements = last_judgements(entries, state);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Version " (stable) " to " (state.candidate) }
                p.sub { (title) }
                (verdict(state))
                dl {
                    dt { "Strategy" } dd { (state.strategy.name) }
                    dt { "Began" } dd { (time_of(state.began)) " by " (state.by) }
                    dt { "Took" } dd { (duration(told.span.1.saturating_sub(told.span.0))) @if state.ended.is_none() { " so far" } }
                    dt { "Wrong at most" } dd { "α = " (state.strategy.alpha) " over all checks, steps and looks" }
                }
                h2 { "The candidate's share of the traffic" }
                (PreEscaped(charts::weights(told)?))
                @for series in &told.checks {
                    h2 { (series.name) }
                    (key("lines are rates, bands their intervals"))
                    (PreEscaped(charts::rates(told, series)?))
                }
                @if told.latency.iter().any(|all| !all.is_empty()) {
                    h2 { "95 % of requests took at most" }
                    (key(""))
                    (PreEscaped(charts::latency(told)?))
                }
                (outputs(told))
                @if !judgements.is_empty() { (verdicts(&judgements)) }
                (journal(entries, state))
                footer { "Made by slsml from the release's journal. Intervals hold however often one looks; rates begin anew with each step." }
            }
        }
    };
    Ok(markup.into_string())
}

fn verdict(state: &State) -> Markup {
    let (class, text) = match &state.ended {
        None => ("open", "Under way".to_owned()),
        Some(outcome @ Outcome::Promoted { .. }) if !state.rolled_back_later => {
            ("good", sentence(&story::outcome(outcome)))
        }
        Some(Outcome::Promoted { .. }) => ("bad", "Promoted, and rolled back later".to_owned()),
        Some(outcome) => ("bad", sentence(&story::outcome(outcome))),
    };
    html! { div class={ "verdict " (class) } { (text) } }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn key(more: &str) -> Markup {
    html! {
        p.key {
            span { b style={ "background:" (STABLE) } {} "stable" }
            span { b style={ "background:" (CANDIDATE) } {} "candidate" }
            (more)
        }
    }
}

/// The mix of answers, class by class.
fn outputs(told: &Story) -> Markup {
    let sums = told.outputs.each_ref().map(|all| all.iter().sum::<u64>());
    let classes = told.outputs.iter().map(Vec::len).max().unwrap_or(0);
    let share = |which: usize, class: usize| {
        let count = told.outputs[which].get(class).copied().unwrap_or(0);
        100.0 * count as f64 / sums[which].max(1) as f64
    };
    html! {
        @if sums.iter().any(|sum| *sum > 0) {
            h2 { "What was predicted" }
            table {
                tr { th { "class or range" } th.n { "stable" } th {} th.n { "candidate" } th {} }
                @for class in 0..classes {
                    tr {
                        td { (class) }
                        @for (which, colour) in [STABLE, CANDIDATE].iter().enumerate() {
                            td.n { (format!("{:.1} %", share(which, class))) }
                            td { div.bar { i style={ "width:" (format!("{:.1}", share(which, class))) "%;background:" (colour) } {} } }
                        }
                    }
                }
            }
        }
    }
}

/// What the checks said when it was decided, or say now.
fn last_judgements(entries: &[Entry], state: &State) -> Vec<Judgement> {
    let decided = entries.iter().rev().find_map(|entry| match &entry.fact {
        Fact::Intended(intent) if !intent.judgements.is_empty() => Some(intent.judgements.clone()),
        _ => None,
    });
    match &state.ended {
        None => state.judgements(),
        Some(_) => decided.unwrap_or_default(),
    }
}

fn verdicts(judgements: &[Judgement]) -> Markup {
    html! {
        h2 { "The last verdicts" }
        table {
            tr { th { "check" } th { "candidate" } th { "stable" } th.n { "evidence against" } th.n { "evidence for" } th { "verdict" } }
            @for judgement in judgements {
                tr {
                    td { (judgement.check) }
                    td { (story::rate(&judgement.candidate)) }
                    td { @if let Some(stable) = &judgement.stable { (story::rate(stable)) } }
                    td.n { (evidence(judgement.fault)) }
                    td.n { (evidence(judgement.health)) }
                    td { (story::verdict(judgement.verdict)) }
                }
            }
        }
    }
}

fn evidence(value: f64) -> String {
    match value {
        v if v >= 1e6 => "over a million".into(),
        v if v >= 10.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}

fn journal(entries: &[Entry], state: &State) -> Markup {
    html! {
        h2 { "The journal" }
        table {
            @for entry in entries {
                @if let Some(line) = line(entry, state) {
                    tr { td.at { (time_of(entry.at)) } td { (entry.by) } td { (line) } }
                }
            }
        }
    }
}

fn line(entry: &Entry, state: &State) -> Option<String> {
    match &entry.fact {
        Fact::Intended(intent) => match (&intent.to, &intent.split) {
            (Next::RollBack(reason), _) => Some(format!("Back: {}", story::reason(reason))),
            (_, Some(split)) => Some(format!("About to move traffic to {split}")),
            _ => story::entry(entry, state),
        },
        Fact::Ended { outcome } => Some(sentence(&story::outcome(outcome))),
        _ => story::entry(entry, state),
    }
}
