//! What happens before the first event: find the model, load it, run it once if nobody waits.

use std::path::PathBuf;

use lambda_runtime_api_client::Client;
use lambda_runtime_api_client::body::Body;
use serde_json::json;
use slsml_inference::{Limits, Service};
use slsml_model::{MANIFEST_FILE, MODEL_FILE, Manifest, Model};

use crate::log;

type Error = Box<dyn std::error::Error>;

/// Loads what the artifact holds.
pub(crate) fn service() -> Result<Service, Error> {
    let home = home()?;
    let manifest = Manifest::read(&home.join(MANIFEST_FILE))?;
    let model = Model::load_to_serve(&home.join(MODEL_FILE))?;
    warm_up(&model);
    Ok(Service {
        name: manifest.name,
        version: function_version(),
        model,
        limits: Limits::default(),
        counted: manifest.counted,
        extensions: &[],
    })
}

/// The function's version is the model's: it says which release answered.
pub(crate) fn function_version() -> String {
    std::env::var("AWS_LAMBDA_FUNCTION_VERSION").unwrap_or_else(|_| "$LATEST".into())
}

/// The folder with the manifest: the function's own, or a layer.
fn home() -> Result<PathBuf, Error> {
    let task =
        std::env::var_os("LAMBDA_TASK_ROOT").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let places = [task, PathBuf::from("/opt")];
    match places.iter().find(|place| place.join(MANIFEST_FILE).is_file()) {
        Some(place) => Ok(place.clone()),
        None => {
            let [task, layer] = places.each_ref().map(|place| place.display());
            Err(format!("no {MANIFEST_FILE} in {task} or {layer}; package the model again").into())
        }
    }
}

/// A first run costs nearly what a later one does, so with somebody waiting (`on-demand`) it would
/// only delay the answer. With provisioned concurrency or a snapshot it finds failures early.
fn warm_up(model: &Model) {
    let waiting =
        std::env::var("AWS_LAMBDA_INITIALIZATION_TYPE").is_ok_and(|kind| kind == "on-demand");
    if waiting {
        return;
    }
    if let Err(error) = model.warm_up() {
        // Zeros may be input the model refuses; a request will tell.
        log::error("the warm-up run failed", &error.to_string());
    }
}

/// Tells Lambda and the log why the function cannot start.
pub(crate) async fn report(cause: &str) {
    log::error("the function cannot start", cause);
    if let Err(error) = post(cause).await {
        log::error("the init error could not be reported", &error.to_string());
    }
}

async fn post(cause: &str) -> Result<(), Error> {
    let body = json!({ "errorType": "ModelUnreadable", "errorMessage": cause, "stackTrace": [] });
    let request = http::Request::post("/2018-06-01/runtime/init/error")
        .header("lambda-runtime-function-error-type", "ModelUnreadable")
        .body(Body::from(body.to_string()))?;
    let client = Client::builder().build()?;
    client.call(request).await.map_err(|error| error.to_string())?;
    Ok(())
}
