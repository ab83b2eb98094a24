//! Layers and their versions.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{AwsError, AwsResult};
use crate::ids;
use crate::lambda::functions::CodeSource;
use crate::lambda::names;
use crate::lambda::page::Page;
use crate::lambda::registry::Registry;
use crate::lambda::state::{Code, LayerVersion, State};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Publish {
    pub(crate) content: CodeSource,
    description: Option<String>,
    compatible_runtimes: Option<Vec<String>>,
    compatible_architectures: Option<Vec<String>>,
    license_info: Option<String>,
}

/// Name and number in a layer version's ARN.
fn parse_arn(arn: &str) -> Option<(&str, u64)> {
    let rest = arn.strip_prefix(names::layer_arn("").as_str())?;
    let (name, number) = rest.split_once(':')?;
    Some((name, number.parse().ok()?))
}

fn find<'a>(arn: &str, state: &'a State) -> Option<&'a LayerVersion> {
    let (name, number) = parse_arn(arn)?;
    state.layers.get(name)?.versions.get(&number)
}

/// The layer versions of a function. A deleted one keeps working where it is in use.
pub(crate) fn resolve<'a>(arns: &[String], state: &'a State) -> Vec<&'a LayerVersion> {
    arns.iter().filter_map(|arn| find(arn, state)).collect()
}

pub(crate) fn check_references(arns: &[String], state: &State) -> AwsResult<()> {
    let mut names = BTreeSet::new();
    for arn in arns {
        if find(arn, state).is_none_or(|layer| layer.deleted) {
            return Err(AwsError::invalid(format!("Layer version {arn} does not exist.")));
        }
        if let Some((name, _)) = parse_arn(arn)
            && !names.insert(name)
        {
            return Err(AwsError::invalid(format!(
                "Two different versions of the same layer are not allowed to be referenced in the \
                 same function: {name}"
            )));
        }
    }
    Ok(())
}

fn to_wire(
    name: &str,
    number: u64,
    layer: &LayerVersion,
    endpoint: Option<(&Registry, &str)>,
) -> Value {
    let arn = names::layer_arn(name);
    let mut wire = json!({
        "LayerArn": arn,
        "LayerVersionArn": format!("{arn}:{number}"),
        "Description": layer.description,
        "CreatedDate": ids::timestamp(layer.created),
        "Version": number,
        "CompatibleRuntimes": layer.runtimes,
        "CompatibleArchitectures": layer.architectures,
    });
    if let Some(license) = &layer.license {
        wire["LicenseInfo"] = json!(license);
    }
    if let Some((registry, endpoint)) = endpoint {
        wire["Content"] = json!({
            "Location": registry.code.location(&layer.code.sha256, endpoint),
            "CodeSha256": layer.code.sha256,
            "CodeSize": layer.code.size,
        });
    }
    wire
}

pub(crate) fn publish(
    registry: &Registry,
    name: &str,
    asked: Publish,
    code: Code,
    endpoint: &str,
) -> AwsResult<Value> {
    names::check_layer_name(name)?;
    registry.change(|state| {
        let layer = state.layers.entry(name.to_owned()).or_default();
        layer.last_number += 1;
        let version = LayerVersion {
            code,
            description: asked.description.unwrap_or_default(),
            created: ids::now_millis(),
            runtimes: asked.compatible_runtimes.unwrap_or_default(),
            architectures: asked.compatible_architectures.unwrap_or_default(),
            license: asked.license_info,
            deleted: false,
        };
        let wire = to_wire(name, layer.last_number, &version, Some((registry, endpoint)));
        layer.versions.insert(layer.last_number, version);
        Ok(wire)
    })
}

pub(crate) fn get(
    registry: &Registry,
    name: &str,
    number: &str,
    endpoint: &str,
) -> AwsResult<Value> {
    let arn = format!("{}:{number}", names::layer_arn(name));
    get_by_arn(registry, &arn, endpoint)
}

pub(crate) fn get_by_arn(registry: &Registry, arn: &str, endpoint: &str) -> AwsResult<Value> {
    let state = registry.read();
    let unknown = || AwsError::not_found(format!("Layer version {arn} does not exist."));
    let (name, number) = parse_arn(arn).ok_or_else(unknown)?;
    let layer = find(arn, &state).filter(|layer| !layer.deleted).ok_or_else(unknown)?;
    Ok(to_wire(name, number, layer, Some((registry, endpoint))))
}

pub(crate) fn list(registry: &Registry, page: &Page) -> Value {
    let state = registry.read();
    let newest = state.layers.iter().filter_map(|(name, layer)| {
        let (number, version) =
            layer.versions.iter().rev().find(|(_, version)| !version.deleted)?;
        Some(json!({
            "LayerName": name,
            "LayerArn": names::layer_arn(name),
            "LatestMatchingVersion": to_wire(name, *number, version, None),
        }))
    });
    page.cut("Layers", newest.collect())
}

pub(crate) fn list_versions(registry: &Registry, name: &str, page: &Page) -> Value {
    let state = registry.read();
    let versions = state.layers.get(name).into_iter().flat_map(|layer| layer.versions.iter().rev());
    let visible = versions.filter(|(_, version)| !version.deleted);
    let wire = visible.map(|(number, version)| to_wire(name, *number, version, None));
    page.cut("LayerVersions", wire.collect())
}

pub(crate) fn delete(registry: &Registry, name: &str, number: &str) -> AwsResult<()> {
    registry.change(|state| {
        if let (Some(layer), Ok(number)) = (state.layers.get_mut(name), number.parse::<u64>())
            && let Some(version) = layer.versions.get_mut(&number)
        {
            version.deleted = true;
        }
        Ok(())
    })
}
