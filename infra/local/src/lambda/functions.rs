//! Functions: create, read, change, delete.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{AwsError, AwsResult};
use crate::lambda::code::UNZIPPED_LIMIT;
use crate::lambda::layers;
use crate::lambda::names::{self, LATEST};
use crate::lambda::page::Page;
use crate::lambda::registry::Registry;
use crate::lambda::state::{Code, Config, Function, State, Version};

const ENVIRONMENT_LIMIT: usize = 4096;
const LAYER_LIMIT: usize = 5;

/// Environment variables that Lambda sets itself.
const RESERVED_VARIABLES: [&str; 17] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
];

/// Where code comes from in a request.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CodeSource {
    /// Base64.
    pub(crate) zip_file: Option<String>,
    #[serde(rename = "S3Bucket")]
    pub(crate) s3_bucket: Option<String>,
    #[serde(rename = "S3Key")]
    pub(crate) s3_key: Option<String>,
    pub(crate) image_uri: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Create {
    pub(crate) function_name: String,
    pub(crate) code: CodeSource,
    #[serde(flatten)]
    pub(crate) settings: Settings,
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) package_type: Option<String>,
    pub(crate) publish: Option<bool>,
    pub(crate) tags: Option<BTreeMap<String, String>>,
}

/// What create and update-configuration share. Absent means: default, or as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Settings {
    description: Option<String>,
    role: Option<String>,
    runtime: Option<String>,
    handler: Option<String>,
    memory_size: Option<i64>,
    timeout: Option<i64>,
    ephemeral_storage: Option<EphemeralStorage>,
    environment: Option<Environment>,
    layers: Option<Vec<String>>,
    tracing_config: Option<TracingConfig>,
    dead_letter_config: Option<DeadLetterConfig>,
    revision_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EphemeralStorage {
    size: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Environment {
    variables: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TracingConfig {
    mode: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeadLetterConfig {
    target_arn: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UpdateCode {
    #[serde(flatten)]
    pub(crate) code: CodeSource,
    architectures: Option<Vec<String>>,
    publish: Option<bool>,
    dry_run: Option<bool>,
    revision_id: Option<String>,
}

pub(crate) fn ranged(value: i64, what: &str, low: i64, high: i64) -> AwsResult<u32> {
    if (low..=high).contains(&value) {
        return Ok(value as u32);
    }
    Err(AwsError::validation(format!(
        "1 validation error detected: Value '{value}' at '{what}' failed to satisfy constraint: \
         Member must have value between {low} and {high}"
    )))
}

fn architecture(asked: Option<Vec<String>>) -> AwsResult<String> {
    match asked.as_deref() {
        None | Some([]) => Ok("x86_64".into()),
        Some([one]) if one == "x86_64" || one == "arm64" => Ok(one.clone()),
        Some(other) => Err(AwsError::validation(format!(
            "1 validation error detected: Value '{other:?}' at 'architectures' failed to satisfy \
             constraint: one of x86_64, arm64"
        ))),
    }
}

impl Settings {
    /// Lays what was asked over what is there.
    fn apply(self, config: &mut Config, state: &State) -> AwsResult<()> {
        if let Some(description) = self.description {
            if description.len() > 256 {
                return Err(AwsError::validation(
                    "Value at 'description' has more than 256 characters",
                ));
            }
            config.description = description;
        }
        if let Some(role) = self.role {
            config.role = role;
        }
        if let Some(runtime) = self.runtime {
            config.runtime = runtime;
        }
        if let Some(handler) = self.handler {
            config.handler = handler;
        }
        if let Some(memory) = self.memory_size {
            config.memory_mb = ranged(memory, "memorySize", 128, 10_240)?;
        }
        if let Some(timeout) = self.timeout {
            config.timeout_s = ranged(timeout, "timeout", 1, 900)?;
        }
        if let Some(storage) = self.ephemeral_storage {
            config.ephemeral_mb = ranged(storage.size, "ephemeralStorage.size", 512, 10_240)?;
        }
        if let Some(environment) = self.environment {
            config.environment = environment.variables;
        }
        if let Some(layers) = self.layers {
            if layers.len() > LAYER_LIMIT {
                let message = format!("You can't reference more than {LAYER_LIMIT} layers.");
                return Err(AwsError::invalid(message));
            }
            layers::check_references(&layers, state)?;
            config.layers = layers;
        }
        if let Some(tracing) = self.tracing_config {
            config.tracing_mode = tracing.mode;
        }
        if let Some(dead_letter) = self.dead_letter_config {
            config.dead_letter_arn = dead_letter.target_arn.filter(|arn| !arn.is_empty());
        }
        check_config(config, state)
    }
}

fn is_variable_name(key: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let reserved = RESERVED_VARIABLES.contains(&key);
    let starts_well = key.starts_with(|first: char| first.is_ascii_alphabetic());
    reserved || starts_well && key.len() > 1 && key.bytes().all(word)
}

fn check_config(config: &Config, state: &State) -> AwsResult<()> {
    if config.runtime != "provided.al2023" && config.runtime != "provided.al2" {
        return Err(AwsError::invalid(format!(
            "slsml local runs only the runtimes provided.al2023 and provided.al2, not {}",
            config.runtime
        )));
    }
    if config.handler.len() > 128 || config.handler.contains(char::is_whitespace) {
        return Err(AwsError::validation(format!(
            "1 validation error detected: Value '{}' at 'handler' failed to satisfy constraint: up \
             to 128 characters without white space",
            config.handler
        )));
    }
    let role = config.role.rsplit('/').next().unwrap_or_default();
    if !config.role.starts_with("arn:aws:iam::") || !state.roles.contains_key(role) {
        return Err(AwsError::invalid(
            "The role defined for the function cannot be assumed by Lambda.",
        ));
    }
    let size: usize = config.environment.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ENVIRONMENT_LIMIT {
        return Err(AwsError::invalid(
            "Lambda was unable to configure your environment variables because the environment \
             variables you have provided exceeded the 4KB limit.",
        ));
    }
    if let Some(key) = config.environment.keys().find(|key| !is_variable_name(key)) {
        return Err(AwsError::validation(format!(
            "1 validation error detected: Value at 'environment.variables' failed to satisfy \
             constraint: Map keys must satisfy constraint: [a-zA-Z]([a-zA-Z0-9_])+: {key}"
        )));
    }
    let named = |key: &&String| RESERVED_VARIABLES.contains(&key.as_str());
    if let Some(key) = config.environment.keys().find(named) {
        return Err(AwsError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment \
             variables you have provided contains reserved keys that are currently not supported \
             for modification. Reserved keys used in this request: {key}"
        )));
    }
    Ok(())
}

/// The unpacked size and the presence of a bootstrap depend on code and layers together.
fn check_whole(code: &Code, config: &Config, state: &State) -> AwsResult<()> {
    let layers = layers::resolve(&config.layers, state);
    let unzipped = code.unzipped + layers.iter().map(|layer| layer.code.unzipped).sum::<u64>();
    if unzipped > UNZIPPED_LIMIT {
        return Err(AwsError::invalid(format!(
            "Function code combined with layers exceeds the maximum allowed size of \
             {UNZIPPED_LIMIT} bytes. The actual size is {unzipped} bytes."
        )));
    }
    if code.has_bootstrap || layers.iter().any(|layer| layer.code.has_bootstrap) {
        return Ok(());
    }
    Err(AwsError::invalid(format!(
        "Neither the zip nor a layer holds a file named bootstrap, which {} starts",
        config.runtime
    )))
}

/// `FunctionConfiguration` of one version.
pub(crate) fn describe(
    function: &Function,
    version: &Version,
    qualified: bool,
    state: &State,
) -> Value {
    let layers: Vec<Value> = version
        .config
        .layers
        .iter()
        .zip(layers::resolve(&version.config.layers, state))
        .map(|(arn, layer)| json!({ "Arn": arn, "CodeSize": layer.code.size }))
        .collect();
    version.to_wire(&function.name, qualified, &layers)
}

/// Creates a function whose code was checked and kept already.
pub(crate) fn create(registry: &Registry, asked: Create, code: Code) -> AwsResult<Value> {
    let (name, _) = names::split_function(&asked.function_name)?;
    if asked.package_type.as_deref().is_some_and(|kind| kind != "Zip")
        || asked.code.image_uri.is_some()
    {
        return Err(AwsError::not_offered("functions from container images"));
    }
    let architecture = architecture(asked.architectures)?;
    registry.change(|state| {
        if state.functions.contains_key(&name) {
            return Err(AwsError::conflict(format!("Function already exist: {name}")));
        }
        let mut config = Config {
            description: String::new(),
            role: String::new(),
            runtime: String::new(),
            handler: String::new(),
            architecture,
            memory_mb: 128,
            timeout_s: 3,
            ephemeral_mb: 512,
            environment: BTreeMap::new(),
            layers: Vec::new(),
            tracing_mode: "PassThrough".into(),
            dead_letter_arn: None,
        };
        asked.settings.apply(&mut config, state)?;
        if config.handler.is_empty() {
            return Err(AwsError::invalid("Handler is required for functions from a zip"));
        }
        check_whole(&code, &config, state)?;
        let mut function = Function {
            name: name.clone(),
            latest: Version::new(code, config),
            versions: BTreeMap::new(),
            last_number: 0,
            aliases: BTreeMap::new(),
            urls: BTreeMap::new(),
            reserved_concurrency: None,
            tags: asked.tags.unwrap_or_default(),
        };
        let mut wire = describe(&function, &function.latest, false, state);
        if asked.publish == Some(true) {
            let version = super::versions::publish_unchecked(&mut function, None);
            wire = describe(&function, &version, true, state);
        }
        state.functions.insert(name, function);
        Ok(wire)
    })
}

fn not_updating(function: &Function) -> AwsResult<()> {
    let arn = names::function_arn(&function.name, None);
    if function.latest.is_pending() {
        return Err(AwsError::conflict(format!(
            "The operation cannot be performed at this time. The function is currently in the \
             following state: Pending: {arn}"
        )));
    }
    if function.latest.is_updating() {
        return Err(AwsError::conflict(format!(
            "The operation cannot be performed at this time. An update is in progress for \
             resource: {arn}"
        )));
    }
    Ok(())
}

/// Refuses while an update runs, and if somebody else changed the function.
pub(crate) fn check_settled(function: &Function, revision: Option<&str>) -> AwsResult<()> {
    check_revision(&function.latest.revision_id, revision)?;
    not_updating(function)
}

pub(crate) fn check_revision(current: &str, seen: Option<&str>) -> AwsResult<()> {
    match seen {
        Some(seen) if seen != current => Err(AwsError::precondition(
            "The Revision Id provided does not match the latest Revision Id. Call the \
             GetFunction/GetAlias API to retrieve the latest Revision Id",
        )),
        _ => Ok(()),
    }
}

pub(crate) fn update_code(
    registry: &Registry,
    name: &str,
    asked: UpdateCode,
    code: Code,
) -> AwsResult<Value> {
    let dry_run = asked.dry_run == Some(true);
    let edit = |state: &mut State| {
        let lookup = state.clone();
        let function = state.function_mut(name)?;
        check_settled(function, asked.revision_id.as_deref())?;
        check_whole(&code, &function.latest.config, &lookup)?;
        let mut latest = function.latest.clone();
        latest.code = code;
        if let Some(asked) = asked.architectures {
            latest.config.architecture = architecture(Some(asked))?;
        }
        if dry_run {
            return Ok(describe(function, &latest, false, &lookup));
        }
        latest.touch();
        function.latest = latest;
        if asked.publish == Some(true) {
            let version = super::versions::publish_unchecked(function, None);
            return Ok(describe(function, &version, true, &lookup));
        }
        Ok(describe(function, &function.latest, false, &lookup))
    };
    if dry_run { edit(&mut registry.read().clone()) } else { registry.change(edit) }
}

pub(crate) fn update_configuration(
    registry: &Registry,
    name: &str,
    asked: Settings,
) -> AwsResult<Value> {
    registry.change(|state| {
        let lookup = state.clone();
        let function = state.function_mut(name)?;
        check_settled(function, asked.revision_id.as_deref())?;
        let mut config = function.latest.config.clone();
        asked.apply(&mut config, &lookup)?;
        check_whole(&function.latest.code, &config, &lookup)?;
        function.latest.config = config;
        function.latest.touch();
        Ok(describe(function, &function.latest, false, &lookup))
    })
}

/// A version or an alias of a function, and the version it leads to.
pub(crate) fn qualified<'a>(
    function: &'a Function,
    qualifier: Option<&str>,
) -> AwsResult<&'a Version> {
    let unknown = |qualifier: &str| {
        let arn = names::function_arn(&function.name, Some(qualifier));
        AwsError::not_found(format!("Function not found: {arn}"))
    };
    let Some(qualifier) = qualifier else { return Ok(&function.latest) };
    let version = match function.aliases.get(qualifier) {
        Some(alias) => &alias.version,
        None => qualifier,
    };
    function.version(version).ok_or_else(|| unknown(qualifier))
}

pub(crate) fn get_configuration(
    registry: &Registry,
    name: &str,
    qualifier: Option<&str>,
) -> AwsResult<Value> {
    let state = registry.read();
    let function = state.function(name)?;
    let version = qualified(function, qualifier)?;
    Ok(describe(function, version, qualifier.is_some(), &state))
}

pub(crate) fn get(
    registry: &Registry,
    name: &str,
    qualifier: Option<&str>,
    endpoint: &str,
) -> AwsResult<Value> {
    let configuration = get_configuration(registry, name, qualifier)?;
    let state = registry.read();
    let function = state.function(name)?;
    let sha256 = &qualified(function, qualifier)?.code.sha256;
    let location = registry.code.location(sha256, endpoint);
    let mut wire = json!({
        "Configuration": configuration,
        "Code": { "RepositoryType": "S3", "Location": location },
    });
    if !function.tags.is_empty() {
        wire["Tags"] = json!(function.tags);
    }
    if let Some(reserved) = function.reserved_concurrency {
        wire["Concurrency"] = json!({ "ReservedConcurrentExecutions": reserved });
    }
    Ok(wire)
}

pub(crate) fn list(registry: &Registry, all_versions: bool, page: &Page) -> Value {
    let state = registry.read();
    let mut all = Vec::new();
    for function in state.functions.values() {
        all.push(describe(function, &function.latest, all_versions, &state));
        if all_versions {
            let versions = function.versions.values();
            all.extend(versions.map(|version| describe(function, version, true, &state)));
        }
    }
    page.cut("Functions", all)
}

pub(crate) fn delete(registry: &Registry, name: &str, qualifier: Option<&str>) -> AwsResult<()> {
    registry.change(|state| {
        let Some(qualifier) = qualifier else {
            state.function(name)?;
            state.functions.remove(name);
            return Ok(());
        };
        let function = state.function_mut(name)?;
        let number = match qualifier.parse::<u64>() {
            Ok(number) => number,
            Err(_) if qualifier == LATEST => {
                return Err(AwsError::invalid(
                    "$LATEST version cannot be deleted without deleting the function.",
                ));
            }
            Err(_) => {
                return Err(AwsError::invalid(
                    "Deletion of aliases is not currently supported; give a version number",
                ));
            }
        };
        let uses = |alias: &&crate::lambda::state::Alias| {
            alias.version == qualifier || alias.weights.contains_key(qualifier)
        };
        if let Some(alias) = function.aliases.values().find(uses) {
            return Err(AwsError::conflict(format!(
                "Version {number} is currently referenced by alias(es): [{}]. Please delete or \
                 update the alias(es) first.",
                alias.name
            )));
        }
        function.versions.remove(&number).map(|_| ()).ok_or_else(|| {
            let arn = names::function_arn(name, Some(qualifier));
            AwsError::not_found(format!("Function not found: {arn}"))
        })
    })
}
