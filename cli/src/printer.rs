//! The one place that prints.
//!
//! With `--json`, standard output carries one JSON document and nothing else. Without it, results
//! go to standard output and progress to standard error.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use miette::{GraphicalReportHandler, GraphicalTheme};
use serde::Serialize;
use serde_json::json;

use crate::failure::{Exit, Failure};

pub(crate) struct Printer {
    json: bool,
}

/// A step that takes time: a spinner on a terminal, a line elsewhere.
pub(crate) struct Step(Option<ProgressBar>);

impl Step {
    /// Shows another text in the same place; whether there is such a place.
    pub(crate) fn say(&self, text: &str) -> bool {
        match &self.0 {
            Some(bar) => {
                bar.set_message(text.trim_start().to_owned());
                true
            }
            None => false,
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

fn coloured() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal()
}

impl Printer {
    pub(crate) fn new(json: bool) -> Printer {
        Printer { json }
    }

    /// The result of a command: `text` for people, `value` for machines.
    pub(crate) fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<Exit, Failure> {
        let text = if self.json { serde_json::to_string_pretty(value)? } else { text() };
        write_out(&text)?;
        Ok(Exit::Done)
    }

    /// Something that happens while a command runs.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            write_err(text);
        }
    }

    /// A place on the terminal for a text that changes; none elsewhere.
    pub(crate) fn live(&self) -> Step {
        match std::io::stderr().is_terminal() {
            true => self.step(""),
            false => Step(None),
        }
    }

    /// Something that takes a moment.
    pub(crate) fn step(&self, text: &str) -> Step {
        if self.json {
            return Step(None);
        }
        if !std::io::stderr().is_terminal() {
            write_err(text);
            return Step(None);
        }
        let bar = ProgressBar::new_spinner().with_message(text.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Step(Some(bar))
    }

    /// One of many results, as it comes; whether somebody still reads.
    pub(crate) fn each(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<bool, Failure> {
        let line = if self.json { serde_json::to_string(value)? } else { text() };
        write_while_read(&line)
    }

    /// An error, and the exit code it takes.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        if self.json {
            let value = json!({ "error": {
                "message": failure.message,
                "help": failure.help,
                "exit": failure.exit,
                "exit_code": failure.exit as u8,
            }});
            if write_out(&value.to_string()).is_err() {
                write_err(&failure.message);
            }
        } else {
            let theme = match coloured() {
                true => GraphicalTheme::unicode(),
                false => GraphicalTheme::unicode_nocolor(),
            };
            let mut text = String::new();
            let handler = GraphicalReportHandler::new_themed(theme).with_width(width());
            match handler.render_report(&mut text, failure) {
                Ok(()) => write_err(text.trim_end()),
                Err(_) => write_err(&failure.message),
            }
        }
        failure.exit.into()
    }
}

/// Lines that are piped are not cut: others may search them.
fn width() -> usize {
    if std::io::stderr().is_terminal() { 100 } else { 10_000 }
}

fn write_out(text: &str) -> Result<(), Failure> {
    write_while_read(text).map(drop)
}

/// Writes; whether somebody still reads.
fn write_while_read(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        // A reader that has seen enough, like `head`, is no error.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Failure::new(Exit::Internal, format!("cannot write the result: {error}")))
        }
    }
}

fn write_err(text: &str) {
    // There is nowhere left to tell that this failed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
