//! Taking away what is not needed any more.

use crate::{Clients, LambdaError, status};

/// Published versions that no alias names, the newest first.
pub async fn unused(clients: &Clients, function: &str) -> Result<Vec<String>, LambdaError> {
    let found = status(clients, function).await?;
    let is_used = |version: &str| {
        found.aliases.iter().any(|alias| {
            let candidate = alias.split.candidate.as_ref();
            alias.split.stable.0 == version || candidate.is_some_and(|(one, _)| one.0 == version)
        })
    };
    let versions = found.versions.iter().map(|version| version.version.clone());
    Ok(versions.filter(|version| !is_used(version)).collect())
}

/// Deletes a version; one that is gone already is no error.
pub async fn delete_version(
    clients: &Clients,
    function: &str,
    version: &str,
) -> Result<(), LambdaError> {
    let call = clients.lambda.delete_function().function_name(function).qualifier(version);
    match call.send().await.map_err(|error| LambdaError::of("DeleteFunction", error)) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes a function with all its versions and aliases.
pub async fn delete_function(clients: &Clients, function: &str) -> Result<(), LambdaError> {
    let call = clients.lambda.delete_function().function_name(function);
    let deleted = call.send().await.map_err(|error| LambdaError::of("DeleteFunction", error));
    deleted.map(drop).map_err(|error| match error.is_not_found() {
        true => LambdaError::NoFunction { function: function.into() },
        false => error,
    })
}
