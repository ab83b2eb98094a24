//! `slsml explain-size`.

use serde_json::json;
use slsml_package::{Part, explain, treemap};

use super::package::bytes;
use crate::args;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;

/// Parts shown at each level; the rest is one line.
const SHOWN: usize = 12;

pub(crate) fn run(
    settings: &Settings,
    args: args::ExplainSize,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let path = settings.artifact(args.artifact)?;
    let wholes = explain(&path)?;
    if let (Some(svg), Some(whole)) = (&args.svg, wholes.last()) {
        std::fs::write(svg, treemap(whole)).map_err(|error| {
            Failure::usage(format!("cannot write {}: {error}", svg.display()))
                .help("pass a file in a folder that can be written: --svg size.svg")
        })?;
    }
    printer.result(&json!({ "wholes": wholes, "svg": args.svg }), || {
        let mut lines = Vec::new();
        for whole in &wholes {
            list(whole, whole.bytes, 0, &mut lines);
            lines.push(String::new());
        }
        match &args.svg {
            Some(svg) => lines.push(format!("Drawn: {}", svg.display())),
            None => lines.push("Draw it: add --svg size.svg".into()),
        }
        lines.join("\n")
    })
}

fn list(part: &Part, whole: u64, depth: usize, lines: &mut Vec<String>) {
    let line = |bytes: u64, name: &str, depth: usize| {
        let share = if whole == 0 { 0.0 } else { 100.0 * bytes as f64 / whole as f64 };
        format!("{bytes:>12} {share:5.1} %  {:indent$}{name}", "", indent = 2 * depth)
    };
    lines.push(line(part.bytes, &format!("{} ({})", part.name, bytes(part.bytes)), depth));
    let mut parts: Vec<&Part> = part.parts.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let (shown, rest) = parts.split_at(parts.len().min(SHOWN));
    for part in shown {
        list(part, whole, depth + 1, lines);
    }
    if !rest.is_empty() {
        let bytes = rest.iter().map(|part| part.bytes).sum();
        lines.push(line(bytes, &format!("{} smaller parts", rest.len()), depth + 1));
    }
}
