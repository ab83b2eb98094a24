//! Lambda's resources as they are kept. Everything is plain data that is written to the state
//! file after each change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ids;
use crate::lambda::names;

/// How long a new function, or a changed one, takes to become usable.
const SETTLE_MILLIS: u64 = 300;

/// Everything there is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) functions: BTreeMap<String, Function>,
    pub(crate) layers: BTreeMap<String, Layer>,
    pub(crate) roles: BTreeMap<String, Role>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) latest: Version,
    /// Published versions by number.
    pub(crate) versions: BTreeMap<u64, Version>,
    /// Numbers are never used twice.
    pub(crate) last_number: u64,
    pub(crate) aliases: BTreeMap<String, Alias>,
    /// Function URLs by alias; the empty name is `$LATEST`.
    pub(crate) urls: BTreeMap<String, FunctionUrl>,
    pub(crate) reserved_concurrency: Option<u32>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
}

/// Code and configuration of `$LATEST` or of a published version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) version: String,
    pub(crate) code: Code,
    pub(crate) config: Config,
    pub(crate) last_modified: u64,
    pub(crate) revision_id: String,
    /// `State` is Pending until then.
    pub(crate) pending_until: u64,
    /// `LastUpdateStatus` is InProgress until then.
    pub(crate) updating_until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Code {
    /// SHA-256 of the zip, base64, as AWS states it.
    pub(crate) sha256: String,
    pub(crate) size: u64,
    pub(crate) unzipped: u64,
    pub(crate) has_bootstrap: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) description: String,
    pub(crate) role: String,
    pub(crate) runtime: String,
    pub(crate) handler: String,
    pub(crate) architecture: String,
    pub(crate) memory_mb: u32,
    pub(crate) timeout_s: u32,
    pub(crate) ephemeral_mb: u32,
    pub(crate) environment: BTreeMap<String, String>,
    /// Layer version ARNs.
    pub(crate) layers: Vec<String>,
    pub(crate) tracing_mode: String,
    pub(crate) dead_letter_arn: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) version: String,
    /// At most one other version and its weight, 0 to 1.
    pub(crate) weights: BTreeMap<String, f64>,
    pub(crate) revision_id: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FunctionUrl {
    pub(crate) id: String,
    pub(crate) auth_type: String,
    pub(crate) invoke_mode: String,
    pub(crate) created: u64,
    pub(crate) modified: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) versions: BTreeMap<u64, LayerVersion>,
    pub(crate) last_number: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerVersion {
    pub(crate) code: Code,
    pub(crate) description: String,
    pub(crate) created: u64,
    pub(crate) runtimes: Vec<String>,
    pub(crate) architectures: Vec<String>,
    pub(crate) license: Option<String>,
    /// Functions that use it keep it; nobody else sees it.
    #[serde(default)]
    pub(crate) deleted: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) assume_role_policy: String,
    pub(crate) description: String,
    pub(crate) created: u64,
}

impl Version {
    pub(crate) fn new(code: Code, config: Config) -> Version {
        let now = ids::now_millis();
        Version {
            version: names::LATEST.into(),
            code,
            config,
            last_modified: now,
            revision_id: ids::uuid(),
            pending_until: now + SETTLE_MILLIS,
            updating_until: 0,
        }
    }

    /// Marks a change that takes a moment to settle.
    pub(crate) fn touch(&mut self) {
        let now = ids::now_millis();
        self.last_modified = now;
        self.revision_id = ids::uuid();
        self.updating_until = now + SETTLE_MILLIS;
    }

    pub(crate) fn is_pending(&self) -> bool {
        ids::now_millis() < self.pending_until
    }

    pub(crate) fn is_updating(&self) -> bool {
        ids::now_millis() < self.updating_until
    }

    /// AWS's `FunctionConfiguration`.
    pub(crate) fn to_wire(&self, function: &str, qualified: bool, layers: &[Value]) -> Value {
        let config = &self.config;
        let arn = match qualified {
            true => names::function_arn(function, Some(&self.version)),
            false => names::function_arn(function, None),
        };
        let mut wire = json!({
            "FunctionName": function,
            "FunctionArn": arn,
            "Runtime": config.runtime,
            "Role": config.role,
            "Handler": config.handler,
            "CodeSize": self.code.size,
            "Description": config.description,
            "Timeout": config.timeout_s,
            "MemorySize": config.memory_mb,
            "LastModified": ids::timestamp(self.last_modified),
            "CodeSha256": self.code.sha256,
            "Version": self.version,
            "TracingConfig": { "Mode": config.tracing_mode },
            "RevisionId": self.revision_id,
            "PackageType": "Zip",
            "Architectures": [config.architecture],
            "EphemeralStorage": { "Size": config.ephemeral_mb },
            "SnapStart": { "ApplyOn": "None", "OptimizationStatus": "Off" },
            "LoggingConfig": { "LogFormat": "Text", "LogGroup": names::log_group(function) },
            "Layers": layers,
        });
        if self.is_pending() {
            wire["State"] = json!("Pending");
            wire["StateReason"] = json!("The function is being created.");
            wire["StateReasonCode"] = json!("Creating");
        } else {
            wire["State"] = json!("Active");
        }
        wire["LastUpdateStatus"] = json!("Successful");
        if self.is_pending() || self.is_updating() {
            wire["LastUpdateStatus"] = json!("InProgress");
            wire["LastUpdateStatusReason"] = json!("The function is being created or updated.");
            wire["LastUpdateStatusReasonCode"] =
                json!(if self.is_pending() { "Creating" } else { "Updating" });
        }
        if !config.environment.is_empty() {
            wire["Environment"] = json!({ "Variables": config.environment });
        }
        if let Some(target) = &config.dead_letter_arn {
            wire["DeadLetterConfig"] = json!({ "TargetArn": target });
        }
        wire
    }
}

impl Function {
    /// A published version, or `$LATEST`.
    pub(crate) fn version(&self, version: &str) -> Option<&Version> {
        if version == names::LATEST {
            return Some(&self.latest);
        }
        self.versions.get(&version.parse().ok()?)
    }
}

impl Alias {
    pub(crate) fn to_wire(&self, function: &str) -> Value {
        let mut wire = json!({
            "AliasArn": names::function_arn(function, Some(&self.name)),
            "Name": self.name,
            "FunctionVersion": self.version,
            "Description": self.description,
            "RevisionId": self.revision_id,
        });
        if !self.weights.is_empty() {
            wire["RoutingConfig"] = json!({ "AdditionalVersionWeights": self.weights });
        }
        wire
    }
}
