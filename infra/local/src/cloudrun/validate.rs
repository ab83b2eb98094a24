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
    template(id, field("template"))?;
    traffic(field("traffic"))
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
    let scaling = &template["scaling"];
    let (least, most) =
        (number(&scaling["minInstanceCount"]), number(&scaling["maxInstanceCount"]));
    if let (Some(least), Some(most)) = (least, most)
        && least > most
    {
        let why = "min_instance_count must not be greater than max_instance_count";
        return Err(violation(&at("scaling"), why));
    }
    self::container(container, concurrency)
}

fn container(container: &Value, concurrency: Option<f64>) -> GoogleResult<()> {
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
    if cpu < 1.0 && concurrency.is_some_and(|number| number > 1.0) {
        let why = "concurrency must be 1 with less than one CPU";
        return Err(violation(&at("resources.limits.cpu"), why));
    }
    if let Some(text) = limits["memory"].as_str() {
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
        if !(128 << 20..=32 << 30).contains(&bytes) || cpu < least_cpu {
            let why = format!("{text} does not go with {cpu} CPU, or is not from 128Mi to 32Gi");
            return Err(violation(&at("resources.limits.memory"), &why));
        }
    }
    Ok(())
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
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

fn traffic(traffic: &Value) -> GoogleResult<()> {
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
        let by_revision = match &target["type"] {
            Value::String(kind) => kind == "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION",
            Value::Number(kind) => kind.as_u64() == Some(2),
            _ => return Err(violation("Service.traffic.type", "must be set")),
        };
        if by_revision != named {
            let why = "a revision is named if, and only if, traffic is allocated by revision";
            return Err(violation("Service.traffic.revision", why));
        }
        if let Some(tag) = target["tag"].as_str().filter(|tag| !tag.is_empty()) {
            if !is_label(tag) || tag.len() > 46 {
                return Err(violation("Service.traffic.tag", &format!("`{tag}` is no tag")));
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
