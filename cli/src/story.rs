//! A release in words.

use slsml_release::journal::{Ask, Entry, Fact, Next};
use slsml_release::{
    Against, Judgement, Measure, Outcome, Planned, Rate, Reason, State, Verdict, Waiting,
};

use crate::engine::duration;
use crate::site::Site;

/// What a line of the journal says; none for what is not worth a line.
pub(crate) fn entry(entry: &Entry, state: &State) -> Option<String> {
    Some(match &entry.fact {
        Fact::Began(began) => format!(
            "Release {} of {}: {} {} by {}",
            began.release,
            began.target,
            Site::revision_of(&began.target),
            began.candidate,
            began.strategy.name
        ),
        Fact::Dropped => "What was to come next was given up".into(),
        Fact::Intended(intent) if intent.split.is_some() => return None,
        Fact::Intended(intent) => match intent.to {
            Next::Stage(stage) => match state.strategy.stages.get(stage)? {
                slsml_release::Stage::Pause => "Waiting for somebody to say go on".into(),
                _ => return None,
            },
            _ => return None,
        },
        Fact::Moved { observed } => format!("Traffic: {}", observed.split.as_ref()?),
        Fact::Probed(probed) if probed.failed == 0 => {
            format!("The candidate answered {} requests of our own", probed.answered)
        }
        Fact::Probed(probed) => format!(
            "The candidate failed {} of {} requests of our own: {}",
            probed.failed,
            probed.failed + probed.answered,
            probed.error.as_deref().unwrap_or("no reason given")
        ),
        Fact::Looked { .. } => return None,
        Fact::Asked { what } => format!("{} asked to {}", entry.by, ask(*what)),
        Fact::TakenOver => format!("{} goes on", entry.by),
        Fact::Ended { .. } => return None,
        Fact::RolledBackLater { observed } => {
            format!("Rolled back after its end: {}", observed.split.as_ref()?)
        }
    })
}

pub(crate) fn ask(what: Ask) -> &'static str {
    match what {
        Ask::Pause => "pause",
        Ask::Resume => "go on",
        Ask::Promote => "promote",
        Ask::Abort => "abort",
        Ask::RollBack => "roll back",
    }
}

/// What a release waits for, on one line.
pub(crate) fn waiting(judgements: &[Judgement], left: std::time::Duration, why: Waiting) -> String {
    let checks: Vec<String> = judgements.iter().map(judgement).collect();
    let checks = if checks.is_empty() { String::new() } else { format!("{}; ", checks.join("; ")) };
    let left = duration(left.max(std::time::Duration::from_secs(1)));
    match why {
        Waiting::Bake => format!("  {checks}next step in {left}"),
        Waiting::Evidence => format!("  {checks}waiting for more requests, at most {left}"),
        Waiting::Person => format!("  {checks}waiting for slsml release resume, at most {left}"),
    }
}

/// A check and what it says.
pub(crate) fn judgement(judgement: &Judgement) -> String {
    let Judgement { check, verdict, candidate, stable, output, .. } = judgement;
    let verdict = self::verdict(*verdict);
    let metric = match (&check.metric, output) {
        (Measure::Outputs, Some(class)) => format!("outputs of class {class}"),
        (metric, _) => metric.to_string(),
    };
    let stable = match (stable, check.against) {
        (Some(stable), Against::Stable { .. }) => format!(", stable {}", rate(stable)),
        _ => String::new(),
    };
    format!("{metric} {}{stable}: {verdict}", rate(candidate))
}

pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Inconclusive => "unsure",
    }
}

/// A rate with its interval.
pub(crate) fn rate(rate: &Rate) -> String {
    format!(
        "{:.2} % of {} ({:.2} to {:.2} %)",
        100.0 * rate.share.rate(),
        rate.share.trials,
        100.0 * rate.low,
        100.0 * rate.high
    )
}

/// How it ended.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Promoted { by: None } => "promoted".into(),
        Outcome::Promoted { by: Some(by) } => format!("promoted by {by}"),
        Outcome::RolledBack(why) => format!("rolled back: {}", reason(why)),
        Outcome::Failed(why) => format!(
            "not rolled back, as there is nothing to go back to, and what traffic there is stays: {}",
            reason(why)
        ),
        Outcome::Foreign { found } => {
            format!("stopped: somebody else moved the traffic; it was then {found}")
        }
    }
}

/// Why it was rolled back.
pub(crate) fn reason(reason: &Reason) -> String {
    match reason {
        Reason::CheckFailed(judgement) => {
            format!("{} was broken: {}", judgement.check, seen(judgement))
        }
        Reason::Inconclusive(judgement) => format!(
            "{} requests were too few to judge {}. Nothing was promoted",
            judgement.candidate.share.trials, judgement.check
        ),
        Reason::ProbeFailed(probed) => format!(
            "the candidate failed {} of {} requests of our own: {}",
            probed.failed,
            probed.failed + probed.answered,
            probed.error.as_deref().unwrap_or("no reason given")
        ),
        Reason::Blind => "nothing could be read of it for 5 minutes".into(),
        Reason::Deadline => "it was not done by its deadline".into(),
        Reason::Asked { by } => format!("{by} asked for it"),
    }
}

fn seen(judgement: &Judgement) -> String {
    let class = judgement.output.map(|class| format!("class {class}: ")).unwrap_or_default();
    match &judgement.stable {
        Some(stable) if matches!(judgement.check.against, Against::Stable { .. }) => {
            format!("{class}candidate {}, stable {}", rate(&judgement.candidate), rate(stable))
        }
        _ => format!("{class}{}", rate(&judgement.candidate)),
    }
}

/// A plan, a line for each thing.
pub(crate) fn plan(plan: &[Planned]) -> Vec<String> {
    let mut lines = Vec::new();
    for step in plan {
        if let Some(requests) = step.probe {
            lines.push(format!(
                "send the candidate {requests} requests of our own; all must be answered"
            ));
        }
        if let Some(split) = &step.split {
            lines.push(format!("move traffic to {split}"));
        }
        if step.wait > std::time::Duration::ZERO {
            lines.push(format!("  watch it for {}", duration(step.wait)));
        }
        for need in &step.needs {
            let takes = match need.requests {
                u64::MAX => "which nothing can show".into(),
                requests => format!("which takes {requests} requests to the candidate or more"),
            };
            lines.push(format!("  until {} passes, {takes}", need.check));
        }
        if step.person {
            lines.push("  wait for slsml release resume".into());
        }
    }
    lines
}
