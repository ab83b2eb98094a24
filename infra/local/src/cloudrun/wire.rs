//! Resources as the API shows them.

use serde_json::{Map, Value, json};

use super::state::{Failure, Operation, Readiness, Revision, Service};
use crate::ids;

fn time(millis: u64) -> String {
    ids::iso8601(millis / 1000)
}

fn condition(kind: &str, state: &str, at: u64, failure: Option<&Failure>) -> Value {
    let mut value = json!({ "type": kind, "state": state, "lastTransitionTime": time(at) });
    if let Some(failure) = failure {
        value["message"] = json!(failure.message);
        let field = if failure.reason.starts_with("HEALTH") { "revisionReason" } else { "reason" };
        value[field] = json!(failure.reason);
    }
    value
}

pub(crate) fn service(service: &Service) -> Value {
    let mut wire: Map<String, Value> = service.spec.clone();
    let revision = |name: &Option<String>| {
        name.as_ref().map(|name| format!("{}/revisions/{name}", service.name))
    };
    let reconciling = service.reconciling.is_some();
    let (state, failure) = match (&service.failure, reconciling) {
        (_, true) => ("CONDITION_RECONCILING", None),
        (Some(failure), false) => ("CONDITION_FAILED", Some(failure)),
        (None, false) => ("CONDITION_SUCCEEDED", None),
    };
    let uri = |tag: &str| {
        service.ports.get(tag).map(|port| format!("http://127.0.0.1:{port}")).unwrap_or_default()
    };
    let statuses: Vec<Value> = service
        .serving
        .iter()
        .map(|serving| {
            let kind = if serving.latest { "LATEST" } else { "REVISION" };
            let mut status = json!({
                "type": format!("TRAFFIC_TARGET_ALLOCATION_TYPE_{kind}"),
                "percent": serving.percent,
            });
            if !serving.latest {
                status["revision"] = json!(serving.revision);
            }
            if let Some(tag) = &serving.tag {
                status["tag"] = json!(tag);
                status["uri"] = json!(uri(tag));
            }
            status
        })
        .collect();
    let fixed = json!({
        "name": service.name,
        "uid": service.uid,
        "etag": service.etag,
        "generation": service.generation.to_string(),
        "observedGeneration": service.observed.to_string(),
        "createTime": time(service.created),
        "updateTime": time(service.updated),
        "creator": "slsml-local",
        "lastModifier": "slsml-local",
        "launchStage": "GA",
        "ingress": service.spec.get("ingress").unwrap_or(&json!("INGRESS_TRAFFIC_ALL")),
        "reconciling": reconciling,
        "terminalCondition": condition("Ready", state, service.updated, failure),
        "conditions": [
            condition("RoutesReady", state, service.updated, failure),
            condition("ConfigurationsReady", state, service.updated, failure),
        ],
        "trafficStatuses": statuses,
        "uri": uri(""),
        "urls": [uri("")],
    });
    if let Value::Object(fixed) = fixed {
        wire.extend(fixed);
    }
    let latest = [
        ("latestCreatedRevision", revision(&service.latest_created)),
        ("latestReadyRevision", revision(&service.latest_ready)),
    ];
    for (name, value) in latest {
        if let Some(value) = value {
            wire.insert(name.into(), json!(value));
        }
    }
    Value::Object(wire)
}

pub(crate) fn revision(service: &Service, revision: &Revision) -> Value {
    let mut wire = revision.template.as_object().cloned().unwrap_or_default();
    // What belongs to the template alone.
    wire.remove("revision");
    wire.remove("healthCheckDisabled");
    let (state, failure) = match &revision.state {
        Readiness::Pending => ("CONDITION_RECONCILING", None),
        Readiness::Ready => ("CONDITION_SUCCEEDED", None),
        Readiness::Failed(failure) => ("CONDITION_FAILED", Some(failure)),
    };
    let fixed = json!({
        "name": format!("{}/revisions/{}", service.name, revision.name),
        "service": service.id(),
        "uid": revision.uid,
        "etag": revision.etag,
        "generation": "1",
        "observedGeneration": "1",
        "createTime": time(revision.created),
        "updateTime": time(revision.created),
        "creator": "slsml-local",
        "launchStage": "GA",
        "reconciling": revision.state == Readiness::Pending,
        "conditions": [
            condition("Ready", state, revision.created, failure),
            condition("ContainerReady", state, revision.created, failure),
        ],
    });
    if let Value::Object(fixed) = fixed {
        wire.extend(fixed);
    }
    Value::Object(wire)
}

const TYPE: &str = "type.googleapis.com/google.cloud.run.v2.Service";

pub(crate) fn operation(name: &str, operation: &Operation, service: Option<&Service>) -> Value {
    let shown = service.map(self::service).or_else(|| operation.response.clone());
    let typed = shown.map(|mut value| {
        value["@type"] = json!(TYPE);
        value
    });
    let mut wire = json!({ "name": name, "done": operation.done });
    if let Some(value) = &typed {
        wire["metadata"] = value.clone();
    }
    match (&operation.error, operation.done) {
        (_, false) => {}
        (Some(message), true) => wire["error"] = json!({ "code": 9, "message": message }),
        (None, true) => wire["response"] = typed.unwrap_or_else(|| json!({ "@type": TYPE })),
    }
    wire
}
