//! `slsml logs`: what was printed where the model runs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use slsml_release::ports::{Clock, LogLine, SystemClock};

use super::release;
use crate::args::Logs;
use crate::engine::Engine;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;

/// How often new lines are looked for: Google lets a project read sixty times a minute.
const EVERY: Duration = Duration::from_secs(2);

/// How late a line may come.
const LATE: Duration = Duration::from_secs(30);

pub(crate) async fn run(
    settings: &Settings,
    args: Logs,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let engine = release::connect(settings, args.target.clone()).await?;
    let from = SystemClock.now().saturating_sub(args.since);
    let mut lines = read(&engine, &args, from).await?;
    if !args.follow {
        let value = json!({ "lines": lines.iter().map(document).collect::<Vec<_>>() });
        return printer.result(&value, || match lines.is_empty() {
            true => format!(
                "{} printed nothing in the last {}.",
                engine.site.deployed(),
                humantime::format_duration(args.since)
            ),
            false => lines.iter().map(text).collect::<Vec<_>>().join("\n"),
        });
    }
    let mut told = BTreeSet::new();
    loop {
        for line in &lines {
            if told.insert((line.time, line.id.clone()))
                && !printer.each(&document(line), || text(line))?
            {
                return Ok(Exit::Done);
            }
        }
        tokio::time::sleep(EVERY).await;
        // Lines may come late, and those of one moment in any order.
        let from = SystemClock.now().saturating_sub(LATE).max(from);
        told.retain(|(time, _)| *time >= from);
        lines = read(&engine, &args, from).await?;
    }
}

async fn read(engine: &Engine, args: &Logs, from: Duration) -> Result<Vec<LogLine>, Failure> {
    let mut lines = engine.target.logs(from, args.limit).await?;
    if let Some(revision) = &args.revision {
        lines.retain(|line| line.revision == *revision);
    }
    Ok(lines)
}

fn time(line: &LogLine) -> String {
    let time: SystemTime = UNIX_EPOCH + line.time;
    humantime::format_rfc3339_millis(time).to_string()
}

fn document(line: &LogLine) -> Value {
    json!({
        "time": time(line),
        "revision": line.revision,
        "severity": line.severity,
        "text": line.text,
    })
}

fn text(line: &LogLine) -> String {
    let severity = line.severity.as_ref().map(|severity| format!("{severity} "));
    format!("{} {} {}{}", time(line), line.revision, severity.unwrap_or_default(), line.text)
}
