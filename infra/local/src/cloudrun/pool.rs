//! The instances of one revision: who has room, who is started, who waits, who is stopped.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::CloudRun;
use super::instance::{Instance, Launch};
use super::logging::Printing;
use super::rootfs;
use super::state::{Failure, Revision, Service};
use crate::data::Log;

/// How long a request waits for an instance.
const WAIT: Duration = Duration::from_secs(10);

/// What Google takes where nothing is said.
const CONCURRENCY: u32 = 80;
const MOST_INSTANCES: u32 = 100;

#[derive(Debug)]
pub(crate) struct Pool {
    run: std::sync::Weak<CloudRun>,
    service: Service,
    revision: Revision,
    concurrency: u32,
    most: u32,
    inner: Mutex<Inner>,
    /// Something changed: an instance started, or has room.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    instances: Vec<Arc<Instance>>,
    starting: u32,
    waiting: u32,
    /// Nobody asks any more: what is still starting ends when it is there.
    closed: bool,
}

/// Room in an instance until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) instance: Arc<Instance>,
    pool: Arc<Pool>,
}

/// Why there is no room.
#[derive(Debug)]
pub(crate) enum NoRoom {
    /// All instances are busy, and there may not be more.
    Busy,
    /// An instance does not start.
    Failed(Failure),
}

impl CloudRun {
    /// The instances of a revision.
    pub(crate) fn pool(self: &Arc<CloudRun>, service: &Service, revision: &Revision) -> Arc<Pool> {
        let key = (service.name.clone(), revision.name.clone());
        let number = |value: &serde_json::Value| value.as_u64().map(|number| number as u32);
        let given = number(&revision.template["maxInstanceRequestConcurrency"]);
        let own = number(&revision.template["scaling"]["maxInstanceCount"]);
        let all = service.spec.get("scaling").and_then(|all| number(&all["maxInstanceCount"]));
        let most = [own, all].into_iter().flatten().filter(|most| *most > 0).min();
        let make = || {
            Arc::new(Pool {
                run: Arc::downgrade(self),
                service: service.clone(),
                revision: revision.clone(),
                concurrency: given.filter(|given| *given > 0).unwrap_or(CONCURRENCY),
                most: most.unwrap_or(MOST_INSTANCES),
                inner: Mutex::default(),
                changed: Notify::new(),
            })
        };
        self.inner().pools.entry(key).or_insert_with(make).clone()
    }
}

impl Pool {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a first instance, as Google does before a revision is ready.
    pub(crate) async fn first(self: &Arc<Pool>) -> Result<(), Failure> {
        self.inner().starting += 1;
        self.add().await.unwrap_or_else(|error| {
            Err(Failure { reason: "INTERNAL".into(), message: error.to_string() })
        })
    }

    async fn start(&self) -> Result<Instance, Failure> {
        let internal = |why: String| Failure { reason: "INTERNAL".into(), message: why };
        let run = self.run.upgrade().ok_or_else(|| internal("it is stopping".into()))?;
        let container = self.revision.template["containers"][0].clone();
        let image = container["image"].as_str().unwrap_or_default().to_owned();
        let (home, images, registry) = (run.home.clone(), run.images.clone(), run.registry.clone());
        let unpacked =
            tokio::task::spawn_blocking(move || rootfs::rootfs(&home, &images, &registry, &image));
        let rootfs = unpacked.await.map_err(|error| internal(error.to_string()))??;
        let (service, revision) = (self.service.id(), &self.revision.name);
        let path = run.home.join("logs/cloudrun").join(service).join(format!("{revision}.log"));
        let printing = Printing {
            project: self.service.project().to_owned(),
            of: self.service.counted(&self.revision.name),
        };
        let logging = run.logging.clone();
        let told = Box::new(move |line: &[u8]| logging.take(&printing, line));
        let log = Log::open(&path, told).map_err(|error| internal(error.to_string()))?;
        let launch =
            Launch { rootfs, container, service: service.into(), revision: revision.clone() };
        launch.start(Arc::new(log), &run.podman).await
    }

    /// Room for a request, in an instance that is there or one that is started for it.
    pub(crate) async fn room(self: &Arc<Pool>) -> Result<Permit, NoRoom> {
        let until = Instant::now() + WAIT;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on nothing is missed.
            changed.as_mut().enable();
            let start = {
                let mut inner = self.inner();
                if inner.closed {
                    return Err(NoRoom::Busy);
                }
                inner.instances.retain(|instance| instance.is_alive());
                let load = |instance: &&Arc<Instance>| instance.in_flight.load(Ordering::Acquire);
                let free = inner.instances.iter().filter(|one| load(one) < self.concurrency);
                if let Some(instance) = free.min_by_key(load) {
                    instance.in_flight.fetch_add(1, Ordering::AcqRel);
                    return Ok(Permit { instance: instance.clone(), pool: self.clone() });
                }
                let there = inner.instances.len() as u32 + inner.starting;
                let coming = inner.starting * self.concurrency;
                let start = there < self.most && coming <= inner.waiting;
                if start {
                    inner.starting += 1;
                }
                inner.waiting += 1;
                start
            };
            // A client may go away at any time, and is not counted any more then.
            let _waiting = Waiting(self);
            if start {
                match self.add().await {
                    Ok(started) => started.map_err(NoRoom::Failed)?,
                    Err(_) => return Err(NoRoom::Busy),
                }
            } else {
                let left = until.saturating_duration_since(Instant::now());
                tokio::time::timeout(left, changed).await.map_err(|_| NoRoom::Busy)?;
            }
        }
    }

    /// Starts an instance that was counted as starting, whether or not somebody still waits for it.
    fn add(self: &Arc<Pool>) -> tokio::task::JoinHandle<Result<(), Failure>> {
        let pool = self.clone();
        tokio::spawn(async move {
            let started = pool.start().await;
            let mut inner = pool.inner();
            inner.starting -= 1;
            let started = started.map(|instance| match inner.closed {
                true => instance.kill(),
                false => inner.instances.push(Arc::new(instance)),
            });
            drop(inner);
            pool.changed.notify_waiters();
            started
        })
    }

    /// Ends instances that had nothing to do for so long, but for the least; starts what is missing
    /// of those.
    pub(crate) fn sweep(self: &Arc<Pool>, least: u32, idle_after: Duration) {
        let mut inner = self.inner();
        inner.instances.retain(|instance| instance.is_alive());
        let mut spare = (inner.instances.len() as u32).saturating_sub(least);
        let idle = |instance: &Arc<Instance>| {
            let used = *instance.used.lock().unwrap_or_else(PoisonError::into_inner);
            instance.in_flight.load(Ordering::Acquire) == 0 && used.elapsed() >= idle_after
        };
        inner.instances.retain(|instance| {
            let ends = spare > 0 && idle(instance);
            if ends {
                spare -= 1;
                instance.clone().stop();
            }
            !ends
        });
        let there = inner.instances.len() as u32 + inner.starting;
        let missing = least.min(self.most).saturating_sub(there);
        inner.starting += missing;
        drop(inner);
        for _ in 0..missing {
            // What does not start is tried again by the next sweep.
            self.add();
        }
    }

    pub(crate) fn kill(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.instances.drain(..).for_each(|instance| instance.kill());
    }
}

/// A request that waits for room, until it is dropped.
struct Waiting<'a>(&'a Pool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.inner().waiting -= 1;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.instance.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.instance.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.pool.changed.notify_waiters();
    }
}
