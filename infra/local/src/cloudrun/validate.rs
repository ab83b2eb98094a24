//! What Google refuses.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::{GoogleError, GoogleResult};
use super::state::Service;

/// Namespaces of labels and annotations that are the system's.
const SYSTEM: [&str; 4] = [
    "run.googleapis.com",
    "cloud.googleapis.com",
    "serving.knative.dev",
    "autoscaling.knative.dev",
];

/// Features of the API that a machine has not.
const NOT_OFFERED: [&str; 8] = [
    "buildConfig",
    "binaryAuthorization",
    "iapEnabled",
    "multiRegionSettings",
    "sshEnabled",
    "defaultUriDisabled",
    "customAudiences",
    "functionalType",
];

fn violation(field: &str, why: &str) -> GoogleError {
    GoogleError::invalid(format!("Violation in {field}: {why}"))
}

/// A service's short name: fewer than 50 characters.
pub(crate) fn service_id(id: &str) -> GoogleResult<()> {
    match is_label(id) && id.len() < 50 {
        true => Ok(()),
        false => Err(violation(
            "CreateServiceRequest.service_id",
            "only lowercase, digits, and hyphens; must begin with letter, and cannot end with hyphen; \
             must be less than 50 characters",
        )),
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.bytes().all(inner)
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
}

/// What a service may be.
pub(crate) fn spec(id: &str, spec: &Map<String, Value>) -> GoogleResult<()> {
    for feature in NOT_OFFERED {
        if spec.get(feature).is_some_and(|value| *value != Value::Bool(false)) {
            return Err(GoogleError::not_offered(format!("slsml local does not offer {feature}")));
        }
    }
    let null = Value::Null;
    let field = |name: &str| spec.get(name).unwrap_or(&null);
    for name in ["labels", "annotations"] {
        metadata(&format!("Service.{name}"), field(name))?;
    }
    if field("description").as_str().is_some_and(|text| text.chars().count() > 512) {
        return Err(violation("Service.description", "must be at most 512 characters"));
    }
    scaling("Service.scaling", field("scaling"))?;
    template(id, field("template"))?;
    traffic(id, field("traffic"))
}

/// Numbers of instances.
fn scaling(path: &str, scaling: &Value) -> GoogleResult<()> {
    let count = |name: &str| number(&scaling[name]);
    for name in ["minInstanceCount", "maxInstanceCount", "manualInstanceCount"] {
        if count(name).is_some_and(|count| count < 0.0) {
            return Err(violation(path, &format!("{name} must not be negative")));
        }
    }
    // A maximum of none is no maximum.
    let most = count("maxInstanceCount").filter(|most| *most > 0.0);
    match (count("minInstanceCount"), most) {
        (Some(least), Some(most)) if least > most => {
            Err(violation(path, "min_instance_count must not be greater than max_instance_count"))
        }
        _ => Ok(()),
    }
}

fn metadata(path: &str, value: &Value) -> GoogleResult<()> {
    for (key, value) in value.as_object().into_iter().flatten() {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if SYSTEM.iter().any(|system| domain == *system || domain.ends_with(&format!(".{system}")))
        {
            return Err(violation(path, &format!("{key} is in a namespace of the system")));
        }
        if !value.is_string() {
            return Err(violation(path, &format!("the value of {key} is no string")));
        }
    }
    Ok(())
}

fn template(id: &str, template: &Value) -> GoogleResult<()> {
    let at = |field: &str| format!("Service.template.{field}");
    for name in ["labels", "annotations"] {
        metadata(&at(name), &template[name])?;
    }
    if let Some(revision) = template["revision"].as_str().filter(|name| !name.is_empty()) {
        let suffix = revision.strip_prefix(id).and_then(|rest| rest.strip_prefix('-'));
        if suffix.is_none_or(str::is_empty) || !is_label(revision) || revision.len() > 63 {
            return Err(violation(
                &at("revision"),
                &format!("must be lower case, begin with '{id}-' and have at most 63 characters"),
            ));
        }
    }
    let containers = template["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [container] = containers else {
        return Err(match containers.is_empty() {
            true => violation(&at("containers"), "must have at least one container"),
            false => GoogleError::not_offered("slsml local does not offer sidecars"),
        });
    };
    for feature in ["volumes", "serviceMesh", "encryptionKey"] {
        if !template[feature].is_null() {
            let message = format!("slsml local does not offer {feature}");
            return Err(GoogleError::not_offered(message));
        }
    }
    let concurrency = number(&template["maxInstanceRequestConcurrency"]);
    if concurrency.is_some_and(|number| !(0.0..=1000.0).contains(&number)) {
        return Err(violation(&at("max_instance_request_concurrency"), "must be from 0 to 1000"));
    }
    if let Some(timeout) = template["timeout"].as_str() {
        let seconds = timeout.strip_suffix('s').and_then(|text| text.parse::<f64>().ok());
        if seconds.is_none_or(|seconds| !(1.0..=3600.0).contains(&seconds)) {
            return Err(violation(&at("timeout"), "must be from 1s to 3600s"));
        }
    }
    scaling(&at("scaling"), &template["scaling"])?;
    network(&at("vpc_access"), &template["vpcAccess"])?;
    self::container(container, concurrency, &template["executionEnvironment"])
}

/// An interface in a network, or a connector.
fn network(path: &str, access: &Value) -> GoogleResult<()> {
    let interfaces = access["networkInterfaces"].as_array().map_or(0, Vec::len);
    let connector = access["connector"].as_str().is_some_and(|name| !name.is_empty());
    if connector && interfaces > 0 {
        return Err(violation(path, "connector and network_interfaces are mutually exclusive"));
    }
    if interfaces > 1 {
        return Err(violation(path, "only a single network interface is supported"));
    }
    Ok(())
}

/// One kind of probe within its ranges, which the discovery document has.
fn probe(path: &str, probe: &Value, longest: f64) -> GoogleResult<()> {
    if probe.is_null() {
        return Ok(());
    }
    let kinds = ["httpGet", "tcpSocket", "grpc"];
    if kinds.iter().filter(|kind| !probe[**kind].is_null()).count() != 1 {
        return Err(violation(path, "exactly one of http_get, tcp_socket and grpc must be set"));
    }
    // Zero is what is not said.
    let said = |name: &str| number(&probe[name]).filter(|value| *value != 0.0);
    let value = |name: &str, usual: f64| said(name).unwrap_or(usual);
    let (timeout, period) = (value("timeoutSeconds", 1.0), value("periodSeconds", 10.0));
    let ranges = [
        ("initial_delay_seconds", value("initialDelaySeconds", 0.0), 0.0, longest),
        ("timeout_seconds", timeout, 1.0, 3600.0),
        ("period_seconds", period, 1.0, longest),
        ("failure_threshold", value("failureThreshold", 3.0), 1.0, f64::from(i32::MAX)),
    ];
    for (name, value, least, most) in ranges {
        if !(least..=most).contains(&value) {
            return Err(violation(path, &format!("{name} must be from {least} to {most}")));
        }
    }
    match timeout > period {
        true => Err(violation(path, "timeout_seconds must not be greater than period_seconds")),
        false => Ok(()),
    }
}

/// The longest value of a variable, in bytes.
const LONGEST_VALUE: usize = 32_768;

fn container(container: &Value, concurrency: Option<f64>, environment: &Value) -> GoogleResult<()> {
    let at = |field: &str| format!("Service.template.containers[0].{field}");
    if container["image"].as_str().is_none_or(str::is_empty) {
        return Err(violation(&at("image"), "must be set"));
    }
    let mut names = BTreeSet::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or_default();
        if matches!(name, "PORT" | "K_SERVICE" | "K_REVISION" | "K_CONFIGURATION") {
            let why = format!("The following reserved env names were provided: {name}");
            return Err(violation(&at("env"), &why));
        }
        if name.is_empty() || !names.insert(name) {
            return Err(violation(
                &at("env"),
                &format!("the name `{name}` is empty or twice there"),
            ));
        }
        if variable["value"].as_str().is_some_and(|value| value.len() > LONGEST_VALUE) {
            let why = format!("the value of {name} must have at most {LONGEST_VALUE} bytes");
            return Err(violation(&at("env"), &why));
        }
        if !variable["valueSource"].is_null() {
            return Err(GoogleError::not_offered("slsml local does not offer secrets"));
        }
    }
    let ports = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.len() > 1 {
        return Err(violation(&at("ports"), "only a single port can be specified"));
    }
    for port in ports {
        let number = number(&port["containerPort"]).unwrap_or(8080.0);
        if !(1.0..=65535.0).contains(&number) {
            return Err(violation(&at("ports"), "a port is from 1 to 65535"));
        }
        if !matches!(port["name"].as_str().unwrap_or(""), "" | "http1" | "h2c") {
            return Err(violation(&at("ports"), "port name must be http1 or h2c"));
        }
    }
    probe(&at("startup_probe"), &container["startupProbe"], 240.0)?;
    probe(&at("liveness_probe"), &container["livenessProbe"], 3600.0)?;
    let limits = &container["resources"]["limits"];
    for name in limits.as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
        if !matches!(name, "cpu" | "memory") {
            let message = format!("slsml local does not offer the limit {name}");
            return Err(GoogleError::not_offered(message));
        }
    }
    let cpu = match limits["cpu"].as_str() {
        None => 1.0,
        Some(text) => match cpus(text) {
            Some(cpu) if [1.0, 2.0, 4.0, 6.0, 8.0].contains(&cpu) || (0.08..1.0).contains(&cpu) => {
                cpu
            }
            _ => {
                return Err(violation(
                    &at("resources.limits.cpu"),
                    "must be 1, 2, 4, 6, 8 or from 0.08 to 1",
                ));
            }
        },
    };
    // <https://cloud.google.com/run/docs/configuring/services/cpu>
    let of_part = [
        (concurrency.is_some_and(|number| number > 1.0), "concurrency must be 1"),
        (
            container["resources"]["cpuIdle"] == false,
            "CPU must be allocated while requests run only",
        ),
        (
            environment == "EXECUTION_ENVIRONMENT_GEN2",
            "the execution environment must be of the first generation",
        ),
    ];
    if let Some((_, why)) = of_part.into_iter().find(|(holds, _)| cpu < 1.0 && *holds) {
        let why = format!("{why} with less than one CPU");
        return Err(violation(&at("resources.limits.cpu"), &why));
    }
    let text = limits["memory"].as_str().unwrap_or("512Mi");
    let Some(bytes) = memory(text) else {
        return Err(violation(&at("resources.limits.memory"), "must be a quantity like 512Mi"));
    };
    // <https://cloud.google.com/run/docs/configuring/services/memory-limits>
    let least_cpu = match bytes >> 20 {
        0..=4096 => 0.0,
        4097..=8192 => 2.0,
        8193..=16384 => 4.0,
        16385..=24576 => 6.0,
        _ => 8.0,
    };
    let least_memory = match cpu {
        4.0 => 2 << 30,
        6.0 | 8.0 => 4 << 30,
        _ => 128 << 20,
    };
    let most_memory = match cpu {
        part if part < 0.5 => 512 << 20,
        part if part < 1.0 => 1 << 30,
        _ => 32_u64 << 30,
    };
    if !(least_memory..=most_memory).contains(&bytes) || cpu < least_cpu {
        let why = format!("{text} does not go with {cpu} CPU, or is not from 128Mi to 32Gi");
        return Err(violation(&at("resources.limits.memory"), &why));
    }
    Ok(())
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

/// A Kubernetes quantity in processors.
pub(crate) fn cpus(text: &str) -> Option<f64> {
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok().map(|number| number / 1000.0),
        None => text.parse().ok(),
    }
}

/// A Kubernetes quantity in bytes.
pub(crate) fn memory(text: &str) -> Option<u64> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    for (unit, shift) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<u64>().ok()?.checked_mul(1 << shift);
        }
    }
    for (unit, factor) in [("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<u64>().ok()?.checked_mul(factor);
        }
    }
    text.parse().ok()
}

fn traffic(id: &str, traffic: &Value) -> GoogleResult<()> {
    let targets = traffic.as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut sum, mut tags) = (0, BTreeSet::new());
    for target in targets {
        let percent = match &target["percent"] {
            Value::Null => 0,
            value => match value.as_u64().filter(|percent| *percent <= 100) {
                Some(percent) => percent,
                None => {
                    let why = format!("{value} is no whole percent from 0 to 100");
                    return Err(violation("Service.traffic.percent", &why));
                }
            },
        };
        sum += percent;
        let named = target["revision"].as_str().is_some_and(|name| !name.is_empty());
        let by_revision = match target["type"].as_str() {
            Some(kind) => kind == "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION",
            None => return Err(violation("Service.traffic.type", "must be set")),
        };
        if by_revision != named {
            let why = "a revision is named if, and only if, traffic is allocated by revision";
            return Err(violation("Service.traffic.revision", why));
        }
        if let Some(tag) = target["tag"].as_str().filter(|tag| !tag.is_empty()) {
            if !is_label(tag) {
                return Err(violation("Service.traffic.tag", &format!("`{tag}` is no tag")));
            }
            if tag.len() + id.len() > 46 {
                return Err(GoogleError::invalid(format!(
                    "Combined traffic tag and service name cannot exceed 46 characters: '{tag}' and '{id}'"
                )));
            }
            if !tags.insert(tag) {
                return Err(violation("Service.traffic.tag", &format!("`{tag}` is twice there")));
            }
        }
    }
    match targets.is_empty() || sum == 100 {
        true => Ok(()),
        false => {
            let why = format!("percents must add up to 100, not to {sum}");
            Err(violation("Service.traffic", &why))
        }
    }
}

/// Revisions that get traffic are there, or are about to be.
pub(crate) fn targets(service: &Service) -> GoogleResult<()> {
    for target in service.spec.get("traffic").and_then(Value::as_array).into_iter().flatten() {
        let name = target["revision"].as_str().unwrap_or_default();
        if !name.is_empty() && !service.revisions.contains_key(name) {
            return Err(violation(
                "Service.traffic.revision",
                &format!("Revision '{name}' is not a revision of the service"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    /// A service with something changed in its container and its template.
    fn refusal(container: &Value, template: &Value) -> Option<String> {
        let mut all = json!({ "template": { "containers": [{ "image": "i" }] } });
        merge(&mut all["template"]["containers"][0], container);
        merge(&mut all["template"], template);
        spec("digits", all.as_object().unwrap()).err().map(|error| error.message)
    }

    fn merge(into: &mut Value, more: &Value) {
        for (name, value) in more.as_object().unwrap() {
            into[name] = value.clone();
        }
    }

    fn limits(cpu: &str, memory: &str) -> Value {
        json!({ "resources": { "limits": { "cpu": cpu, "memory": memory } } })
    }

    #[test]
    fn processors_and_memory_must_go_together() {
        let table = [
            ("1", "512Mi", true),
            ("1000m", "4Gi", true),
            ("1", "5Gi", false),
            ("4", "512Mi", false),
            ("4", "2Gi", true),
            ("8", "2Gi", false),
            ("8", "32Gi", true),
            ("3", "2Gi", false),
            ("0.4", "512Mi", true),
            ("400m", "1Gi", false),
            ("0.5", "1Gi", true),
            ("0.5", "2Gi", false),
            ("1", "64Mi", false),
        ];
        for (cpu, memory, fits) in table {
            let refused = refusal(&limits(cpu, memory), &json!({}));
            assert_eq!(refused.is_none(), fits, "{cpu} {memory}: {refused:?}");
        }
        let always = json!({ "resources": { "limits": { "cpu": "0.5" }, "cpuIdle": false } });
        assert!(refusal(&always, &json!({})).unwrap().contains("less than one CPU"));
        let many = json!({ "maxInstanceRequestConcurrency": 2 });
        assert!(refusal(&limits("0.5", "512Mi"), &many).is_some());
        assert!(refusal(&limits("1", "512Mi"), &many).is_none());
    }

    #[test]
    fn what_google_refuses_is_refused() {
        let nothing = json!({});
        for (container, template) in [
            (json!({ "image": "" }), nothing.clone()),
            (json!({ "env": [{ "name": "K_SERVICE", "value": "x" }] }), nothing.clone()),
            (json!({ "env": [{ "name": "A", "value": "x".repeat(32_769) }] }), nothing.clone()),
            (json!({ "ports": [{ "containerPort": 0 }] }), nothing.clone()),
            (json!({ "ports": [{ "name": "grpc" }] }), nothing.clone()),
            (json!({ "startupProbe": {} }), nothing.clone()),
            (json!({ "startupProbe": { "grpc": {}, "tcpSocket": {} } }), nothing.clone()),
            (json!({ "startupProbe": { "grpc": {}, "timeoutSeconds": 11 } }), nothing.clone()),
            (json!({ "startupProbe": { "grpc": {}, "periodSeconds": 241 } }), nothing.clone()),
            (nothing.clone(), json!({ "revision": "other-1" })),
            (nothing.clone(), json!({ "timeout": "3601s" })),
            (nothing.clone(), json!({ "maxInstanceRequestConcurrency": 1001 })),
            (
                nothing.clone(),
                json!({ "scaling": { "minInstanceCount": 3, "maxInstanceCount": 2 } }),
            ),
            (nothing.clone(), json!({ "scaling": { "minInstanceCount": -1 } })),
            (nothing.clone(), json!({ "annotations": { "run.googleapis.com/x": "y" } })),
            (
                nothing.clone(),
                json!({ "vpcAccess": { "connector": "c", "networkInterfaces": [{ "network": "n" }] } }),
            ),
        ] {
            assert!(refusal(&container, &template).is_some(), "{container} {template}");
        }
        assert_eq!(refusal(&nothing, &nothing), None);
    }

    #[test]
    fn a_tag_and_the_services_name_share_46_characters() {
        let all = json!([{
            "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100, "tag": "candidate",
        }]);
        assert!(traffic(&"s".repeat(37), &all).is_ok());
        assert!(traffic(&"s".repeat(38), &all).is_err());
    }
}
