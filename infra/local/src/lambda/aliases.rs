//! Aliases and the weights that divide their traffic.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::{AwsError, AwsResult};
use crate::ids;
use crate::lambda::functions::check_revision;
use crate::lambda::names::{self, LATEST};
use crate::lambda::page::Page;
use crate::lambda::registry::Registry;
use crate::lambda::state::{Alias, Function};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Create {
    name: String,
    function_version: String,
    description: Option<String>,
    #[serde(default)]
    routing_config: Option<Routing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Update {
    function_version: Option<String>,
    description: Option<String>,
    /// Absent keeps the weights; an empty map clears them.
    routing_config: Option<Routing>,
    revision_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Routing {
    #[serde(deserialize_with = "null_is_empty")]
    additional_version_weights: BTreeMap<String, f64>,
}

fn null_is_empty<'de, D: Deserializer<'de>>(json: D) -> Result<BTreeMap<String, f64>, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

/// The rules every alias keeps.
fn check(function: &Function, alias: &Alias) -> AwsResult<()> {
    let arn = |version: &str| names::function_arn(&function.name, Some(version));
    let primary = function.version(&alias.version).ok_or_else(|| {
        AwsError::not_found(format!("Function not found: {}", arn(&alias.version)))
    })?;
    if alias.weights.len() > 1 {
        return Err(AwsError::invalid(
            "Number of items in AdditionalVersionWeights cannot be greater than 1",
        ));
    }
    let Some((version, weight)) = alias.weights.iter().next() else { return Ok(()) };
    if alias.version == LATEST || version == LATEST {
        return Err(AwsError::invalid(format!(
            "$LATEST is not supported for an alias pointing to more than 1 version: {}",
            arn(&alias.name)
        )));
    }
    if !(0.0..=1.0).contains(weight) {
        return Err(AwsError::invalid(format!(
            "Value '{weight}' for version {version} in AdditionalVersionWeights is not between 0.0 and 1.0"
        )));
    }
    if *version == alias.version {
        return Err(AwsError::invalid(format!(
            "Invalid function version {version}. Function version {version} is already included in \
             routing configuration."
        )));
    }
    let additional = function
        .version(version)
        .ok_or_else(|| AwsError::not_found(format!("Function not found: {}", arn(version))))?;
    if primary.config.role != additional.config.role
        || primary.config.dead_letter_arn != additional.config.dead_letter_arn
    {
        return Err(AwsError::invalid(
            "Versions in an alias must have the same execution role and dead-letter configuration",
        ));
    }
    Ok(())
}

pub(crate) fn create(registry: &Registry, name: &str, asked: Create) -> AwsResult<Value> {
    names::check_alias_name(&asked.name)?;
    registry.change(|state| {
        let function = state.function_mut(name)?;
        let alias = Alias {
            name: asked.name,
            description: asked.description.unwrap_or_default(),
            version: asked.function_version,
            weights: asked.routing_config.unwrap_or_default().additional_version_weights,
            revision_id: ids::uuid(),
        };
        if function.aliases.contains_key(&alias.name) {
            let arn = names::function_arn(name, Some(&alias.name));
            return Err(AwsError::conflict(format!("Alias already exists: {arn}")));
        }
        check(function, &alias)?;
        let wire = alias.to_wire(name);
        function.aliases.insert(alias.name.clone(), alias);
        Ok(wire)
    })
}

fn unknown(function: &str, alias: &str) -> AwsError {
    AwsError::not_found(format!(
        "Cannot find alias arn: {}",
        names::function_arn(function, Some(alias))
    ))
}

pub(crate) fn get(registry: &Registry, name: &str, alias: &str) -> AwsResult<Value> {
    let state = registry.read();
    let found = state.function(name)?.aliases.get(alias).ok_or_else(|| unknown(name, alias))?;
    Ok(found.to_wire(name))
}

pub(crate) fn list(
    registry: &Registry,
    name: &str,
    version: Option<&str>,
    page: &Page,
) -> AwsResult<Value> {
    let state = registry.read();
    let aliases = state.function(name)?.aliases.values();
    let wanted = |alias: &&Alias| {
        version
            .is_none_or(|version| alias.version == version || alias.weights.contains_key(version))
    };
    Ok(page.cut("Aliases", aliases.filter(wanted).map(|alias| alias.to_wire(name)).collect()))
}

pub(crate) fn update(
    registry: &Registry,
    name: &str,
    alias: &str,
    asked: Update,
) -> AwsResult<Value> {
    registry.change(|state| {
        let function = state.function_mut(name)?;
        let mut edited = function.aliases.get(alias).ok_or_else(|| unknown(name, alias))?.clone();
        check_revision(&edited.revision_id, asked.revision_id.as_deref())?;
        if let Some(version) = asked.function_version {
            edited.version = version;
        }
        if let Some(description) = asked.description {
            edited.description = description;
        }
        if let Some(routing) = asked.routing_config {
            edited.weights = routing.additional_version_weights;
        }
        check(function, &edited)?;
        edited.revision_id = ids::uuid();
        let wire = edited.to_wire(name);
        function.aliases.insert(alias.to_owned(), edited);
        Ok(wire)
    })
}

pub(crate) fn delete(registry: &Registry, name: &str, alias: &str) -> AwsResult<()> {
    registry.change(|state| {
        let function = state.function_mut(name)?;
        function.aliases.remove(alias);
        function.urls.remove(alias);
        Ok(())
    })
}
