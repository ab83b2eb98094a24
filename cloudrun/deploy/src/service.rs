//! A service as it should be: its settings, and a revision of the image.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use slsml_release::Revision;

use crate::api::TRIES;
use crate::template::{is_made_from, is_same, revision_name, template};
use crate::traffic::{self, Traffic};
use crate::{CloudRunError, Google, access};

/// Our own annotations.
pub(crate) const FIRST: &str = "slsml.dev/first-revision";
const WRITE: &str = "slsml.dev/write";
pub(crate) const MODEL: &str = "slsml.dev/model";

/// How often a service is looked at whose traffic is being moved, and how long at most: a first revision
/// may take as long as a container may to listen.
const REST_PAUSE: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(60);
const FIRST_REST: Duration = Duration::from_secs(360);

/// How long to wait after somebody else was faster.
const CONFLICT_PAUSE: Duration = Duration::from_secs(1);

/// Revisions of one name that failed before another is tried.
const MOST_ATTEMPTS: u32 = 20;

/// What a service should be. What is not said stays as it is, or is Google's default.
#[derive(Clone, Debug, Default)]
pub struct ServiceSpec {
    /// Its name: with a tag of slsml's at most 46 characters.
    pub name: String,
    /// The project, which programs are told by a variable.
    pub project: String,
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
    /// Instances of a revision that are there always, also without traffic.
    pub revision_min_instances: Option<u32>,
    /// The most instances of all revisions together.
    pub service_max_instances: Option<u32>,
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
    /// Which network instances send requests through.
    pub vpc: Vpc,
    /// Whether everybody may send requests.
    pub public: Option<bool>,
    /// Who else may, as `serviceAccount:EMAIL`, beside those who may already.
    pub invokers: Vec<String>,
}

/// Which network instances send requests through, as far as it is said.
/// <https://cloud.google.com/run/docs/configuring/vpc-direct-vpc>
#[derive(Clone, Debug, Default)]
pub struct Vpc {
    /// The network instances are in.
    pub network: Option<String>,
    /// Its part.
    pub subnet: Option<String>,
    /// Instead: the connector, as `projects/P/locations/L/connectors/C`.
    pub connector: Option<String>,
    /// What goes there.
    pub egress: Option<Egress>,
}

/// Which requests of instances go through a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// All.
    All,
    /// Those to private addresses.
    Private,
}

impl Egress {
    pub(crate) fn wire(self) -> &'static str {
        match self {
            Self::All => "ALL_TRAFFIC",
            Self::Private => "PRIVATE_RANGES_ONLY",
        }
    }
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

/// The service when its traffic is where it was asked to be, or will not get there any more.
pub(crate) async fn at_rest(
    google: &Google,
    service: &str,
) -> Result<Option<Value>, CloudRunError> {
    let began = Instant::now();
    loop {
        let found = get(google, service).await?;
        let Some(moving) = found.as_ref().filter(|found| traffic::is_moving(found)) else {
            return Ok(found);
        };
        let limit = if traffic::latest(moving).is_none() { FIRST_REST } else { REST };
        if began.elapsed() > limit {
            let what = format!("moving the traffic of {service}");
            return Err(CloudRunError::TooLong { what, seconds: limit.as_secs() });
        }
        tokio::time::sleep(REST_PAUSE).await;
    }
}

/// A service that must be there.
pub(crate) async fn existing(google: &Google, service: &str) -> Result<Value, CloudRunError> {
    let found = get(google, service).await?;
    found.ok_or_else(|| CloudRunError::NoService { service: service.into() })
}

/// A revision, if it exists.
pub(crate) async fn revision(
    google: &Google,
    service: &str,
    name: &str,
) -> Result<Option<Value>, CloudRunError> {
    let url = format!("{}/{name}", google.revisions_url(service));
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
            Err(error) if error.is_conflict() && tried < TRIES => {
                tried += 1;
                tokio::time::sleep(CONFLICT_PAUSE).await;
            }
            Err(error) if error.is_conflict() => {
                return Err(CloudRunError::moved(&spec.name));
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
    // What is served now may not be what somebody just asked for.
    let service = at_rest(google, &spec.name).await?;
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
            // The revision's own words say more than the service's, and the error may be another's.
            let is_ready = look(google, &spec.name, &name).await?;
            if !(is_ready && is_as_wanted(google, spec, &name).await?) {
                return Err(error);
            }
        }
    }
    wait_ready(google, &spec.name, &name).await?;
    if writes {
        check_reached(google, &spec.name, &name).await?;
    }
    if changes.contains(&Change::Access) {
        progress(Progress::Access);
        access::set(google, spec).await?;
    }
    Ok(Ensured { revision: Revision(name), changed: !changes.is_empty() })
}

/// Whether a revision is served and the service's settings are those that are said.
async fn is_as_wanted(
    google: &Google,
    spec: &ServiceSpec,
    revision: &str,
) -> Result<bool, CloudRunError> {
    let service = existing(google, &spec.name).await?;
    Ok(traffic::is_served(&service, revision) && settings(spec, &service).is_empty())
}

async fn todo(
    google: &Google,
    spec: &ServiceSpec,
    service: Option<&Value>,
) -> Result<Todo, CloudRunError> {
    check_scaling(spec, service.unwrap_or(&Value::Null))?;
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
        if is_there && !traffic::is_served(service, &revision) {
            changes.push(Change::Tag);
        }
        if !settings(spec, service).is_empty() {
            changes.push(Change::Settings);
        }
    }
    let access_differs = match service {
        None => spec.public == Some(true) || !spec.invokers.is_empty(),
        Some(service) => access::differs(google, spec, service).await?,
    };
    if access_differs {
        changes.push(Change::Access);
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
    let current = there["revision"].as_str().filter(|_| is_same(there, template));
    if let Some(current) = current
        && let Some(found) = revision(google, &spec.name, current).await?
        && readiness(&found) != Readiness::Failed
    {
        return Ok((current.to_owned(), true));
    }
    // The same holds for one before it, to which somebody goes back.
    if let Some(found) = earlier(google, &spec.name, template).await? {
        return Ok((found, true));
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

/// The newest revision that is what a template would make, if it did not fail.
async fn earlier(
    google: &Google,
    service: &str,
    template: &Value,
) -> Result<Option<String>, CloudRunError> {
    let mut found = None;
    let each = |page: &Value| {
        let mut all = page["revisions"].as_array().into_iter().flatten();
        let is_it = |one: &&Value| {
            one["deleteTime"].is_null()
                && readiness(one) != Readiness::Failed
                && is_made_from(one, template)
        };
        found = found.take().or_else(|| {
            all.find(is_it)
                .and_then(|one| one["name"].as_str())
                .map(traffic::short)
                .map(str::to_owned)
        });
        Ok(())
    };
    let size = [("pageSize", "100".to_owned())];
    google.pages("ListRevisions", &google.revisions_url(service), &size, each).await?;
    Ok(found)
}

/// That numbers of instances have an effect: the service's own scaling may be stronger.
fn check_scaling(spec: &ServiceSpec, there: &Value) -> Result<(), CloudRunError> {
    let refuse = |why: String| Err(CloudRunError::Scaling { service: spec.name.clone(), why });
    let said = [
        spec.min_instances,
        spec.max_instances,
        spec.revision_min_instances,
        spec.service_max_instances,
    ];
    if there["scaling"]["scalingMode"] == "MANUAL" && said.iter().any(Option::is_some) {
        return refuse("it is scaled by hand".into());
    }
    let of_service = there["scaling"]["maxInstanceCount"].as_u64().filter(|most| *most > 0);
    let of_service = spec.service_max_instances.map(u64::from).or(of_service);
    let of_revision = spec.max_instances.map(u64::from);
    let limits = [
        ("a revision", spec.max_instances, of_service, "at most of the service"),
        ("a revision at least", spec.revision_min_instances, of_revision, "at most"),
        ("the service at least", spec.min_instances, of_service, "at most"),
    ];
    for (whose, wanted, most, limit) in limits {
        if let (Some(wanted), Some(most)) = (wanted, most)
            && u64::from(wanted) > most
        {
            return refuse(format!("{wanted} instances of {whose}, and {most} {limit}"));
        }
    }
    Ok(())
}

/// The service's own settings that are to be another; `there` is the service, null if it is new.
fn settings(spec: &ServiceSpec, there: &Value) -> Map<String, Value> {
    let mut all = Map::new();
    // What others say of its scaling goes with it: it is written as one.
    let mut scaling = there["scaling"].as_object().cloned().unwrap_or_default();
    let before = scaling.clone();
    let said = [
        ("minInstanceCount", spec.min_instances),
        ("maxInstanceCount", spec.service_max_instances),
    ];
    for (name, wanted) in said {
        let now = scaling.get(name).and_then(Value::as_u64).unwrap_or(0);
        if let Some(wanted) = wanted.filter(|wanted| u64::from(*wanted) != now) {
            scaling.insert(name.into(), json!(wanted));
        }
    }
    if scaling != before {
        all.insert("scaling".into(), json!(scaling));
    }
    let ingress = there["ingress"].as_str().unwrap_or(Ingress::All.wire());
    if let Some(wanted) = spec.ingress.filter(|wanted| wanted.wire() != ingress) {
        all.insert("ingress".into(), json!(wanted.wire()));
    }
    // Without that check the policy says nothing.
    if spec.public == Some(false) && access::asks_nobody(there) {
        all.insert("invokerIamDisabled".into(), json!(false));
    }
    all
}

async fn create(
    google: &Google,
    spec: &ServiceSpec,
    name: &str,
    mut template: Value,
) -> Result<Value, CloudRunError> {
    template["revision"] = json!(name);
    let mut body = settings(spec, &Value::Null);
    body.insert("template".into(), template);
    body.insert("traffic".into(), Traffic::default().first(name).wire());
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
    let mut body = settings(spec, service);
    let (traffic, first) = with_revision(spec, service, name)?;
    body.insert("traffic".into(), traffic.wire());
    if let Some(mut template) = template {
        template["revision"] = json!(name);
        body.insert("template".into(), template);
    }
    body.insert("annotations".into(), annotations(service, first.as_deref()));
    let mask: Vec<String> = body.keys().cloned().collect();
    body.insert("etag".into(), service["etag"].clone());
    patch(google, &spec.name, mask, Value::Object(body)).await
}

/// The traffic with a revision that can be reached, and which is the first one that is still to be
/// released, if it is.
fn with_revision(
    spec: &ServiceSpec,
    service: &Value,
    name: &str,
) -> Result<(Traffic, Option<String>), CloudRunError> {
    let traffic = Traffic::of(service);
    if traffic.shares.is_empty() {
        // Nothing ever got ready: this one takes its place.
        return Ok((traffic.first(name), Some(name.into())));
    }
    if traffic.shares.len() > 1 {
        // The tag of whom is being released would go to another.
        return Err(traffic.divided(&spec.name));
    }
    let first = service["annotations"][FIRST].as_str();
    let first = first.filter(|first| traffic.shares[0].0 == **first).map(str::to_owned);
    // Whoever can be reached already takes no tag from another.
    let traffic = match traffic::is_served(service, name) {
        true => traffic,
        false => traffic.with_candidate(name),
    };
    Ok((traffic, first))
}

/// A service's annotations with what slsml writes there: a mark that no other write has, so that a
/// write always changes something, and the first revision, if it is still to be released.
pub(crate) fn annotations(service: &Value, first: Option<&str>) -> Value {
    let mut all = service["annotations"].as_object().cloned().unwrap_or_default();
    all.remove(FIRST);
    all.extend(first.map(|first| (FIRST.to_owned(), json!(first))));
    all.insert(WRITE.into(), json!(unique()));
    Value::Object(all)
}

/// Sixteen digits that no other write has.
fn unique() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Seeded by the system for each process, and stepped with each call.
    let mut hasher = RandomState::new().build_hasher();
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    hasher.write_u128(time.unwrap_or_default().as_nanos());
    format!("{:016x}", hasher.finish())
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

/// Whether a revision is ready; an error in its own words if it will not be.
async fn look(google: &Google, service: &str, name: &str) -> Result<bool, CloudRunError> {
    let Some(revision) = revision(google, service, name).await? else { return Ok(false) };
    match readiness(&revision) {
        Readiness::Ready => Ok(true),
        Readiness::Pending => Ok(false),
        Readiness::Failed => {
            let why = ready_condition(&revision)["message"].as_str().unwrap_or("no reason given");
            Err(CloudRunError::NotReady { revision: name.into(), why: why.into() })
        }
    }
}

async fn wait_ready(google: &Google, service: &str, name: &str) -> Result<(), CloudRunError> {
    const LOOKS: u64 = 400;
    const QUICK: u64 = 20;
    for at in 0..LOOKS {
        if look(google, service, name).await? {
            return Ok(());
        }
        let pause = if at < QUICK { 100 } else { 1000 };
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
    }
    let seconds = QUICK / 10 + (LOOKS - QUICK);
    Err(CloudRunError::TooLong { what: format!("starting {name}"), seconds })
}

/// That a write said to be done gave the revision its address.
async fn check_reached(google: &Google, service: &str, name: &str) -> Result<(), CloudRunError> {
    let found = get(google, service).await?.unwrap_or_default();
    if traffic::is_served(&found, name) {
        return Ok(());
    }
    let why = found["terminalCondition"]["message"].as_str();
    Err(CloudRunError::Failed {
        what: format!("giving {name} an address of its own"),
        reason: why.unwrap_or("Cloud Run says that it is done, and shows none").into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn service(traffic: Value, statuses: Value, first: &str) -> Value {
        json!({
            "traffic": traffic,
            "trafficStatuses": statuses,
            "annotations": { FIRST: first },
            "latestReadyRevision": "projects/p/locations/l/services/s/revisions/s-1",
        })
    }

    fn with(service: &Value) -> Result<(Value, Option<String>), CloudRunError> {
        let spec = ServiceSpec { name: "s".into(), ..ServiceSpec::default() };
        with_revision(&spec, service, "s-2").map(|(traffic, first)| (traffic.wire(), first))
    }

    fn target(revision: &str, percent: u32) -> Value {
        json!({ "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": revision, "percent": percent })
    }

    fn tagged(revision: &str, percent: u32, tag: &str) -> Value {
        let mut target = target(revision, percent);
        target["tag"] = json!(tag);
        target
    }

    #[test]
    fn a_revision_that_was_not_asked_gets_no_traffic_from_one_that_has_it() {
        let all = json!([target("s-1", 100), tagged("s-1", 0, "theirs")]);
        let (traffic, first) = with(&service(all.clone(), all.clone(), "s-1")).unwrap();
        let expected =
            [target("s-1", 100), tagged("s-2", 0, "candidate"), tagged("s-1", 0, "theirs")];
        assert_eq!((traffic, first), (json!(expected), Some("s-1".into())));
        // Somebody moved it away from the first: it is a service like others now.
        let (traffic, first) = with(&service(all.clone(), all, "s-0")).unwrap();
        assert_eq!((traffic[0].clone(), first), (target("s-1", 100), None));
    }

    #[test]
    fn a_revision_that_is_served_takes_no_tag_from_another() {
        let all = json!([target("s-2", 100), tagged("s-9", 0, "candidate")]);
        let (traffic, _) = with(&service(all.clone(), all.clone(), "")).unwrap();
        assert_eq!(traffic, all);
    }

    #[test]
    fn a_first_revision_that_never_got_ready_is_replaced() {
        let asked = json!([tagged("s-1", 100, "candidate"), tagged("s-1", 0, "theirs")]);
        let mut failed = service(asked, json!([]), "s-1");
        failed.as_object_mut().unwrap().remove("latestReadyRevision");
        let (traffic, first) = with(&failed).unwrap();
        let expected = [tagged("s-2", 100, "candidate"), tagged("s-1", 0, "theirs")];
        assert_eq!((traffic, first), (json!(expected), Some("s-2".into())));
    }

    #[test]
    fn a_running_release_keeps_its_candidate() {
        let divided = json!([target("s-0", 90), tagged("s-1", 10, "candidate")]);
        let found = with(&service(divided.clone(), divided, ""));
        assert!(matches!(found, Err(CloudRunError::Divided { .. })), "{found:?}");
    }

    #[test]
    fn only_settings_that_are_said_and_differ_are_written() {
        let there = json!({
            "ingress": "INGRESS_TRAFFIC_INTERNAL_ONLY",
            "scaling": { "minInstanceCount": 2, "maxInstanceCount": 9 },
            "invokerIamDisabled": true,
        });
        let spec = ServiceSpec::default();
        assert_eq!(json!(settings(&spec, &there)), json!({}));
        let same = ServiceSpec {
            min_instances: Some(2),
            ingress: Some(Ingress::Internal),
            ..spec.clone()
        };
        assert_eq!(json!(settings(&same, &there)), json!({}));
        let other = ServiceSpec { min_instances: Some(0), public: Some(false), ..spec.clone() };
        let expected = json!({
            "scaling": { "minInstanceCount": 0, "maxInstanceCount": 9 },
            "invokerIamDisabled": false,
        });
        assert_eq!(json!(settings(&other, &there)), expected);
        let fresh = ServiceSpec { min_instances: Some(0), ingress: Some(Ingress::All), ..spec };
        assert_eq!(json!(settings(&fresh, &Value::Null)), json!({}));
        let most = ServiceSpec { service_max_instances: Some(12), ..ServiceSpec::default() };
        let expected = json!({ "scaling": { "minInstanceCount": 2, "maxInstanceCount": 12 } });
        assert_eq!(json!(settings(&most, &there)), expected);
    }

    #[test]
    fn numbers_of_instances_that_would_have_no_effect_are_refused() {
        let spec = ServiceSpec { max_instances: Some(50), ..ServiceSpec::default() };
        assert!(check_scaling(&spec, &Value::Null).is_ok());
        let capped = json!({ "scaling": { "maxInstanceCount": 10 } });
        assert!(check_scaling(&spec, &capped).is_err());
        let raised = ServiceSpec { service_max_instances: Some(60), ..spec.clone() };
        assert!(check_scaling(&raised, &capped).is_ok());
        let more = ServiceSpec { revision_min_instances: Some(51), ..spec.clone() };
        assert!(check_scaling(&more, &Value::Null).is_err(), "more at least than at most");
        let more = ServiceSpec { min_instances: Some(11), ..ServiceSpec::default() };
        assert!(check_scaling(&more, &capped).is_err(), "and of the service");
        assert!(check_scaling(&more, &Value::Null).is_ok());
        let by_hand = json!({ "scaling": { "scalingMode": "MANUAL" } });
        assert!(check_scaling(&spec, &by_hand).is_err());
        assert!(check_scaling(&ServiceSpec::default(), &by_hand).is_ok());
    }
}
