//! Published versions.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{AwsError, AwsResult};
use crate::ids;
use crate::lambda::functions::{check_settled, describe};
use crate::lambda::page::Page;
use crate::lambda::registry::Registry;
use crate::lambda::state::{Config, Function, Version};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Publish {
    code_sha256: Option<String>,
    description: Option<String>,
    revision_id: Option<String>,
}

pub(crate) fn publish(registry: &Registry, name: &str, asked: Publish) -> AwsResult<Value> {
    registry.change(|state| {
        let lookup = state.clone();
        let function = state.function_mut(name)?;
        check_settled(function, asked.revision_id.as_deref())?;
        let have = &function.latest.code.sha256;
        if asked.code_sha256.as_ref().is_some_and(|wanted| wanted != have) {
            return Err(AwsError::invalid(format!(
                "CodeSHA256 ({}) is different from current CodeSHA256 in $LATEST ({have}). Please \
                 try again with the CodeSHA256 in $LATEST.",
                asked.code_sha256.unwrap_or_default()
            )));
        }
        let version = publish_unchecked(function, asked.description);
        Ok(describe(function, &version, true, &lookup))
    })
}

/// Publishes `$LATEST`, or returns the newest version if nothing changed since it was published.
pub(crate) fn publish_unchecked(function: &mut Function, description: Option<String>) -> Version {
    let latest = &function.latest;
    if let Some(newest) = function.versions.get(&function.last_number)
        && newest.code == latest.code
        && same_but_description(&newest.config, &latest.config)
    {
        return newest.clone();
    }
    function.last_number += 1;
    let mut config = latest.config.clone();
    if let Some(description) = description {
        config.description = description;
    }
    let version = Version {
        version: function.last_number.to_string(),
        revision_id: ids::uuid(),
        updating_until: 0,
        ..Version::new(latest.code.clone(), config)
    };
    function.versions.insert(function.last_number, version.clone());
    version
}

/// A version's description is given when it is published; it makes no difference of its own.
fn same_but_description(one: &Config, other: &Config) -> bool {
    let plain = |config: &Config| Config { description: String::new(), ..config.clone() };
    plain(one) == plain(other)
}

pub(crate) fn list(registry: &Registry, name: &str, page: &Page) -> AwsResult<Value> {
    let state = registry.read();
    let function = state.function(name)?;
    let all = std::iter::once(&function.latest).chain(function.versions.values());
    let all = all.map(|version| describe(function, version, true, &state)).collect();
    Ok(page.cut("Versions", all))
}
