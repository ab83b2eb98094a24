//! What brings a service to what is wanted: its newest revision is started once, then traffic moves.

use std::sync::Arc;
use std::time::Duration;

use super::CloudRun;
use super::state::{Failure, Readiness, Service};

/// How long it takes at least.
const SETTLE: Duration = Duration::from_millis(250);

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
    let Ok(service) = run.store.service(name) else {
        return end(run, operation, DELETED);
    };
    if run.store.read().operations.get(operation).is_some_and(|operation| operation.fails) {
        return fail(run, name, operation);
    }
    let mut outcomes = Vec::new();
    for revision in service.revisions.values().filter(|one| one.state == Readiness::Pending) {
        let state = match run.pool(&service, revision).first().await {
            Ok(()) => Readiness::Ready,
            Err(failure) => Readiness::Failed(failure),
        };
        outcomes.push((revision.name.clone(), state));
    }
    let tags: Vec<String> = service.wanted().into_iter().filter_map(|one| one.tag).collect();
    let ports: Vec<(String, std::io::Result<u16>)> = tags
        .into_iter()
        .map(|tag| {
            let known = service.ports.get(&tag).copied().unwrap_or(0);
            let port = run.listen(name, &tag, known);
            (tag, port)
        })
        .collect();
    let changed = run.store.change(|state| {
        let mut failure = None;
        if let Some(service) = state.services.get_mut(name) {
            for (revision, readiness) in outcomes {
                if let Some(revision) = service.revisions.get_mut(&revision) {
                    revision.state = readiness;
                }
            }
            for (tag, port) in ports {
                match port {
                    Ok(port) => drop(service.ports.insert(tag, port)),
                    Err(error) => failure = Some(internal(&error)),
                }
            }
            failure = failure.or_else(|| settle(service));
            // A later change is brought about by its own operation.
            if service.reconciling.as_deref() == Some(operation) {
                service.reconciling = None;
                service.failure = failure.clone();
            }
        }
        let is_there = state.services.contains_key(name);
        if let Some(operation) = state.operations.get_mut(operation) {
            operation.done = true;
            operation.error = failure.map(|failure| failure.message);
            if !is_there {
                operation.error = Some(DELETED.into());
            }
        }
        Ok(is_there)
    });
    match changed {
        // The disk is full: it stays as it is, and a restart tries again.
        Err(_) => {}
        Ok(true) => run.close_unused_tags(name),
        // It was deleted while its instances were started.
        Ok(false) => run.close(name),
    }
}

const DELETED: &str = "The service was deleted.";

/// Ends an operation with an error.
fn end(run: &CloudRun, operation: &str, error: &str) {
    // On a full disk it stays open, and a restart tries again.
    let _ = run.store.change(|state| {
        if let Some(operation) = state.operations.get_mut(operation) {
            operation.done = true;
            operation.error = Some(error.into());
        }
        Ok(())
    });
}

/// An operation that fails on purpose: what was asked for stays asked for, and nothing moves.
fn fail(run: &CloudRun, name: &str, operation: &str) {
    const WHY: &str = "The route could not be updated, by a fault on purpose.";
    // As above.
    let _ = run.store.change(|state| {
        let service = state.services.get_mut(name);
        if let Some(service) = service.filter(|one| one.reconciling.as_deref() == Some(operation)) {
            service.reconciling = None;
            service.failure = Some(Failure { reason: "INTERNAL".into(), message: WHY.into() });
        }
        Ok(())
    });
    end(run, operation, WHY);
}

fn internal(error: &std::io::Error) -> Failure {
    Failure { reason: "INTERNAL".into(), message: error.to_string() }
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
