//! `slsml status`.

use slsml_cloudrun::ServiceStatus;
use slsml_lambda::FunctionStatus;

use crate::args;
use crate::commands::{invoke::function, package::bytes};
use crate::failure::{Exit, Failure};
use crate::place::{CloudrunPlace, Place};
use crate::printer::Printer;
use crate::settings::Settings;

pub(crate) async fn run(
    settings: &Settings,
    args: args::Status,
    printer: &Printer,
) -> Result<Exit, Failure> {
    if let Some((place, service)) = super::release::service(settings, &args.target)? {
        let place = CloudrunPlace::connect(&place, settings)?;
        let status = slsml_cloudrun::status(&place.google, &service).await?;
        return printer.result(&status, || service_text(&status));
    }
    let place = args.target.place;
    let function = function(settings, place.function.clone())?;
    let place = Place::connect(&place, settings).await?;
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

fn service_text(status: &ServiceStatus) -> String {
    let mut text = format!("{}: {}, {}", status.service, status.state, status.address);
    if let Some(why) = &status.why {
        text.push_str(&format!("\n  {why}"));
    }
    for target in &status.traffic {
        text.push_str(&format!("\n  {} {} %", target.revision, target.percent));
        if let Some(tag) = &target.tag {
            let address = target.address.as_deref().unwrap_or("no address yet");
            text.push_str(&format!(", {tag}: {address}"));
        }
    }
    for revision in &status.revisions {
        text.push_str(&format!(
            "\n  revision {}: {}, {} {}",
            revision.revision, revision.state, revision.created, revision.image
        ));
    }
    text
}
