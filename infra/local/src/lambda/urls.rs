//! Function URLs: an HTTP address for an alias or for `$LATEST`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{AwsError, AwsResult};
use crate::ids;
use crate::lambda::names;
use crate::lambda::page::Page;
use crate::lambda::registry::Registry;
use crate::lambda::state::{Function, FunctionUrl};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Asked {
    auth_type: Option<String>,
    invoke_mode: Option<String>,
}

/// The path below which a URL is served.
pub(crate) const PATH: &str = "lambda-url";

fn to_wire(function: &str, alias: &str, url: &FunctionUrl, endpoint: &str) -> Value {
    let qualifier = (!alias.is_empty()).then_some(alias);
    json!({
        "FunctionUrl": format!("{endpoint}/{PATH}/{}/", url.id),
        "FunctionArn": names::function_arn(function, qualifier),
        "AuthType": url.auth_type,
        "InvokeMode": url.invoke_mode,
        "CreationTime": ids::timestamp(url.created),
        "LastModifiedTime": ids::timestamp(url.modified),
    })
}

fn check(asked: &Asked) -> AwsResult<()> {
    let one_of = |value: &Option<String>, allowed: &[&str], what: &str| match value {
        Some(value) if !allowed.contains(&value.as_str()) => Err(AwsError::validation(format!(
            "1 validation error detected: Value '{value}' at '{what}' failed to satisfy \
             constraint: Member must satisfy enum value set: {allowed:?}"
        ))),
        _ => Ok(()),
    };
    one_of(&asked.auth_type, &["NONE", "AWS_IAM"], "authType")?;
    one_of(&asked.invoke_mode, &["BUFFERED", "RESPONSE_STREAM"], "invokeMode")?;
    if asked.invoke_mode.as_deref() == Some("RESPONSE_STREAM") {
        return Err(AwsError::not_offered("streamed function URL answers"));
    }
    Ok(())
}

/// URLs attach to an alias or, without a qualifier, to `$LATEST`; never to a number.
fn alias_of(function: &Function, qualifier: Option<&str>) -> AwsResult<String> {
    match qualifier {
        None => Ok(String::new()),
        Some(qualifier) if names::check_alias_name(qualifier).is_err() => {
            Err(AwsError::validation(format!(
                "1 validation error detected: Value '{qualifier}' at 'qualifier' failed to satisfy \
                 constraint: Member must satisfy regular expression pattern: \
                 (^\\$LATEST$)|((?!^[0-9]+$)([a-zA-Z0-9-_]+))"
            )))
        }
        Some(qualifier) if function.aliases.contains_key(qualifier) => Ok(qualifier.to_owned()),
        Some(qualifier) => Err(AwsError::not_found(format!(
            "Function does not exist: {}",
            names::function_arn(&function.name, Some(qualifier))
        ))),
    }
}

fn unknown() -> AwsError {
    AwsError::not_found("The resource you requested does not exist.")
}

pub(crate) fn create(
    registry: &Registry,
    name: &str,
    qualifier: Option<&str>,
    asked: Asked,
    endpoint: &str,
) -> AwsResult<Value> {
    check(&asked)?;
    registry.change(|state| {
        let function = state.function_mut(name)?;
        let alias = alias_of(function, qualifier)?;
        if function.urls.contains_key(&alias) {
            let arn = names::function_arn(name, qualifier);
            return Err(AwsError::conflict(format!(
                "Function url exists for this Lambda function: {arn}"
            )));
        }
        let auth_type =
            asked.auth_type.ok_or_else(|| AwsError::validation("AuthType is required"))?;
        let now = ids::now_millis();
        let url = FunctionUrl {
            id: ids::short_id(32),
            auth_type,
            invoke_mode: asked.invoke_mode.unwrap_or_else(|| "BUFFERED".into()),
            created: now,
            modified: now,
        };
        let wire = to_wire(name, &alias, &url, endpoint);
        function.urls.insert(alias, url);
        Ok(wire)
    })
}

pub(crate) fn update(
    registry: &Registry,
    name: &str,
    qualifier: Option<&str>,
    asked: Asked,
    endpoint: &str,
) -> AwsResult<Value> {
    check(&asked)?;
    registry.change(|state| {
        let function = state.function_mut(name)?;
        let alias = alias_of(function, qualifier)?;
        let url = function.urls.get_mut(&alias).ok_or_else(unknown)?;
        if let Some(auth_type) = asked.auth_type {
            url.auth_type = auth_type;
        }
        url.modified = ids::now_millis();
        Ok(to_wire(name, &alias, url, endpoint))
    })
}

pub(crate) fn get(
    registry: &Registry,
    name: &str,
    qualifier: Option<&str>,
    endpoint: &str,
) -> AwsResult<Value> {
    let state = registry.read();
    let function = state.function(name)?;
    let alias = alias_of(function, qualifier)?;
    let url = function.urls.get(&alias).ok_or_else(unknown)?;
    Ok(to_wire(name, &alias, url, endpoint))
}

pub(crate) fn list(
    registry: &Registry,
    name: &str,
    page: &Page,
    endpoint: &str,
) -> AwsResult<Value> {
    let state = registry.read();
    let urls = state.function(name)?.urls.iter();
    let all = urls.map(|(alias, url)| to_wire(name, alias, url, endpoint)).collect();
    Ok(page.cut("FunctionUrlConfigs", all))
}

pub(crate) fn delete(registry: &Registry, name: &str, qualifier: Option<&str>) -> AwsResult<()> {
    registry.change(|state| {
        let function = state.function_mut(name)?;
        let alias = alias_of(function, qualifier)?;
        function.urls.remove(&alias).map(|_| ()).ok_or_else(unknown)
    })
}

/// The function, alias and kind of access of the URL with this id.
pub(crate) fn find(registry: &Registry, id: &str) -> Option<(String, Option<String>, String)> {
    let state = registry.read();
    state.functions.values().find_map(|function| {
        let (alias, url) = function.urls.iter().find(|(_, url)| url.id == id)?;
        let alias = (!alias.is_empty()).then(|| alias.clone());
        Some((function.name.clone(), alias, url.auth_type.clone()))
    })
}
