//! `slsml invoke`: one request, its answer and who answered.

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use slsml_cloudrun::{Google, ServiceTarget};
use slsml_release::Revision;

use crate::args::{Invoke, ReleaseTarget};
use crate::failure::{Exit, Failure};
use crate::place::{CloudrunPlace, Place};
use crate::printer::Printer;
use crate::settings::Settings;

pub(crate) async fn run(
    settings: &Settings,
    args: Invoke,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let body = read(&args.body)?;
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
        return Err(Failure::usage(format!("{} is not JSON: {error}", args.body.display())).help(
            "give an infer request: {\"inputs\": [{\"name\", \"shape\", \"datatype\", \"data\"}]}",
        ));
    }
    let target = ReleaseTarget {
        place: args.place.clone(),
        alias: args.alias.clone(),
        service: args.service.clone(),
        project: args.project.clone(),
        bucket: None,
    };
    if let Some((place, service)) = super::release::service(settings, &target)? {
        let google = CloudrunPlace::connect(&place, settings)?.google;
        return ask_service(&google, &service, args.revision, body, printer).await;
    }
    if args.revision.is_some() || args.project.is_some() {
        return Err(Failure::usage("--revision and --project are for a service on Cloud Run")
            .help("name it with --service NAME; of a function, --alias takes a version, too"));
    }
    let function = function(settings, args.place.function.clone())?;
    let alias = settings.alias(args.alias);
    let place = Place::connect(&args.place, settings).await?;
    let answer = slsml_lambda::invoke(&place.clients, &function, &alias, &body, args.log).await?;
    let payload: Value = serde_json::from_slice(&answer.payload)
        .unwrap_or_else(|_| json!(String::from_utf8_lossy(&answer.payload)));
    if let Some(log) = &answer.log {
        printer.note(log.trim_end());
    }
    let version = answer.version.as_deref().unwrap_or("an unknown version");
    if answer.failed {
        let reason =
            payload.get("errorMessage").and_then(Value::as_str).unwrap_or("no reason given");
        let failure =
            Failure::new(Exit::Cloud, format!("version {version} of {function} failed: {reason}"));
        return Err(match args.log {
            true => failure,
            false => failure.help("add --log to see the function's log"),
        });
    }
    if let Some(error) = payload.get("error").and_then(Value::as_str) {
        return Err(Failure::usage(format!(
            "version {version} of {function} refused the request: {error}"
        )));
    }
    let value = json!({ "function": function, "alias": alias, "version": answer.version, "answer": payload, "log": answer.log });
    let text = serde_json::to_string_pretty(&payload)?;
    printer.note(&format!("Version {version} of {function} answered:"));
    printer.result(&value, || text)
}

async fn ask_service(
    google: &Google,
    service: &str,
    revision: Option<String>,
    body: Vec<u8>,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let asked = ServiceTarget::new(google, service).with_request(body);
    let answer = asked.invoke(revision.map(Revision).as_ref()).await?;
    let payload: Value = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| json!(String::from_utf8_lossy(&answer.body)));
    let who = payload["model_version"].as_str().map(str::to_owned);
    match answer.status {
        200..300 => {}
        status => {
            let why = payload["error"].as_str().map_or_else(|| payload.to_string(), str::to_owned);
            let message = format!("the service {service} answered with status {status}: {why}");
            return Err(match status {
                400..500 if status != 401 && status != 403 && status != 429 => {
                    Failure::usage(message)
                }
                _ => Failure::new(Exit::Cloud, message)
                    .help(format!("slsml logs --service {service} shows what its containers said")),
            });
        }
    }
    let value = json!({ "service": service, "revision": who, "answer": payload });
    let text = serde_json::to_string_pretty(&payload)?;
    let who = who.as_deref().unwrap_or("an unknown one");
    printer.note(&format!("Revision {who} of {service} answered:"));
    printer.result(&value, || text)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let outcome = match path == Path::new("-") {
        true => std::io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(path).map(|read| bytes = read),
    };
    match outcome {
        Ok(()) => Ok(bytes),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
    }
}

/// The function that flags and settings name, or that the only artifact is for.
pub(crate) fn function(settings: &Settings, flag: Option<String>) -> Result<String, Failure> {
    if let Some(function) = settings.function(flag) {
        return Ok(function);
    }
    let artifact =
        settings.artifact(None).and_then(|folder| Ok(slsml_package::Artifact::read(&folder)?));
    artifact.map(|artifact| artifact.name).map_err(|_| {
        Failure::usage("no function is named")
            .help("pass --function NAME, or name under [model] in slsml.toml")
    })
}
