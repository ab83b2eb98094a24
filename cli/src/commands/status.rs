//! `slsml status`.

use slsml_lambda::FunctionStatus;

use crate::args;
use crate::commands::{invoke::function, package::bytes};
use crate::failure::{Exit, Failure};
use crate::place::Place;
use crate::printer::Printer;
use crate::settings::Settings;

pub(crate) async fn run(
    settings: &Settings,
    args: args::Status,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let function = function(settings, args.place.function.clone())?;
    let place = Place::connect(&args.place, settings).await?;
    let status = slsml_lambda::status(&place.clients, &function).await?;
    printer.result(&status, || text(&status))
}

fn text(status: &FunctionStatus) -> String {
    let mut text = format!(
        "{}: {}, last update {}, {} MB, {} s",
        status.function,
        status.state,
        status.last_update_status,
        status.memory_mb,
        status.timeout_s
    );
    if let Some(reserved) = status.reserved_concurrency {
        text.push_str(&format!(", {reserved} requests at once"));
    }
    for alias in &status.aliases {
        text.push_str(&format!("\n  alias {}: {}", alias.name, alias.split));
    }
    for version in &status.versions {
        let size = bytes(version.code_size.unsigned_abs());
        text.push_str(&format!(
            "\n  version {}: {size}, {} {}",
            version.version, version.last_modified, version.description
        ));
    }
    text
}
