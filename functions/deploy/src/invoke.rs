//! One request to a function.

use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{InvocationType, LogType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::{Clients, LambdaError, connect};

/// What came back.
#[derive(Clone, Debug)]
pub struct Invoked {
    /// The answer, or the error's JSON.
    pub payload: Vec<u8>,
    /// Which version answered.
    pub version: Option<String>,
    /// Whether the invocation failed.
    pub failed: bool,
    /// The end of the log, if it was asked for.
    pub log: Option<String>,
}

/// Sends one request and waits for its answer.
pub async fn invoke(
    clients: &Clients,
    function: &str,
    qualifier: &str,
    payload: &[u8],
    with_log: bool,
) -> Result<Invoked, LambdaError> {
    let answer = clients
        .lambda
        .invoke()
        .function_name(function)
        .qualifier(qualifier)
        .invocation_type(InvocationType::RequestResponse)
        .set_log_type(with_log.then_some(LogType::Tail))
        .payload(Blob::new(payload))
        .customize()
        .config_override(connect::for_invoke())
        .send()
        .await
        .map_err(|error| LambdaError::of("Invoke", error))?;
    let log = answer.log_result().and_then(|log| STANDARD.decode(log).ok());
    Ok(Invoked {
        failed: answer.function_error().is_some(),
        log: log.map(|log| String::from_utf8_lossy(&log).into_owned()),
        version: answer.executed_version,
        payload: answer.payload.map(Blob::into_inner).unwrap_or_default(),
    })
}
