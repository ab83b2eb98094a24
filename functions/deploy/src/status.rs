//! What is deployed.

use serde::Serialize;
use slsml_release::Split;

use crate::alias::observed;
use crate::{Clients, LambdaError};

/// A function, its aliases and versions.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionStatus {
    /// Its name.
    pub function: String,
    /// `Active`, `Pending`, `Inactive` or `Failed`.
    pub state: String,
    /// `Successful`, `InProgress` or `Failed`.
    pub last_update_status: String,
    /// Memory in MB.
    pub memory_mb: i32,
    /// How long a request may take.
    pub timeout_s: i32,
    /// The limit of requests that run at once, if one is reserved.
    pub reserved_concurrency: Option<i32>,
    /// Its aliases.
    pub aliases: Vec<AliasStatus>,
    /// Its published versions, the newest first.
    pub versions: Vec<VersionStatus>,
}

/// An alias.
#[derive(Clone, Debug, Serialize)]
pub struct AliasStatus {
    /// Its name.
    pub name: String,
    /// How its traffic is divided.
    pub split: Split,
}

/// A published version.
#[derive(Clone, Debug, Serialize)]
pub struct VersionStatus {
    /// Its number.
    pub version: String,
    /// What was said of it when it was published.
    pub description: String,
    /// SHA-256 of its code, base64.
    pub code_sha256: String,
    /// Size of its zip in bytes.
    pub code_size: i64,
    /// When it was published.
    pub last_modified: String,
}

/// Reads what is deployed.
pub async fn status(clients: &Clients, function: &str) -> Result<FunctionStatus, LambdaError> {
    let lambda = &clients.lambda;
    let found = lambda.get_function().function_name(function).send().await;
    let found = found.map_err(|error| match LambdaError::of("GetFunction", error) {
        error if error.is_not_found() => LambdaError::NoFunction { function: function.into() },
        error => error,
    })?;
    let missing = LambdaError::Incomplete { call: "GetFunction", field: "Configuration" };
    let configuration = found.configuration.ok_or(missing)?;
    Ok(FunctionStatus {
        function: function.into(),
        state: configuration.state().map(|state| state.as_str().to_owned()).unwrap_or_default(),
        last_update_status: configuration
            .last_update_status()
            .map(|status| status.as_str().to_owned())
            .unwrap_or_default(),
        memory_mb: configuration.memory_size().unwrap_or_default(),
        timeout_s: configuration.timeout().unwrap_or_default(),
        reserved_concurrency: found.concurrency.and_then(|c| c.reserved_concurrent_executions),
        aliases: aliases(clients, function).await?,
        versions: versions(clients, function).await?,
    })
}

async fn aliases(clients: &Clients, function: &str) -> Result<Vec<AliasStatus>, LambdaError> {
    let mut pages =
        clients.lambda.list_aliases().function_name(function).into_paginator().items().send();
    let mut all = Vec::new();
    while let Some(alias) = pages.next().await {
        let alias = alias.map_err(|error| LambdaError::of("ListAliases", error))?;
        let name = alias.name.unwrap_or_default();
        let observed = observed(alias.function_version, alias.routing_config, alias.revision_id)?;
        all.extend(observed.split.map(|split| AliasStatus { name, split }));
    }
    Ok(all)
}

async fn versions(clients: &Clients, function: &str) -> Result<Vec<VersionStatus>, LambdaError> {
    let mut pages = clients
        .lambda
        .list_versions_by_function()
        .function_name(function)
        .into_paginator()
        .items()
        .send();
    let mut all = Vec::new();
    while let Some(version) = pages.next().await {
        let version = version.map_err(|error| LambdaError::of("ListVersionsByFunction", error))?;
        if version.version() != Some("$LATEST") {
            all.push(VersionStatus {
                version: version.version.unwrap_or_default(),
                description: version.description.unwrap_or_default(),
                code_sha256: version.code_sha256.unwrap_or_default(),
                code_size: version.code_size,
                last_modified: version.last_modified.unwrap_or_default(),
            });
        }
    }
    all.reverse();
    Ok(all)
}
