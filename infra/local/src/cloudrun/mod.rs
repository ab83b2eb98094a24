//! Cloud Run: the Admin API version 2, and the instances that answer.
//!
//! <https://cloud.google.com/run/docs/reference/rest>

mod api;
mod error;
mod fields;
mod filter;
mod front;
mod instance;
mod logging;
mod monitoring;
mod podman;
mod pool;
mod reconcile;
mod rootfs;
mod state;
mod validate;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fault::Injector;
use crate::home::Home;
use crate::images::Images;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::server::Options;

pub(crate) use api::{answer, is_for};
pub(crate) use error::{answer as answer_json, fault};

use front::Front;
use logging::Logging;
use podman::Podman;
use pool::Pool;
use state::Store;

/// Everything Cloud Run works on.
#[derive(Debug)]
pub(crate) struct CloudRun {
    home: Home,
    /// The address images are named by.
    registry: String,
    store: Store,
    images: Arc<Images>,
    metrics: Arc<Metrics>,
    logging: Arc<Logging>,
    faults: Arc<Injector>,
    idle_after: Duration,
    podman: Podman,
    record: Option<Mutex<std::fs::File>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The instances of each revision, by its service's and its own name.
    pools: HashMap<(String, String), Arc<Pool>>,
    /// What listens, by service and tag; the service itself has none.
    fronts: BTreeMap<(String, String), Front>,
    /// A service is brought to what is wanted by one at a time.
    reconciling: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

impl CloudRun {
    /// What the folder holds.
    pub(crate) fn open(
        options: &Options,
        registry: String,
        images: Arc<Images>,
        metrics: Arc<Metrics>,
        logs: Arc<Logs>,
        faults: Arc<Injector>,
    ) -> std::io::Result<CloudRun> {
        let home = &options.home;
        let store = Store::open(home)?;
        let logging = Arc::new(Logging::open(home, logs, metrics.clone())?);
        let inner = Mutex::default();
        let open = |path| std::fs::File::options().create(true).append(true).open(path);
        let record = options.record.as_deref().map(open).transpose()?.map(Mutex::new);
        let podman = Podman::open(home, options.containers);
        let home = home.clone();
        Ok(CloudRun {
            home,
            registry,
            store,
            images,
            metrics,
            logging,
            faults,
            idle_after: options.idle_after,
            podman,
            record,
            inner,
        })
    }

    /// Listens for services that are there, and goes on with what a killed process left undone.
    pub(crate) fn resume(self: &Arc<CloudRun>) -> std::io::Result<()> {
        let services: Vec<_> = self.store.read().services.values().cloned().collect();
        for service in services {
            for (tag, port) in &service.ports {
                let port = self.listen(&service.name, tag, *port)?;
                self.store.remember_port(&service.name, tag, port);
            }
            if let Some(operation) = service.reconciling {
                reconcile::spawn(self, &service.name, operation);
            }
        }
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends instances that nobody needs, and starts those that are to be there always.
    pub(crate) fn sweep(self: &Arc<CloudRun>) {
        let state = self.store.read();
        let pools: Vec<_> =
            self.inner().pools.iter().map(|(key, pool)| (key.clone(), pool.clone())).collect();
        for ((service, revision), pool) in pools {
            let kept = state.services.get(&service).and_then(|service| {
                let there = service.revisions.get(&revision)?;
                Some(service.minimum(there))
            });
            if kept.is_none() {
                self.inner().pools.remove(&(service, revision));
            }
            pool.sweep(kept.unwrap_or(0), self.idle_after);
        }
    }

    /// Ends every instance.
    pub(crate) fn stop(&self) {
        let mut inner = self.inner();
        inner.fronts.clear();
        inner.pools.drain().for_each(|(_, pool)| pool.kill());
        // What is left is looked for by the next.
        let _ = self.podman.remove_all();
    }
}
