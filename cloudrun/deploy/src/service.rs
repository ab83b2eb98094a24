//! A service as it should be: its settings, and a revision of the image.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use slsml_release::Revision;

use crate::traffic::{self, Target};
use crate::{CloudRunError, Google};

/// Our own annotations.
pub(crate) const FIRST: &str = "slsml.dev/first-revision";
pub(crate) const WRITE: &str = "slsml.dev/write";
pub(crate) const MODEL: &str = "slsml.dev/model";

/// How often a write that came too late is looked at anew.
const TRIES: u32 = 4;

/// Revisions of one name that failed before another is tried.
const MOST_ATTEMPTS: u32 = 20;

/// What a service should be. What is not said stays as it is, or is Google's default.
#[derive(Clone, Debug, Default)]
pub struct ServiceSpec {
    /// Its name: fewer than 50 characters.
    pub name: String,
    /// The model's name in requests.
    pub model: String,
    /// The image by its digest: `REGISTRY/PATH@sha256:…`.
    pub image: String,
    /// CPUs of an instance.
    pub cpu: Option<String>,
    /// Memory of an instance, as `512Mi`.
    pub memory: Option<String>,
    /// Instances that are there always, over all revisions with traffic.
    pub min_instances: Option<u32>,
    /// The most instances of a revision.
    pub max_instances: Option<u32>,
    /// How many requests an instance takes at once.
    pub concurrency: Option<u32>,
    /// How long a request may take.
    pub timeout_s: Option<u32>,
    /// More CPU while an instance starts.
    pub cpu_boost: Option<bool>,
    /// CPU between requests, too.
    pub cpu_always: Option<bool>,
    /// Who reaches it.
    pub ingress: Option<Ingress>,
    /// Who it is to other services of Google's.
    pub service_account: Option<String>,
    /// Variables that are set beside those that are there.
    pub environment: BTreeMap<String, String>,
    /// Variables whose values are secrets: `NAME` to `SECRET:VERSION`.
    pub secrets: BTreeMap<String, String>,
    /// Whether everybody may send requests.
    pub public: Option<bool>,
}

/// Who reaches a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// Everybody.
    All,
    /// What is in the project's networks.
    Internal,
    /// That, and load balancers.
    LoadBalancer,
}

impl Ingress {
    fn wire(self) -> &'static str {
        match self {
            Self::All => "INGRESS_TRAFFIC_ALL",
            Self::Internal => "INGRESS_TRAFFIC_INTERNAL_ONLY",
            Self::LoadBalancer => "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// There is no such service.
    Create,
    /// There is no such revision.
    Revision,
    /// The service's own settings differ.
    Settings,
    /// The revision has no address.
    Tag,
    /// Who may send requests differs.
    Access,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The service is created.
    Creating,
    /// A revision is started.
    Starting,
    /// Settings are written.
    Updating,
    /// Who may send requests is written.
    Access,
}

/// A service as it should be.
#[derive(Clone, Debug)]
pub struct Ensured {
    /// The revision of the image.
    pub revision: Revision,
    /// Whether anything was written.
    pub changed: bool,
}

/// What is to be done.
struct Todo {
    changes: Vec<Change>,
    revision: String,
    template: Value,
}

/// The service, if it exists.
pub(crate) async fn get(google: &Google, service: &str) -> Result<Option<Value>, CloudRunError> {
    let url = google.run_url(&google.service_name(service));
    match google.call("GetService", Method::GET, &url, &[], None).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A revision, if it exists.
pub(crate) async fn revision(
    google: &Google,
    service: &str,
    name: &str,
) -> Result<Option<Value>, CloudRunError> {
    let url = google.run_url(&format!("{}/revisions/{name}", google.service_name(service)));
    match google.call("GetRevision", Method::GET, &url, &[], None).await {
        Ok(found) => Ok(found.get("deleteTime").is_none().then_some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What differs, and the revision's name if it is there already.
pub async fn changes(
    google: &Google,
    spec: &ServiceSpec,
) -> Result<(Vec<Change>, Option<Revision>), CloudRunError> {
    let service = get(google, &spec.name).await?;
    let todo = todo(google, spec, service.as_ref()).await?;
    let is_there = !todo.changes.contains(&Change::Revision);
    Ok((todo.changes, is_there.then_some(Revision(todo.revision))))
}

/// Makes a service what it should be, with a ready revision of the image that has an address of its
/// own and no traffic.
pub async fn ensure(
    google: &Google,
    spec: &ServiceSpec,
    mut progress: impl FnMut(Progress),
) -> Result<Ensured, CloudRunError> {
    let mut tried = 1;
    loop {
        match once(google, spec, &mut progress).await {
            // Somebody changed something in between: what is still to be done is looked at anew.
            Err(error) if error.is_conflict() && tried < TRIES => tried += 1,
            Err(error) if error.is_conflict() => {
                return Err(CloudRunError::Moved { what: format!("the service {}", spec.name) });
            }
            ended => return ended,
        }
    }
}

async fn once(
    google: &Google,
    spec: &ServiceSpec,
    progress: &mut impl FnMut(Progress),
) -> Result<Ensured, CloudRunError> {
    let service = get(google, &spec.name).await?;
    let Todo { changes, revision: name, template } = todo(google, spec, service.as_ref()).await?;
    let writes = changes.iter().any(|change| *change != Change::Access);
    if writes {
        let (call, operation) = match &service {
            None => {
                progress(Progress::Creating);
                ("CreateService", create(google, spec, &name, template).await?)
            }
            Some(service) => {
                let starts = changes.contains(&Change::Revision);
                progress(if starts { Progress::Starting } else { Progress::Updating });
                let template = starts.then_some(template);
                ("UpdateService", update(google, spec, service, &name, template).await?)
            }
        };
        if let Err(error) = google.finish(call, operation).await {
            // The revision's own words say more than the service's.
            wait_ready(google, &spec.name, &name).await?;
            return Err(error);
        }
    }
    wait_ready(google, &spec.name, &name).await?;
    if changes.contains(&Change::Access) {
        progress(Progress::Access);
        set_access(google, &spec.name, spec.public.unwrap_or(false)).await?;
    }
    Ok(Ensured { revision: Revision(name), changed: !changes.is_empty() })
}

async fn todo(
    google: &Google,
    spec: &ServiceSpec,
    service: Option<&Value>,
) -> Result<Todo, CloudRunError> {
    let there = service.map(|service| &service["template"]);
    let template = template(spec, there);
    let (revision, is_there) = named(google, spec, there, &template).await?;
    let mut changes = Vec::new();
    if service.is_none() {
        changes.push(Change::Create);
    }
    if !is_there {
        changes.push(Change::Revision);
    }
    if let Some(service) = service {
        let targets = traffic::targets(service);
        let reachable = |target: &Target| {
            target.revision == revision && (target.percent > 0 || target.tag.is_some())
        };
        if is_there && !targets.iter().any(reachable) {
            changes.push(Change::Tag);
        }
        if settings(spec, Some(service)) != settings(&ServiceSpec::default(), Some(service)) {
            changes.push(Change::Settings);
        }
    }
    if let Some(public) = spec.public {
        let now = match service {
            None => false,
            Some(_) => is_public(&policy(google, &spec.name).await?),
        };
        if now != public {
            changes.push(Change::Access);
        }
    }
    Ok(Todo { changes, revision, template })
}

/// The name of the revision that is made from a template, and whether it is there; `there` is the
/// service's template, if it exists.
async fn named(
    google: &Google,
    spec: &ServiceSpec,
    there: Option<&Value>,
    template: &Value,
) -> Result<(String, bool), CloudRunError> {
    let Some(there) = there else {
        return Ok((revision_name(&spec.name, &spec.image, template, 0), false));
    };
    // Google fills in what was not said, so that a name made of all that is there would be another.
    let current = there["revision"].as_str().filter(|_| unnamed(there) == *template);
    if let Some(current) = current
        && let Some(found) = revision(google, &spec.name, current).await?
        && readiness(&found) != Readiness::Failed
    {
        return Ok((current.to_owned(), true));
    }
    let mut name = String::new();
    for attempt in 0..MOST_ATTEMPTS {
        name = revision_name(&spec.name, &spec.image, template, attempt);
        match revision(google, &spec.name, &name).await? {
            // One that failed is not tried again under its name: Google keeps it as it is.
            Some(found) if readiness(&found) == Readiness::Failed => {}
            found => return Ok((name, found.is_some())),
        }
    }
    Ok((name, false))
}

/// `SERVICE-IIIIIIII-TTTT`: the image's digest and that of everything else a revision consists of. The
/// same image with the same settings is the same revision, on every machine.
pub fn revision_name(service: &str, image: &str, template: &Value, attempt: u32) -> String {
    let digest = image.rsplit_once("sha256:").map_or("", |(_, digest)| digest);
    let text = match attempt {
        0 => template.to_string(),
        _ => format!("{template} {attempt}"),
    };
    let settings = Sha256::digest(text.as_bytes());
    format!(
        "{service}-{}-{:02x}{:02x}",
        digest.get(..8).unwrap_or(digest),
        settings[0],
        settings[1]
    )
}

/// A revision has its own name, and who made the one before says nothing of this one.
const OF_ONE: [&str; 3] = ["revision", "client", "clientVersion"];

/// A template without what belongs to one revision.
fn unnamed(template: &Value) -> Value {
    let mut all = template.clone();
    if let Value::Object(object) = &mut all {
        OF_ONE.iter().for_each(|field| drop(object.remove(*field)));
    }
    all
}

/// What a revision is made from: what is there, with what is said.
fn template(spec: &ServiceSpec, there: Option<&Value>) -> Value {
    let there = there.filter(|there| there.is_object());
    let fresh = there.is_none();
    let mut all = there.map_or_else(|| json!({}), unnamed);
    if let Some(concurrency) = spec.concurrency {
        all["maxInstanceRequestConcurrency"] = json!(concurrency);
    }
    if let Some(seconds) = spec.timeout_s.or(fresh.then_some(60)) {
        all["timeout"] = json!(format!("{seconds}s"));
    }
    if let Some(account) = &spec.service_account {
        all["serviceAccount"] = json!(account);
    }
    all["annotations"][MODEL] = json!(spec.model);
    if let Some(most) = spec.max_instances {
        all["scaling"]["maxInstanceCount"] = json!(most);
    }
    let mut containers = all["containers"].as_array().cloned().unwrap_or_default();
    // Beside it there may be others; requests go to the one with a port.
    let serving = containers.iter().position(|one| !one["ports"].is_null()).unwrap_or(0);
    if containers.is_empty() {
        containers.push(json!({}));
    }
    let container = &mut containers[serving];
    container["image"] = json!(spec.image);
    // HTTP/1.1, HTTP/2 and gRPC at one port.
    container["ports"] = json!([{ "name": "h2c", "containerPort": 8080 }]);
    let limits = [("cpu", spec.cpu.as_deref(), "1"), ("memory", spec.memory.as_deref(), "512Mi")];
    for (name, said, usual) in limits {
        if let Some(value) = said.or(fresh.then_some(usual)) {
            container["resources"]["limits"][name] = json!(value);
        }
    }
    if let Some(idle) = spec.cpu_always.map(|always| !always).or(fresh.then_some(true)) {
        container["resources"]["cpuIdle"] = json!(idle);
    }
    if let Some(boost) = spec.cpu_boost.or(fresh.then_some(true)) {
        container["resources"]["startupCpuBoost"] = json!(boost);
    }
    container["env"] = environment(spec, &container["env"]);
    if container["env"].as_array().is_some_and(Vec::is_empty)
        && let Value::Object(container) = container
    {
        container.remove("env");
    }
    all["containers"] = json!(containers);
    all
}

/// Variables that are there, with those that are said.
fn environment(spec: &ServiceSpec, there: &Value) -> Value {
    let is_said =
        |name: &str| spec.environment.contains_key(name) || spec.secrets.contains_key(name);
    let kept = there.as_array().into_iter().flatten();
    let kept = kept.filter(|one| !is_said(one["name"].as_str().unwrap_or_default())).cloned();
    let plain =
        spec.environment.iter().map(|(name, value)| json!({ "name": name, "value": value }));
    let secrets = spec.secrets.iter().map(|(name, secret)| {
        let (secret, version) = secret.split_once(':').unwrap_or((secret, "latest"));
        let reference = json!({ "secret": secret, "version": version });
        json!({ "name": name, "valueSource": { "secretKeyRef": reference } })
    });
    kept.chain(plain).chain(secrets).collect()
}

/// The service's own settings: what is there, with what is said.
fn settings(spec: &ServiceSpec, there: Option<&Value>) -> Map<String, Value> {
    let mut all = Map::new();
    let was =
        |field: &str| there.map(|service| service[field].clone()).filter(|value| !value.is_null());
    let mut scaling = was("scaling").unwrap_or_else(|| json!({}));
    if let Some(least) = spec.min_instances {
        let unsaid = least == 0 && scaling["minInstanceCount"].is_null();
        if !unsaid {
            scaling["minInstanceCount"] = json!(least);
        }
    }
    if scaling.as_object().is_some_and(|scaling| !scaling.is_empty()) {
        all.insert("scaling".into(), scaling);
    }
    let ingress = spec.ingress.map(|ingress| json!(ingress.wire())).or_else(|| was("ingress"));
    all.extend(ingress.map(|ingress| ("ingress".to_owned(), ingress)));
    all
}

async fn create(
    google: &Google,
    spec: &ServiceSpec,
    name: &str,
    mut template: Value,
) -> Result<Value, CloudRunError> {
    template["revision"] = json!(name);
    let mut body = settings(spec, None);
    let target =
        Target { revision: name.into(), percent: 100, tag: Some(traffic::CANDIDATE.into()) };
    body.insert("template".into(), template);
    body.insert("traffic".into(), traffic::wire(&[target]));
    // Until its release has begun, the first revision has no traffic in a release's words.
    body.insert("annotations".into(), json!({ FIRST: name }));
    body.insert("client".into(), json!("slsml"));
    let (url, body) = (google.services_url(), Value::Object(body));
    let id = [("serviceId", spec.name.clone())];
    match google.call("CreateService", Method::POST, &url, &id, Some(&body)).await {
        // An answer was lost, or somebody was faster: what is there is looked at anew.
        Err(CloudRunError::Refused { status: 409, call, message, .. }) => {
            Err(CloudRunError::Refused { status: 409, call, code: "ABORTED".into(), message })
        }
        other => other,
    }
}

async fn update(
    google: &Google,
    spec: &ServiceSpec,
    service: &Value,
    name: &str,
    template: Option<Value>,
) -> Result<Value, CloudRunError> {
    let mut body = settings(spec, Some(service));
    let mut mask: Vec<String> = body.keys().cloned().collect();
    let targets = traffic::targets(service);
    let is_first = service["annotations"][FIRST].as_str().is_some();
    let targets = match is_first {
        // Its first revision never got ready or was never released: this one takes its place.
        true => vec![Target {
            revision: name.into(),
            percent: 100,
            tag: Some(traffic::CANDIDATE.into()),
        }],
        false => traffic::with_candidate(&targets, name),
    };
    body.insert("traffic".into(), traffic::wire(&targets));
    mask.push("traffic".into());
    if let Some(mut template) = template {
        template["revision"] = json!(name);
        body.insert("template".into(), template);
        mask.push("template".into());
    }
    if is_first {
        let mut annotations = service["annotations"].clone();
        annotations[FIRST] = json!(name);
        body.insert("annotations".into(), annotations);
        mask.push("annotations".into());
    }
    body.insert("etag".into(), service["etag"].clone());
    patch(google, &spec.name, mask, Value::Object(body)).await
}

pub(crate) async fn patch(
    google: &Google,
    service: &str,
    mask: Vec<String>,
    body: Value,
) -> Result<Value, CloudRunError> {
    let url = google.run_url(&google.service_name(service));
    let mask = [("updateMask", mask.join(","))];
    google.call("UpdateService", Method::PATCH, &url, &mask, Some(&body)).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    Failed,
    Pending,
}

/// What a revision's own Ready condition says: the service's latest ready one may be another.
pub(crate) fn readiness(revision: &Value) -> Readiness {
    match ready_condition(revision)["state"].as_str() {
        Some("CONDITION_SUCCEEDED") => Readiness::Ready,
        Some("CONDITION_FAILED") => Readiness::Failed,
        _ => Readiness::Pending,
    }
}

fn ready_condition(revision: &Value) -> &Value {
    let mut conditions = revision["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == "Ready").unwrap_or(&Value::Null)
}

async fn wait_ready(google: &Google, service: &str, name: &str) -> Result<(), CloudRunError> {
    const LOOKS: u32 = 400;
    for look in 0..LOOKS {
        if let Some(revision) = revision(google, service, name).await? {
            match readiness(&revision) {
                Readiness::Ready => return Ok(()),
                Readiness::Failed => {
                    let why =
                        ready_condition(&revision)["message"].as_str().unwrap_or("no reason given");
                    return Err(CloudRunError::NotReady { revision: name.into(), why: why.into() });
                }
                Readiness::Pending => {}
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(if look < 20 { 100 } else { 1000 }))
            .await;
    }
    Err(CloudRunError::TooLong { what: format!("starting {name}"), seconds: 382 })
}

async fn policy(google: &Google, service: &str) -> Result<Value, CloudRunError> {
    let url = format!("{}:getIamPolicy", google.run_url(&google.service_name(service)));
    let version = [("options.requestedPolicyVersion", "3".to_owned())];
    google.call("GetIamPolicy", Method::GET, &url, &version, None).await
}

const INVOKER: &str = "roles/run.invoker";
const EVERYBODY: &str = "allUsers";

fn is_public(policy: &Value) -> bool {
    let mut bindings = policy["bindings"].as_array().into_iter().flatten();
    bindings.any(|binding| {
        binding["role"] == INVOKER
            && binding["condition"].is_null()
            && binding["members"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == EVERYBODY))
    })
}

/// Lets everybody send requests, or nobody in particular: the whole policy is read, changed and written
/// with its etag.
async fn set_access(google: &Google, service: &str, public: bool) -> Result<(), CloudRunError> {
    let url = format!("{}:setIamPolicy", google.run_url(&google.service_name(service)));
    for tried in 1.. {
        let mut policy = policy(google, service).await?;
        let mut bindings = policy["bindings"].as_array().cloned().unwrap_or_default();
        for binding in &mut bindings {
            if binding["role"] == INVOKER && binding["condition"].is_null() {
                let members = binding["members"].as_array().cloned().unwrap_or_default();
                let others = members.into_iter().filter(|member| member != EVERYBODY);
                binding["members"] = others.collect();
            }
        }
        if public {
            bindings.push(json!({ "role": INVOKER, "members": [EVERYBODY] }));
        }
        bindings.retain(|binding| binding["members"].as_array().is_some_and(|all| !all.is_empty()));
        policy["bindings"] = json!(bindings);
        let body = json!({ "policy": policy });
        match google.call("SetIamPolicy", Method::POST, &url, &[], Some(&body)).await {
            Err(error) if error.is_conflict() && tried < TRIES => {}
            other => return other.map(drop),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ServiceSpec {
        let image = format!("r.example/p/digits@sha256:{}", "ab".repeat(32));
        let name = "digits".to_owned();
        ServiceSpec { model: name.clone(), name, image, ..ServiceSpec::default() }
    }

    #[test]
    fn a_revision_is_named_by_what_it_consists_of() {
        let (one, all) = (spec(), template(&spec(), None));
        let name = |spec: &ServiceSpec, there| {
            revision_name("digits", &spec.image, &template(spec, there), 0)
        };
        assert!(name(&one, None).starts_with("digits-abababab-"));
        // Deployed again, over what it was deployed as.
        let mut deployed = all.clone();
        deployed["revision"] = json!(name(&one, None));
        assert_eq!(name(&one, Some(&deployed)), name(&one, None));
        let larger = ServiceSpec { memory: Some("1Gi".into()), ..spec() };
        assert_ne!(name(&larger, Some(&deployed)), name(&one, None));
        assert_ne!(revision_name("digits", &one.image, &all, 1), name(&one, None));
        let longest = "s".repeat(49);
        assert!(revision_name(&longest, &one.image, &all, 0).len() <= 63);
    }

    #[test]
    fn settings_of_others_are_kept() {
        let there = json!({
            "revision": "digits-x",
            "sessionAffinity": true,
            "scaling": { "minInstanceCount": 1 },
            "vpcAccess": { "egress": "ALL_TRAFFIC" },
            "containers": [{
                "image": "old",
                "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }],
                "resources": { "limits": { "cpu": "2", "memory": "1Gi" } },
            }],
        });
        let mut spec = spec();
        spec.environment.insert("B".into(), "3".into());
        spec.max_instances = Some(7);
        let all = template(&spec, Some(&there));
        assert_eq!(all["sessionAffinity"], true);
        assert_eq!(all["vpcAccess"]["egress"], "ALL_TRAFFIC");
        assert_eq!(all["scaling"], json!({ "minInstanceCount": 1, "maxInstanceCount": 7 }));
        let container = &all["containers"][0];
        assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
        assert_eq!(container["image"], json!(spec.image));
        let env = json!([{ "name": "A", "value": "1" }, { "name": "B", "value": "3" }]);
        assert_eq!(container["env"], env);
        assert!(all.get("revision").is_none());
        let mut beside = there.clone();
        let sidecar = json!({ "name": "proxy", "image": "proxy" });
        beside["containers"] = json!([sidecar, { "image": "old", "ports": [{}] }]);
        let all = template(&spec, Some(&beside));
        assert_eq!(all["containers"][0], sidecar);
        assert_eq!(all["containers"][1]["image"], json!(spec.image));
    }
}
