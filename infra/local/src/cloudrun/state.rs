//! Services and revisions as they are kept: plain data, written to disk after every change.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::{GoogleError, GoogleResult};
use super::monitoring::Counted;
use crate::home::Home;
use crate::ids;
use crate::kept::Kept;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// By full name.
    pub(crate) services: BTreeMap<String, Service>,
    /// By full name.
    pub(crate) operations: BTreeMap<String, Operation>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    /// `projects/P/locations/L/services/S`.
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) etag: String,
    pub(crate) generation: u64,
    pub(crate) observed: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) created: u64,
    pub(crate) updated: u64,
    /// What the user says: every field that is not output only.
    pub(crate) spec: Map<String, Value>,
    /// By short name.
    pub(crate) revisions: BTreeMap<String, Revision>,
    pub(crate) serving: Vec<Serving>,
    pub(crate) latest_created: Option<String>,
    pub(crate) latest_ready: Option<String>,
    /// The operation that brings it to what is wanted.
    pub(crate) reconciling: Option<String>,
    pub(crate) failure: Option<Failure>,
    pub(crate) policy: Map<String, Value>,
    /// Where it and its tags listen; the service itself is the empty tag.
    pub(crate) ports: BTreeMap<String, u16>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Revision {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) etag: String,
    pub(crate) created: u64,
    pub(crate) template: Value,
    pub(crate) state: Readiness,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Readiness {
    Pending,
    Ready,
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// A `revisionReason` or a `reason` of a condition.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A target that gets traffic, or has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Serving {
    pub(crate) latest: bool,
    pub(crate) revision: String,
    pub(crate) percent: u32,
    pub(crate) tag: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) service: String,
    pub(crate) created: u64,
    pub(crate) done: bool,
    pub(crate) error: Option<String>,
    /// What it ends with, where the service is gone.
    pub(crate) response: Option<Value>,
    /// Whether it is to end with an error, on purpose.
    #[serde(default)]
    pub(crate) fails: bool,
}

impl Service {
    /// One that nobody has said anything of yet.
    pub(crate) fn new(name: &str) -> Service {
        let now = ids::now_millis();
        Service {
            name: name.into(),
            uid: ids::uuid(),
            etag: String::new(),
            generation: 0,
            observed: 0,
            created: now,
            updated: now,
            spec: Map::new(),
            revisions: BTreeMap::new(),
            serving: Vec::new(),
            latest_created: None,
            latest_ready: None,
            reconciling: None,
            failure: None,
            policy: Map::new(),
            ports: BTreeMap::new(),
        }
    }

    /// `S` of its name.
    pub(crate) fn id(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// `L` of its name.
    pub(crate) fn location(&self) -> &str {
        self.name.split('/').nth(3).unwrap_or_default()
    }

    /// `P` of its name.
    pub(crate) fn project(&self) -> &str {
        self.name.split('/').nth(1).unwrap_or_default()
    }

    /// What the requests of a revision are counted under.
    pub(crate) fn counted(&self, revision: &str) -> Counted {
        let (location, service) = (self.location().to_owned(), self.id().to_owned());
        Counted { location, service, revision: revision.into() }
    }

    pub(crate) fn template(&self) -> &Value {
        self.spec.get("template").unwrap_or(&Value::Null)
    }

    /// How many instances of a revision are there always.
    pub(crate) fn minimum(&self, revision: &Revision) -> u32 {
        let number = |value: &Value| value.as_u64().unwrap_or(0) as u32;
        let serving: Vec<&Serving> =
            self.serving.iter().filter(|serving| serving.revision == revision.name).collect();
        let percent: u32 = serving.iter().map(|serving| serving.percent).sum();
        let of_service = self.spec.get("scaling").map(|all| number(&all["minInstanceCount"]));
        let share = (of_service.unwrap_or(0) * percent).div_ceil(100);
        // Those of a revision run wherever it can be reached.
        let own = number(&revision.template["scaling"]["minInstanceCount"]);
        if serving.is_empty() { 0 } else { own.max(share) }
    }

    /// Whom traffic goes to, as the user wants it.
    pub(crate) fn wanted(&self) -> Vec<Serving> {
        let newest = self.newest_ready();
        let targets = self.spec.get("traffic").and_then(Value::as_array);
        let all_to_latest =
            vec![json!({ "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100 })];
        let targets = targets.filter(|all| !all.is_empty()).unwrap_or(&all_to_latest);
        let serving = targets.iter().map(|target| {
            let named = target["revision"].as_str().filter(|name| !name.is_empty());
            Serving {
                latest: named.is_none(),
                revision: named.or(newest.as_deref()).unwrap_or_default().to_owned(),
                percent: target["percent"].as_u64().unwrap_or(0) as u32,
                tag: target["tag"].as_str().filter(|tag| !tag.is_empty()).map(str::to_owned),
            }
        });
        serving.filter(|serving| !serving.revision.is_empty()).collect()
    }

    fn newest_ready(&self) -> Option<String> {
        let ready = self.revisions.values().filter(|one| one.state == Readiness::Ready);
        ready.max_by_key(|one| one.created).map(|one| one.name.clone())
    }

    /// Whether everybody may send requests.
    pub(crate) fn is_public(&self) -> bool {
        if self.spec.get("invokerIamDisabled") == Some(&Value::Bool(true)) {
            return true;
        }
        let bindings = self.policy.get("bindings").and_then(Value::as_array);
        bindings.into_iter().flatten().any(|binding| {
            let members = binding["members"].as_array();
            binding["role"] == "roles/run.invoker"
                && members.is_some_and(|all| all.iter().any(|member| member == "allUsers"))
        })
    }
}

impl Operation {
    fn end(&mut self, error: Option<String>) {
        self.done = true;
        self.error = error;
    }
}

/// Whether a service is still there when its operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Kept,
    Deleted,
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct Store(Kept<State>);

impl Store {
    pub(crate) fn open(home: &Home) -> std::io::Result<Store> {
        Kept::open(home, "cloudrun.json").map(Store)
    }

    /// What is there now.
    pub(crate) fn read(&self) -> MutexGuard<'_, State> {
        self.0.read()
    }

    pub(crate) fn service(&self, name: &str) -> GoogleResult<Service> {
        self.0.read().services.get(name).cloned().ok_or_else(|| no_resource(name))
    }

    /// Changes everything or nothing.
    pub(crate) fn change<T>(
        &self,
        edit: impl FnOnce(&mut State) -> GoogleResult<T>,
    ) -> GoogleResult<T> {
        self.0.change(edit, GoogleError::internal)
    }

    /// The same, or only what it would answer.
    pub(crate) fn attempt<T>(
        &self,
        only_validate: bool,
        edit: impl FnOnce(&mut State) -> GoogleResult<T>,
    ) -> GoogleResult<T> {
        if only_validate {
            let mut copy = self.read().clone();
            return edit(&mut copy);
        }
        self.change(edit)
    }

    /// Ends an operation, with an error or without, and what `settle` makes of its service. On a full
    /// disk all stays as it is, and a restart tries again.
    pub(crate) fn end_operation(
        &self,
        operation: &str,
        settle: impl FnOnce(&mut Service) -> Option<Failure>,
    ) -> Ended {
        let ended = self.change(|state| {
            let Some(ending) = state.operations.get_mut(operation) else { return Ok(Ended::Kept) };
            let Some(service) = state.services.get_mut(&ending.service) else {
                ending.end(Some("The service was deleted.".into()));
                return Ok(Ended::Deleted);
            };
            let failure = settle(service);
            ending.end(failure.as_ref().map(|failure| failure.message.clone()));
            // A later change is brought about by its own operation.
            if service.reconciling.as_deref() == Some(operation) {
                service.reconciling = None;
                service.failure = failure;
            }
            Ok(Ended::Kept)
        });
        ended.unwrap_or(Ended::Kept)
    }

    /// Where something listens; after a restart perhaps elsewhere.
    pub(crate) fn remember_port(&self, service: &str, tag: &str, port: u16) {
        if let Some(service) = self.0.read().services.get_mut(service) {
            service.ports.insert(tag.into(), port);
        }
    }
}

pub(crate) fn no_resource(name: &str) -> GoogleError {
    GoogleError::not_found(format!("Resource '{name}' was not found"))
}
