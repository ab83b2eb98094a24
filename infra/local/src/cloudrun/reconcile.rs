//! What brings a service to what is wanted: its newest revision is started once, then traffic moves.

use std::sync::Arc;
use std::time::Duration;

use super::CloudRun;
use super::state::{Ended, Failure, Readiness, Service};

/// How long it takes at least.
const SETTLE: Duration = Duration::from_millis(250);

/// What an operation ends with that is to fail.
const ON_PURPOSE: &str = "The route could not be updated, by a fault on purpose.";

/// Begins beside everything else.
pub(super) fn spawn(run: &Arc<CloudRun>, service: &str, operation: String) {
    let (run, service) = (run.clone(), service.to_owned());
    tokio::spawn(async move {
        let turn = run.inner().reconciling.entry(service.clone()).or_default().clone();
        let _one_at_a_time = turn.lock().await;
        tokio::time::sleep(SETTLE).await;
        reconcile(&run, &service, &operation).await;
    });
}

async fn reconcile(run: &Arc<CloudRun>, name: &str, operation: &str) {
    let fails = run.store.read().operations.get(operation).is_some_and(|one| one.fails);
    let ended = match run.store.service(name) {
        // What was asked for stays asked for, and nothing moves.
        Ok(_) if fails => run.store.end_operation(operation, |_| Some(internal(ON_PURPOSE))),
        Ok(service) => {
            let outcomes = start(run, &service).await;
            let ports = listen(run, &service);
            run.store.end_operation(operation, |service| bring(service, outcomes, ports))
        }
        Err(_) => run.store.end_operation(operation, |_| None),
    };
    match ended {
        Ended::Kept => run.close_unused_tags(name),
        // It was deleted while its instances were started.
        Ended::Deleted => run.close(name),
    }
}

type Outcomes = Vec<(String, Readiness)>;
type Ports = Vec<(String, std::io::Result<u16>)>;

/// Starts revisions that never were; what came of each.
async fn start(run: &Arc<CloudRun>, service: &Service) -> Outcomes {
    let mut outcomes = Vec::new();
    for revision in service.revisions.values().filter(|one| one.state == Readiness::Pending) {
        let state = match run.pool(service, revision).first().await {
            Ok(()) => Readiness::Ready,
            Err(failure) => Readiness::Failed(failure),
        };
        outcomes.push((revision.name.clone(), state));
    }
    outcomes
}

/// Opens the addresses of the tags that are wanted.
fn listen(run: &Arc<CloudRun>, service: &Service) -> Ports {
    let tags = service.wanted().into_iter().filter_map(|one| one.tag);
    let ports = tags.map(|tag| {
        let known = service.ports.get(&tag).copied().unwrap_or(0);
        let port = run.listen(&service.name, &tag, known);
        (tag, port)
    });
    ports.collect()
}

/// Writes down what was started and opened, and moves traffic; what stands in the way, if anything
/// does.
fn bring(service: &mut Service, outcomes: Outcomes, ports: Ports) -> Option<Failure> {
    for (revision, readiness) in outcomes {
        if let Some(revision) = service.revisions.get_mut(&revision) {
            revision.state = readiness;
        }
    }
    let mut failure = None;
    for (tag, port) in ports {
        match port {
            Ok(port) => drop(service.ports.insert(tag, port)),
            Err(error) => failure = Some(internal(&error.to_string())),
        }
    }
    failure.or_else(|| settle(service))
}

fn internal(message: &str) -> Failure {
    Failure { reason: "INTERNAL".into(), message: message.into() }
}

/// Moves traffic where it is wanted; what stands in the way, if anything does.
fn settle(service: &mut Service) -> Option<Failure> {
    let wanted = service.wanted();
    let newest = service.latest_created.as_ref().and_then(|name| service.revisions.get(name));
    let failed = newest.and_then(|revision| match &revision.state {
        Readiness::Failed(failure) => Some(failure.clone()),
        _ => None,
    });
    let not_ready = wanted.iter().find_map(|serving| {
        let revision = service.revisions.get(&serving.revision)?;
        match &revision.state {
            Readiness::Ready => None,
            Readiness::Pending => Some(Failure {
                reason: "WAITING_FOR_OPERATION".into(),
                message: format!("Revision '{}' is not ready", revision.name),
            }),
            Readiness::Failed(failure) => Some(failure.clone()),
        }
    });
    // What serves stays as it is until all of the wanted can.
    if not_ready.is_none() && !wanted.is_empty() {
        let latest = wanted.iter().filter(|serving| serving.percent > 0 || serving.latest);
        let latest = latest.max_by_key(|serving| {
            service.revisions.get(&serving.revision).map_or(0, |revision| revision.created)
        });
        service.latest_ready = latest.map(|serving| serving.revision.clone());
        service.serving = wanted;
        service.observed = service.generation;
    }
    not_ready.or(failed)
}
