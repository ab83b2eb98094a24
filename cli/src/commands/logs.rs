//! `slsml logs`: what was printed where the model runs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use slsml_release::ports::{Clock, LogLine, LogQuery, SystemClock};

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

/// Lines of [`LATE`], at most: three hundred a second.
const FOLLOWED: usize = 10_000;

/// After so many times in a row that lines could not be read, following them ends.
const TRIES: u32 = 6;

pub(crate) async fn run(
    settings: &Settings,
    args: Logs,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let engine = release::connect(settings, args.target.clone()).await?;
    let from = SystemClock.now().saturating_sub(args.since);
    let query = LogQuery { from, most: args.limit, revision: args.revision.as_deref() };
    let lines = engine.target.logs(&query).await?;
    if !args.follow {
        let value = json!({ "lines": lines.iter().map(document).collect::<Vec<_>>() });
        return printer.result(&value, || match lines.is_empty() {
            true => format!(
                "{} printed nothing in the last {}.",
                match &args.revision {
                    Some(revision) => format!("{} {revision}", engine.site.revision()),
                    None => engine.site.deployed(),
                },
                humantime::format_duration(args.since)
            ),
            false => lines.iter().map(text).collect::<Vec<_>>().join("\n"),
        });
    }
    follow(&engine, query, lines, printer).await
}

/// Tells of lines, and of those that come.
async fn follow(
    engine: &Engine,
    first: LogQuery<'_>,
    mut lines: Vec<LogLine>,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let mut told = BTreeSet::new();
    let mut failed = 0;
    let mut read = SystemClock.now();
    // What the limit left out is not told later.
    let first = match lines.first() {
        Some(oldest) if lines.len() == first.most => LogQuery { from: oldest.time, ..first },
        _ => first,
    };
    loop {
        for line in &lines {
            if told.insert((line.time, line.id.clone()))
                && !printer.each(&document(line), || text(line))?
            {
                return Ok(Exit::Done);
            }
        }
        tokio::time::sleep(EVERY * (1 << failed)).await;
        // Lines may come late, and those of one moment in any order. Their time is in milliseconds.
        let from = read.saturating_sub(LATE).max(first.from);
        let now = SystemClock.now();
        let from = Duration::from_millis(u64::try_from(from.as_millis()).unwrap_or(u64::MAX));
        told.retain(|(time, _)| *time >= from);
        lines = match engine.target.logs(&LogQuery { from, most: FOLLOWED, ..first }).await {
            Err(error) if failed + 1 == TRIES => return Err(error),
            Err(error) => {
                failed += 1;
                printer.note(&format!("{error}; trying again"));
                Vec::new()
            }
            Ok(lines) => {
                (failed, read) = (0, now);
                lines
            }
        };
        if lines.len() == FOLLOWED {
            printer.note("More lines come than can be shown; some are left out.");
        }
    }
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
    let text = printable(&line.text);
    format!("{} {} {}{text}", time(line), line.revision, severity.unwrap_or_default())
}

/// A text that moves no cursor and begins no line of its own: whoever sends a request may have a say in
/// what is logged.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\n    "),
            '\t' => shown.push('\t'),
            letter if letter.is_control() => shown.extend(letter.escape_default()),
            letter => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_is_shown_neither_moves_the_cursor_nor_looks_like_another_line() {
        assert_eq!(printable("a\tb\u{1b}[2Jc\r"), "a\tb\\u{1b}[2Jc\\r");
        assert_eq!(printable("one\n2026-01-01 two"), "one\n    2026-01-01 two");
    }
}
