//! The Admin API's paths and what stands behind them.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{Method, Response};
use serde_json::{Map, Value, json};

use super::error::{GoogleError, GoogleResult, answer as answered};
use super::state::{Operation, Readiness, Revision, Service, State, no_resource};
use super::{CloudRun, fields, monitoring, reconcile, validate, wire};
use crate::fault::FailsLater;
use crate::ids;

/// How many revisions a service may have.
const MOST_REVISIONS: usize = 1000;

/// How many revisions a page of a list has at most.
const PAGE: usize = 100;

/// Whether a path is Cloud Run's, Cloud Logging's or Cloud Monitoring's.
pub(crate) fn is_for(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("v2"), Some("projects")) => {
            matches!(parts.nth(1), Some("locations" | "metrics"))
        }
        (Some("v2"), Some("entries:list")) => true,
        (Some("v3"), Some("projects")) => true,
        _ => false,
    }
}

/// A call: what is asked for and with what.
struct Call<'a> {
    parts: &'a Parts,
    query: HashMap<String, String>,
    body: &'a Bytes,
}

impl Call<'_> {
    fn is(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true")
    }

    fn json(&self) -> GoogleResult<Value> {
        if self.body.is_empty() {
            return Ok(json!({}));
        }
        serde_json::from_slice(self.body).map_err(|error| {
            GoogleError::invalid(format!("Invalid JSON payload received. {error}"))
        })
    }
}

/// Answers a request for a path that [`is_for`] Cloud Run.
pub(crate) async fn answer(run: &Arc<CloudRun>, parts: &Parts, body: &Bytes) -> Response<Bytes> {
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let call = Call { parts, query: query.into_owned().collect(), body };
    let (response, value) = match route(run, &call).await {
        Ok(value) => (answered(200, &value), value),
        Err(error) => (error.response(), json!({ "refused": error.message })),
    };
    record(run, &call, response.status().as_u16(), &value);
    response
}

/// Writes a call down, where that was asked for.
fn record(run: &CloudRun, call: &Call<'_>, status: u16, answer: &Value) {
    use std::io::Write;
    let Some(file) = &run.record else { return };
    let line = json!({
        "method": call.parts.method.as_str(),
        "path": call.parts.uri.path(),
        "query": call.query,
        "request": call.json().ok(),
        "status": status,
        "answer": answer,
    });
    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // A full disk must not stop the cloud.
    let _ = writeln!(file, "{line}");
}

async fn route(run: &Arc<CloudRun>, call: &Call<'_>) -> GoogleResult<Value> {
    let path = call.parts.uri.path();
    if !call.parts.headers.contains_key("authorization") {
        return Err(GoogleError {
            http: 401,
            status: "UNAUTHENTICATED",
            message: "Request is missing required authentication credential.".into(),
        });
    }
    if let Some(rest) = path.strip_prefix("/v3/") {
        return monitoring::answer(run, &call.parts.method, rest, call.parts.uri.query());
    }
    let name = path.strip_prefix("/v2/").unwrap_or_default();
    let (name, verb) = match name.rsplit_once(':') {
        Some((name, verb)) => (name, Some(verb)),
        None => (name, None),
    };
    let segments: Vec<&str> = name.split('/').collect();
    match (&call.parts.method, segments.as_slice(), verb) {
        (method, ["entries"], Some("list")) | (method, ["projects", _, "metrics", ..], None) => {
            run.logging.answer(method, &segments, &call.json()?)
        }
        (&Method::GET, [_, _, _, _, "services"], None) => Ok(list(run, call, name)),
        (&Method::POST, [_, _, _, _, "services"], None) => create(run, call, name),
        (&Method::GET, [_, _, _, _, "services", _], None) => {
            Ok(wire::service(&run.store.service(name)?))
        }
        (&Method::PATCH, [_, _, _, _, "services", _], None) => patch(run, call, name),
        (&Method::DELETE, [_, _, _, _, "services", _], None) => delete(run, call, name),
        (&Method::GET, [.., "services", _], Some("getIamPolicy")) => {
            Ok(policy(&run.store.service(name)?))
        }
        (&Method::POST, [.., "services", _], Some("setIamPolicy")) => set_policy(run, call, name),
        (&Method::POST, [.., "services", _], Some("testIamPermissions")) => {
            run.store.service(name)?;
            // Whoever asks here may do everything.
            Ok(json!({ "permissions": call.json()?["permissions"] }))
        }
        (&Method::GET, [_, _, _, _, "services", _, "revisions"], None) => {
            revisions(run, call, name)
        }
        (&Method::GET, [_, _, _, _, "services", _, "revisions", _], None) => {
            let (service, revision) = revision(run, name)?;
            Ok(wire::revision(&service, &revision))
        }
        (&Method::DELETE, [_, _, _, _, "services", _, "revisions", _], None) => {
            delete_revision(run, call, name)
        }
        (&Method::GET, [_, _, _, _, "operations", _], None) => operation(run, name),
        (&Method::POST, [_, _, _, _, "operations", _], Some("wait")) => wait(run, name).await,
        (&Method::GET, [_, _, _, _, "operations"], None) => {
            let state = run.store.read();
            let all = state.operations.iter().map(|(name, operation)| {
                wire::operation(name, operation, state.services.get(&operation.service))
            });
            Ok(json!({ "operations": all.collect::<Vec<_>>() }))
        }
        (method, ..) => {
            Err(GoogleError::not_offered(format!("slsml local does not offer {method} {path}")))
        }
    }
}

fn list(run: &CloudRun, call: &Call<'_>, name: &str) -> Value {
    let prefix = format!("{name}/");
    let state = run.store.read();
    let services = state.services.values().filter(|service| service.name.starts_with(&prefix));
    page(call, "services", services.map(wire::service).collect())
}

/// A page of a list; its token says how many came before.
fn page(call: &Call<'_>, name: &str, all: Vec<Value>) -> Value {
    let number = |name: &str| call.query.get(name).and_then(|text| text.parse::<usize>().ok());
    let (size, before) = (number("pageSize").unwrap_or(0), number("pageToken").unwrap_or(0));
    let size = if size == 0 { PAGE } else { size.min(PAGE) };
    let next = (all.len() > before + size).then(|| (before + size).to_string());
    let mut value = json!({ name: all.into_iter().skip(before).take(size).collect::<Vec<_>>() });
    if let Some(next) = next {
        value["nextPageToken"] = json!(next);
    }
    value
}

fn create(run: &Arc<CloudRun>, call: &Call<'_>, parent: &str) -> GoogleResult<Value> {
    let id = call.query.get("serviceId").map(String::as_str).unwrap_or_default();
    validate::service_id(id)?;
    let name = format!("{parent}/{id}");
    let spec = fields::read(&call.json()?)?;
    write(run, call, &name, |there| match there {
        Some(_) => Err(GoogleError::exists(format!("Resource '{id}' already exists."))),
        None => Ok((Service::new(&name), spec)),
    })
}

fn patch(run: &Arc<CloudRun>, call: &Call<'_>, name: &str) -> GoogleResult<Value> {
    let body = call.json()?;
    let given = fields::read(&body)?;
    let said = Value::Object(given.clone());
    write(run, call, name, |there| {
        let service = match there {
            None if call.is("allowMissing") => {
                let id = name.rsplit('/').next().unwrap_or_default();
                validate::service_id(id)?;
                return Ok((Service::new(name), given));
            }
            None => return Err(no_resource(name)),
            Some(service) => service.clone(),
        };
        let etag = body["etag"].as_str().filter(|etag| !etag.is_empty());
        if let Some(etag) = etag.filter(|etag| *etag != service.etag) {
            let (id, current) = (service.id(), &service.etag);
            return Err(GoogleError::aborted(format!(
                "Conflict for resource '{id}': version '{etag}' was specified but current version is \
                 '{current}'."
            )));
        }
        let spec = match call.query.get("updateMask").filter(|mask| !mask.is_empty()) {
            None => given,
            Some(mask) => {
                let mut spec = service.spec.clone();
                for path in mask.split(',') {
                    masked(&mut spec, &said, path)?;
                }
                spec
            }
        };
        Ok((service, spec))
    })
}

/// Takes over one path of an update mask.
fn masked(spec: &mut Map<String, Value>, body: &Value, path: &str) -> GoogleResult<()> {
    // Masks name fields as they are in protocol buffers, or as in JSON.
    let names: Vec<String> = path.split('.').map(fields::camel).collect();
    if !fields::may_be_masked(&names) {
        return Err(GoogleError::invalid(format!("Invalid field mask: `{path}`")));
    }
    let mut from = body;
    let mut to = spec;
    for (at, name) in names.iter().enumerate() {
        from = &from[name];
        if at + 1 < names.len() {
            let entry = to.entry(name.clone()).or_insert_with(|| json!({}));
            match entry {
                Value::Object(object) => to = object,
                _ => return Err(GoogleError::invalid(format!("Invalid field mask: `{path}`"))),
            }
        } else if from.is_null() {
            to.remove(name);
        } else {
            to.insert(name.clone(), from.clone());
        }
    }
    Ok(())
}

/// Sets what a service should be, and begins to bring it there. `next` says what that is, of what is
/// there at that moment.
fn write(
    run: &Arc<CloudRun>,
    call: &Call<'_>,
    name: &str,
    next: impl FnOnce(Option<&Service>) -> GoogleResult<(Service, Map<String, Value>)>,
) -> GoogleResult<Value> {
    let id = operation_id(name);
    let only_validate = call.is("validateOnly");
    let edit = |state: &mut State| {
        let (mut service, spec) = next(state.services.get(name))?;
        set(&mut service, spec, call.is("forceNewRevision"))?;
        let operation = Operation {
            service: name.into(),
            created: ids::now_millis(),
            done: only_validate,
            error: None,
            response: None,
            fails: call.parts.extensions.get::<FailsLater>().is_some(),
        };
        if only_validate {
            return Ok(wire::operation(&id, &operation, Some(&service)));
        }
        service.reconciling = Some(id.clone());
        if !service.ports.contains_key("") {
            let port = run.listen(name, "", 0).map_err(GoogleError::internal)?;
            service.ports.insert(String::new(), port);
        }
        let answer = wire::operation(&id, &operation, Some(&service));
        state.services.insert(name.into(), service);
        state.operations.insert(id.clone(), operation);
        forget_old(&mut state.operations);
        Ok(answer)
    };
    let answer = run.store.attempt(only_validate, edit)?;
    if !only_validate {
        reconcile::spawn(run, name, id);
    }
    Ok(answer)
}

/// Makes a service what it is wanted to be, as far as that is words.
fn set(service: &mut Service, spec: Map<String, Value>, forced: bool) -> GoogleResult<()> {
    validate::spec(service.id(), &spec)?;
    let was = std::mem::replace(&mut service.spec, spec);
    if let Some(template) = service.spec.get_mut("template") {
        fill_in(template);
    }
    if forced || was.get("template") != service.spec.get("template") {
        add_revision(service)?;
    }
    validate::targets(service)?;
    if forced || was != service.spec {
        service.updated = ids::now_millis();
        service.generation += 1;
        service.etag = etag();
    }
    Ok(())
}

/// What Google makes of what is not said.
fn fill_in(template: &mut Value) {
    let default = |at: &mut Value, value: Value| {
        if at.is_null() {
            *at = value;
        }
    };
    default(&mut template["timeout"], json!("300s"));
    // Less than a processor takes one request at once.
    let cpu = template["containers"][0]["resources"]["limits"]["cpu"].as_str();
    let is_part = cpu.and_then(validate::cpus).is_some_and(|cpu| cpu < 1.0);
    if template["maxInstanceRequestConcurrency"] == 0 {
        template["maxInstanceRequestConcurrency"] = Value::Null;
    }
    default(&mut template["maxInstanceRequestConcurrency"], json!(if is_part { 1 } else { 80 }));
    default(
        &mut template["serviceAccount"],
        json!("000000000000-compute@developer.gserviceaccount.com"),
    );
    default(&mut template["scaling"]["maxInstanceCount"], json!(100));
    let container = &mut template["containers"][0];
    default(&mut container["ports"], json!([{ "name": "http1", "containerPort": 8080 }]));
    default(&mut container["resources"]["limits"]["cpu"], json!("1000m"));
    default(&mut container["resources"]["limits"]["memory"], json!("512Mi"));
    let port = container["ports"][0]["containerPort"].clone();
    let probe = json!({
        "timeoutSeconds": 240,
        "periodSeconds": 240,
        "failureThreshold": 1,
        "tcpSocket": { "port": port },
    });
    default(&mut container["startupProbe"], probe);
}

/// A name for an operation on a service.
fn operation_id(service: &str) -> String {
    let location = service.split("/services/").next().unwrap_or_default();
    format!("{location}/operations/{}", ids::uuid())
}

/// An operation that took no time.
fn ended(service: &str, response: Value) -> Operation {
    Operation {
        service: service.into(),
        created: ids::now_millis(),
        done: true,
        error: None,
        response: Some(response),
        fails: false,
    }
}

/// Operations are kept for an hour.
fn forget_old(operations: &mut std::collections::BTreeMap<String, Operation>) {
    let oldest = ids::now_millis().saturating_sub(3_600_000);
    operations.retain(|_, operation| !operation.done || operation.created > oldest);
}

fn etag() -> String {
    format!("\"{}\"", STANDARD.encode(ids::uuid().as_bytes()).trim_end_matches('='))
}

fn add_revision(service: &mut Service) -> GoogleResult<()> {
    let template = service.template().clone();
    let named = template["revision"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let name = named.unwrap_or_else(|| {
        let number = service.revisions.len() + 1;
        format!("{}-{number:05}-{}", service.id(), ids::short_id(3))
    });
    if let Some(there) = service.revisions.get(&name) {
        if there.template == template {
            return Ok(());
        }
        return Err(GoogleError::exists(format!(
            "Revision named '{name}' with different configuration already exists."
        )));
    }
    if service.revisions.len() >= MOST_REVISIONS {
        return Err(GoogleError::failed_precondition("a service has at most 1000 revisions"));
    }
    let revision = Revision {
        name: name.clone(),
        uid: ids::uuid(),
        etag: etag(),
        created: ids::now_millis(),
        template,
        state: Readiness::Pending,
    };
    service.revisions.insert(name.clone(), revision);
    service.latest_created = Some(name);
    Ok(())
}

fn delete(run: &Arc<CloudRun>, call: &Call<'_>, name: &str) -> GoogleResult<Value> {
    let only_validate = call.is("validateOnly");
    let answer = run.store.attempt(only_validate, |state| {
        let service = state.services.remove(name).ok_or_else(|| no_resource(name))?;
        if call.query.get("etag").is_some_and(|etag| *etag != service.etag) {
            return Err(GoogleError::aborted(format!("Conflict for resource '{name}'")));
        }
        let id = operation_id(name);
        let operation = ended(name, wire::service(&service));
        let answer = wire::operation(&id, &operation, None);
        state.operations.insert(id, operation);
        Ok(answer)
    })?;
    if !only_validate {
        run.close(name);
    }
    Ok(answer)
}

/// A revision by its full name, and its service.
fn revision(run: &CloudRun, name: &str) -> GoogleResult<(Service, Revision)> {
    let (service, id) = name.split_once("/revisions/").ok_or_else(|| no_resource(name))?;
    let service = run.store.service(service)?;
    let revision = service.revisions.get(id).cloned().ok_or_else(|| no_resource(name))?;
    Ok((service, revision))
}

/// A page of a service's revisions, the newest first.
fn revisions(run: &CloudRun, call: &Call<'_>, name: &str) -> GoogleResult<Value> {
    let service = run.store.service(name.trim_end_matches("/revisions"))?;
    let mut all: Vec<&Revision> = service.revisions.values().collect();
    all.sort_by_key(|revision| std::cmp::Reverse(revision.created));
    let all = all.into_iter().map(|one| wire::revision(&service, one)).collect();
    Ok(page(call, "revisions", all))
}

fn delete_revision(run: &CloudRun, call: &Call<'_>, name: &str) -> GoogleResult<Value> {
    let (of, short) = name.split_once("/revisions/").ok_or_else(|| no_resource(name))?;
    run.store.attempt(call.is("validateOnly"), |state| {
        let service = state.services.get_mut(of).ok_or_else(|| no_resource(of))?;
        let revision = service.revisions.get(short).ok_or_else(|| no_resource(name))?;
        if call.query.get("etag").is_some_and(|etag| *etag != revision.etag) {
            return Err(GoogleError::aborted(format!("Conflict for resource '{name}'")));
        }
        let mut targets = service.wanted();
        targets.extend_from_slice(&service.serving);
        let used = targets.iter().any(|one| one.revision == short);
        if used || service.latest_created.as_deref() == Some(short) {
            return Err(GoogleError::failed_precondition(format!(
                "Revision '{short}' cannot be deleted: it is the latest created, gets traffic or has \
                 a tag"
            )));
        }
        let operation = ended("", wire::revision(service, revision));
        let id = operation_id(of);
        let mut answer = wire::operation(&id, &operation, None);
        for field in ["response", "metadata"] {
            answer[field]["@type"] = json!("type.googleapis.com/google.cloud.run.v2.Revision");
        }
        service.revisions.remove(short);
        state.operations.insert(id, operation);
        Ok(answer)
    })
}

fn operation(run: &CloudRun, name: &str) -> GoogleResult<Value> {
    let state = run.store.read();
    let operation = state.operations.get(name).ok_or_else(|| no_resource(name))?;
    Ok(wire::operation(name, operation, state.services.get(&operation.service)))
}

/// Waits for an operation's end, half a minute at most.
async fn wait(run: &CloudRun, name: &str) -> GoogleResult<Value> {
    for _ in 0..300 {
        let found = operation(run, name)?;
        if found["done"] == true {
            return Ok(found);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    operation(run, name)
}

fn policy(service: &Service) -> Value {
    let mut policy = service.policy.clone();
    policy.entry("etag").or_insert_with(|| json!("ACAB"));
    Value::Object(policy)
}

fn set_policy(run: &CloudRun, call: &Call<'_>, name: &str) -> GoogleResult<Value> {
    let body = call.json()?;
    let mut given = body["policy"].as_object().cloned().unwrap_or_default();
    let service = run.store.change(|state| {
        let service = state.services.get_mut(name).ok_or_else(|| no_resource(name))?;
        let current = policy(service);
        if given.get("etag").is_some_and(|etag| *etag != current["etag"]) {
            return Err(GoogleError::aborted(
                "There were concurrent policy changes. Please retry the whole read-modify-write \
                 with exponential backoff.",
            ));
        }
        let etag = STANDARD.encode(ids::short_id(8));
        given.insert("etag".into(), json!(etag));
        given.entry("version").or_insert(json!(1));
        service.policy = given;
        Ok(service.clone())
    })?;
    Ok(policy(&service))
}
