//! Logs are JSON, one object a line, on standard output, where Lambda reads them.

use serde_json::{Value, json};

/// Writes one line. This and nothing else in the binary prints.
#[allow(clippy::print_stdout)]
pub(crate) fn line(value: &Value) {
    println!("{value}");
}

pub(crate) fn error(message: &str, cause: &str) {
    line(&json!({ "level": "ERROR", "message": message, "error": cause }));
}

/// A panic becomes a line too; whoever caught it decides what it means.
pub(crate) fn panics_as_json() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("no message");
        line(&json!({ "level": "ERROR", "message": "panic", "error": text, "at": at }));
    }));
}
