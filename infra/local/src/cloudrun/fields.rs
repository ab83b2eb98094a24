//! The fields of messages, from the discovery document of `run.googleapis.com`, version 2. A field
//! nobody knows is refused by Google; one that is known and not offered here is refused by us.

use serde_json::Value;

use super::error::{GoogleError, GoogleResult};

/// What the API knows, of a service.
pub(crate) const SERVICE: &[&str] = &[
    "annotations",
    "binaryAuthorization",
    "buildConfig",
    "client",
    "clientVersion",
    "customAudiences",
    "defaultUriDisabled",
    "description",
    "functionalType",
    "iapEnabled",
    "ingress",
    "invokerIamDisabled",
    "labels",
    "launchStage",
    "multiRegionSettings",
    "scaling",
    "sshEnabled",
    "template",
    "traffic",
];

/// What is output only; it may be sent and is ignored.
const SERVICE_OUTPUT: &[&str] = &[
    "conditions",
    "createTime",
    "creator",
    "deleteTime",
    "etag",
    "expireTime",
    "generation",
    "lastModifier",
    "latestCreatedRevision",
    "latestReadyRevision",
    "name",
    "observedGeneration",
    "reconciling",
    "satisfiesPzs",
    "terminalCondition",
    "threatDetectionEnabled",
    "trafficStatuses",
    "uid",
    "updateTime",
    "uri",
    "urls",
];

const TEMPLATE: &[&str] = &[
    "ambientNetworking",
    "annotations",
    "client",
    "clientVersion",
    "containers",
    "encryptionKey",
    "encryptionKeyRevocationAction",
    "encryptionKeyShutdownDuration",
    "executionEnvironment",
    "gpuZonalRedundancyDisabled",
    "healthCheckDisabled",
    "labels",
    "maxInstanceRequestConcurrency",
    "nodeSelector",
    "revision",
    "sandboxes",
    "scaling",
    "serviceAccount",
    "serviceMesh",
    "sessionAffinity",
    "timeout",
    "volumes",
    "vpcAccess",
    "workloadIdentityConfig",
];

const CONTAINER: &[&str] = &[
    "args",
    "baseImageUri",
    "buildConfig",
    "buildInfo",
    "command",
    "dependsOn",
    "env",
    "image",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "sandboxLauncher",
    "sourceCode",
    "startupProbe",
    "volumeMounts",
    "workingDir",
];

const TRAFFIC: &[&str] = &["percent", "revision", "tag", "type"];
const SERVICE_SCALING: &[&str] =
    &["manualInstanceCount", "maxInstanceCount", "minInstanceCount", "scalingMode"];
const REVISION_SCALING: &[&str] =
    &["concurrencyUtilization", "cpuUtilization", "maxInstanceCount", "minInstanceCount"];
const RESOURCES: &[&str] = &["cpuIdle", "limits", "startupCpuBoost"];
const PORT: &[&str] = &["containerPort", "name"];
const ENV: &[&str] = &["name", "value", "valueSource"];

/// Whether a name is that of a service's field a mask may name.
pub(crate) fn is_of_service(name: &str) -> bool {
    SERVICE.contains(&name) || SERVICE_OUTPUT.contains(&name)
}

/// Refuses names nobody knows, wherever they are.
pub(crate) fn check(service: &Value) -> GoogleResult<()> {
    known(service, &[SERVICE, SERVICE_OUTPUT], "service")?;
    known(&service["scaling"], &[SERVICE_SCALING], "service.scaling")?;
    for (at, target) in list(&service["traffic"]) {
        known(target, &[TRAFFIC], &format!("service.traffic[{at}]"))?;
    }
    let template = &service["template"];
    known(template, &[TEMPLATE], "service.template")?;
    known(&template["scaling"], &[REVISION_SCALING], "service.template.scaling")?;
    for (at, container) in list(&template["containers"]) {
        let path = format!("service.template.containers[{at}]");
        known(container, &[CONTAINER], &path)?;
        known(&container["resources"], &[RESOURCES], &format!("{path}.resources"))?;
        for (port, value) in list(&container["ports"]) {
            known(value, &[PORT], &format!("{path}.ports[{port}]"))?;
        }
        for (variable, value) in list(&container["env"]) {
            known(value, &[ENV], &format!("{path}.env[{variable}]"))?;
        }
    }
    Ok(())
}

fn list(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

fn known(value: &Value, names: &[&[&str]], path: &str) -> GoogleResult<()> {
    let fields = match value {
        Value::Null => return Ok(()),
        Value::Object(fields) => fields,
        _ => return Err(GoogleError::invalid(format!("Invalid value at '{path}'"))),
    };
    match fields.keys().find(|name| !names.iter().any(|all| all.contains(&name.as_str()))) {
        None => Ok(()),
        Some(name) => Err(GoogleError::invalid(format!(
            "Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field."
        ))),
    }
}
