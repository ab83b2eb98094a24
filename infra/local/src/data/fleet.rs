//! All processes of all functions: who is free, how many run, who is stopped.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use rand::Rng;

use super::log::Log;
use super::process::Launch;
use super::runtime_api::Work;
use super::sandbox::{self, Ended, Sandbox};
use crate::error::{AwsError, AwsResult};
use crate::fault::{self, Injector};
use crate::home::Home;
use crate::ids;
use crate::lambda::names;
use crate::lambda::registry::Registry;
use crate::lambda::state::{Function, Version};
use crate::lambda::{functions, layers};
use crate::logs::Logs;
use crate::metrics::Metrics;

/// How long a process may take to initialise before it is tried again inside the request.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// What a request answers that fails on purpose.
const FAULT: &[u8] = br#"{"errorType":"Fault","errorMessage":"a fault on purpose"}"#;

/// The processes of every version.
#[derive(Debug)]
pub(crate) struct Fleet {
    home: Home,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    logs: Arc<Logs>,
    faults: Arc<Injector>,
    idle_after: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Free processes by function and the version's revision, the last used at the end.
    idle: HashMap<(String, String), Vec<(Sandbox, Instant)>>,
    /// Requests that run, by function.
    in_flight: HashMap<String, u32>,
}

/// A request for a function.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) function: String,
    pub(crate) qualifier: Option<String>,
    pub(crate) payload: Bytes,
    pub(crate) request_id: String,
    /// Whether the caller wants the end of the log.
    pub(crate) with_tail: bool,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Invoked {
    pub(crate) version: String,
    pub(crate) payload: Bytes,
    pub(crate) failed: bool,
    pub(crate) log_tail: Vec<u8>,
}

/// Where a request goes.
#[derive(Debug)]
struct Route {
    version: Version,
    launch: Launch,
    reserved: Option<u32>,
    others_reserved: u32,
    /// The functions whose requests count against their own reservation.
    reserving: HashSet<String>,
}

impl Fleet {
    pub(crate) fn new(
        home: Home,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
        logs: Arc<Logs>,
        faults: Arc<Injector>,
        idle_after: Duration,
    ) -> Fleet {
        Fleet { home, registry, metrics, logs, faults, idle_after, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version a request would go to.
    pub(crate) fn check(&self, function: &str, qualifier: Option<&str>) -> AwsResult<String> {
        Ok(self.route(function, qualifier)?.version.version)
    }

    /// Runs one request to its end.
    pub(crate) async fn invoke(self: &Arc<Fleet>, asked: &Invocation) -> AwsResult<Invoked> {
        let route = self.route(&asked.function, asked.qualifier.as_deref())?;
        let dimensions = Dimensions { asked, version: &route.version.version };
        let fate = self.faults.of_request(&asked.function, &route.version.version);
        let permit = match fate.throttled {
            true => Err("ConcurrentInvocationLimitExceeded"),
            false => self.permit(&asked.function, &route),
        };
        let _permit = match permit {
            Ok(permit) => permit,
            Err(reason) => {
                dimensions.put(&self.metrics, "Throttles", 1.0, "Count");
                return Err(AwsError::throttled(reason));
            }
        };
        let started = Instant::now();
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        let (ended, took, log_tail) = match fate.fails {
            true => (Ended::Failed(Bytes::from_static(FAULT)), None, Vec::new()),
            false => match fate.blank.then(|| fault::blanked(&asked.payload)).flatten() {
                Some(payload) => {
                    self.run(&Invocation { payload: payload.into(), ..asked.clone() }, &route)
                        .await?
                }
                None => self.run(asked, &route).await?,
            },
        };
        let took = took.map_or_else(|| started.elapsed(), |took| took + fate.delay);
        let (payload, failed) = match ended {
            Ended::Answered(payload) => (payload, false),
            Ended::Failed(payload) | Ended::Died(payload) => (payload, true),
        };
        dimensions.put(&self.metrics, "Invocations", 1.0, "Count");
        dimensions.put(&self.metrics, "Errors", f64::from(u8::from(failed)), "Count");
        dimensions.put(&self.metrics, "Duration", took.as_secs_f64() * 1e3, "Milliseconds");
        Ok(Invoked { version: route.version.version, payload, failed, log_tail })
    }

    /// Finds or starts a process and gives it the request.
    async fn run(
        self: &Arc<Fleet>,
        asked: &Invocation,
        route: &Route,
    ) -> AwsResult<(Ended, Option<Duration>, Vec<u8>)> {
        let mut limit = Duration::from_secs(route.version.config.timeout_s.into());
        let request_id = &asked.request_id;
        let start = format!("START RequestId: {request_id} Version: {}", route.version.version);
        let mut sandbox = match self.free(&asked.function, &route.version) {
            Some(sandbox) => sandbox,
            None => {
                let log = self.log(&route.launch)?;
                match start_twice(&route.launch, log.clone(), &mut limit, request_id).await {
                    Ok(sandbox) => sandbox,
                    Err(payload) => return Ok((Ended::Died(payload), None, log.tail())),
                }
            }
        };
        let init = sandbox.take_init();
        sandbox.log.begin(&start, init.is_some());
        let work = Work {
            request_id: request_id.clone(),
            payload: asked.payload.clone(),
            arn: names::function_arn(&asked.function, asked.qualifier.as_deref()),
            deadline: sandbox::deadline(limit),
        };
        let began = Instant::now();
        let ended = sandbox.run(work, limit).await;
        let took = began.elapsed();
        if asked.with_tail {
            // The reader of the process's output runs beside this; let it finish the lines at hand.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        sandbox.log.line(format!("END RequestId: {request_id}").as_bytes());
        let peak = sandbox.peak_memory_mb();
        let memory = route.version.config.memory_mb;
        sandbox.log.line(sandbox::report(request_id, took, memory, peak, init).as_bytes());
        let tail = sandbox.log.tail();
        if !matches!(ended, Ended::Died(_)) && sandbox.is_alive() {
            self.give_back(&asked.function, &route.version, sandbox);
        }
        Ok((ended, Some(took), tail))
    }

    fn log(&self, launch: &Launch) -> AwsResult<Arc<Log>> {
        let folder = self.home.join("logs").join(&launch.function);
        let path = folder.join(format!("{}.log", launch.version.version.trim_start_matches('$')));
        let (metrics, logs) = (self.metrics.clone(), self.logs.clone());
        let group = format!("/aws/lambda/{}", launch.function);
        let stream = launch.log_stream.clone();
        let told = Box::new(move |line: &[u8]| {
            metrics.embedded(line);
            logs.append(&group, &stream, line);
        });
        Log::open(&path, told).map(Arc::new).map_err(AwsError::internal)
    }

    fn route(&self, name: &str, qualifier: Option<&str>) -> AwsResult<Route> {
        let state = self.registry.read();
        let function = state.function(name)?;
        let version = match qualifier.and_then(|qualifier| function.aliases.get(qualifier)) {
            Some(alias) => pick(function, &alias.version, &alias.weights)?,
            None => functions::qualified(function, qualifier)?,
        };
        if version.is_pending() {
            let arn = names::function_arn(name, qualifier);
            return Err(AwsError::conflict(format!(
                "The operation cannot be performed at this time. The function is currently in the \
                 following state: Pending: {arn}"
            )));
        }
        let others_reserved = state
            .functions
            .values()
            .filter(|other| other.name != name)
            .filter_map(|other| other.reserved_concurrency)
            .sum();
        let reserving = state
            .functions
            .values()
            .filter(|other| other.reserved_concurrency.is_some())
            .map(|other| other.name.clone())
            .collect();
        let version = version.clone();
        let reserved = function.reserved_concurrency;
        let digests: Vec<String> = layers::resolve(&version.config.layers, &state)
            .into_iter()
            .map(|layer| layer.code.sha256.clone())
            .collect();
        let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
        drop(state);
        let code = &self.registry.code;
        let task = code.unpack(&version.code.sha256).map_err(AwsError::internal)?;
        let opt = match digests.as_slice() {
            [] => None,
            digests => Some(code.merge_layers(digests).map_err(AwsError::internal)?),
        };
        let log_stream = format!("local/[{}]{}", version.version, ids::short_id(12));
        let launch =
            Launch { function: name.into(), version: version.clone(), task, opt, log_stream };
        Ok(Route { version, launch, reserved, others_reserved, reserving })
    }

    /// Counts a request in, if the function and the account have room for it.
    fn permit(self: &Arc<Fleet>, function: &str, route: &Route) -> Result<Permit, &'static str> {
        let mut inner = self.inner();
        let running = inner.in_flight.get(function).copied().unwrap_or(0);
        let room = match route.reserved {
            Some(reserved) => running < reserved,
            None => {
                let unreserved =
                    inner.in_flight.iter().filter(|(name, _)| !route.reserving.contains(*name));
                let all: u32 = unreserved.map(|(_, running)| running).sum();
                all < self.registry.account_concurrency.saturating_sub(route.others_reserved)
            }
        };
        if !room {
            return Err(match route.reserved {
                Some(_) => "ReservedFunctionConcurrentInvocationLimitExceeded",
                None => "ConcurrentInvocationLimitExceeded",
            });
        }
        *inner.in_flight.entry(function.to_owned()).or_default() += 1;
        Ok(Permit { fleet: self.clone(), function: function.to_owned() })
    }

    fn free(&self, function: &str, version: &Version) -> Option<Sandbox> {
        let mut inner = self.inner();
        let idle = inner.idle.get_mut(&(function.to_owned(), version.revision_id.clone()))?;
        while let Some((sandbox, _)) = idle.pop() {
            if sandbox.is_alive() {
                return Some(sandbox);
            }
        }
        None
    }

    fn give_back(&self, function: &str, version: &Version, sandbox: Sandbox) {
        let key = (function.to_owned(), version.revision_id.clone());
        self.inner().idle.entry(key).or_default().push((sandbox, Instant::now()));
    }

    /// Ends processes that nobody needs: idle for too long, or of code that is gone.
    pub(crate) fn sweep(&self) {
        let state = self.registry.read();
        let versions = state.functions.values().flat_map(|function| {
            std::iter::once(&function.latest).chain(function.versions.values())
        });
        let current: HashSet<String> =
            versions.map(|version| version.revision_id.clone()).collect();
        drop(state);
        let mut ended = Vec::new();
        let mut inner = self.inner();
        inner.idle.retain(|(_, revision), idle| {
            let keep = current.contains(revision);
            let old = |since: &Instant| !keep || since.elapsed() >= self.idle_after;
            ended.extend(idle.extract_if(.., |(_, since)| old(since)));
            !idle.is_empty()
        });
        drop(inner);
        drop(ended);
    }

    /// Ends every idle process.
    pub(crate) fn stop(&self) {
        let idle = std::mem::take(&mut self.inner().idle);
        drop(idle);
    }
}

/// Starts a process; one that fails to initialise is tried once more within the request's own
/// time, as Lambda does. What is left of that time is for the request.
async fn start_twice(
    launch: &Launch,
    log: Arc<Log>,
    limit: &mut Duration,
    request_id: &str,
) -> Result<Sandbox, Bytes> {
    if let Ok(sandbox) = Sandbox::start(launch, log.clone(), INIT_LIMIT, request_id).await {
        return Ok(sandbox);
    }
    let again = Instant::now();
    let sandbox = Sandbox::start(launch, log, *limit, request_id).await?;
    *limit = limit.saturating_sub(again.elapsed());
    Ok(sandbox)
}

/// The version one request goes to: each is drawn anew by the alias's weights.
fn pick<'a>(
    function: &'a Function,
    primary: &str,
    weights: &std::collections::BTreeMap<String, f64>,
) -> AwsResult<&'a Version> {
    let mut drawn: f64 = rand::rng().random();
    let mut version = primary;
    for (additional, weight) in weights {
        if drawn < *weight {
            version = additional;
            break;
        }
        drawn -= weight;
    }
    functions::qualified(function, Some(version))
}

/// A request that counts as running until this is dropped.
#[derive(Debug)]
struct Permit {
    fleet: Arc<Fleet>,
    function: String,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(running) = self.fleet.inner().in_flight.get_mut(&self.function) {
            *running = running.saturating_sub(1);
        }
    }
}

/// The dimension sets Lambda reports a request under.
struct Dimensions<'a> {
    asked: &'a Invocation,
    version: &'a str,
}

impl Dimensions<'_> {
    fn put(&self, metrics: &Metrics, name: &str, value: f64, unit: &str) {
        let function = ("FunctionName", self.asked.function.as_str());
        let mut sets = vec![vec![], vec![function]];
        let resource =
            self.asked.qualifier.as_ref().map(|q| format!("{}:{q}", self.asked.function));
        if let Some(resource) = &resource {
            sets.push(vec![function, ("Resource", resource)]);
            if names::check_alias_name(self.asked.qualifier.as_deref().unwrap_or_default()).is_ok()
            {
                let executed = ("ExecutedVersion", self.version);
                sets.push(vec![function, ("Resource", resource), executed]);
            }
        }
        for set in sets {
            metrics.put("AWS/Lambda", name, &set, value, unit);
        }
    }
}
