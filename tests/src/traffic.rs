//! Continuous requests to an alias. Every one is accounted for: answered rightly by the version
//! that says it answered, answered wrongly, failed, or lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_lambda::primitives::Blob;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::Error;
use crate::digits::{Case, cases};

/// What became of one version's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The answer was right.
    pub right: u64,
    /// The answer was not what this version must give.
    pub wrong: u64,
    /// The version failed where it must.
    pub failed: u64,
}

/// What became of all requests.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// By the function's version.
    pub versions: BTreeMap<String, Tally>,
    /// Requests without any answer, with the first error.
    pub lost: u64,
    /// The first thing that went wrong.
    pub first_fault: Option<String>,
}

impl Totals {
    /// All answers that were wrong.
    pub fn wrong(&self) -> u64 {
        self.versions.values().map(|tally| tally.wrong).sum()
    }

    /// All requests.
    pub fn sent(&self) -> u64 {
        self.versions.values().map(|tally| tally.right + tally.wrong + tally.failed).sum::<u64>()
            + self.lost
    }
}

/// An AWS client for an endpoint on this machine.
pub fn client(endpoint: &str) -> aws_sdk_lambda::Client {
    let config = aws_sdk_lambda::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(
            "slsml-local",
            "slsml-local-secret",
            None,
            None,
            "tests",
        ))
        // A retried request would hide a lost one.
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .build();
    aws_sdk_lambda::Client::from_conf(config)
}

/// Running traffic.
#[derive(Debug)]
pub struct Traffic {
    totals: Arc<Mutex<Totals>>,
    stop: Arc<AtomicBool>,
    workers: JoinSet<()>,
}

impl Traffic {
    /// Sends requests to `function:alias` from `workers` clients, each pausing between requests.
    /// `models` says which of the example's models each of the function's versions serves.
    pub fn start(
        endpoint: &str,
        function: &str,
        alias: &str,
        models: &[(&str, &str)],
        workers: usize,
        pause: Duration,
    ) -> Result<Traffic, Error> {
        let totals: Arc<Mutex<Totals>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let cases = Arc::new(cases()?);
        let models: BTreeMap<String, String> =
            models.iter().map(|(version, model)| ((*version).into(), (*model).into())).collect();
        let models = Arc::new(models);
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            let (totals, stop, cases) = (totals.clone(), stop.clone(), cases.clone());
            let models = models.clone();
            let client = client(endpoint);
            let (function, alias) = (function.to_owned(), alias.to_owned());
            tasks.spawn(async move {
                // Each worker walks the requests from another place.
                for case in cases.iter().cycle().skip(worker * 7) {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let outcome = send(&client, &function, &alias, case, &models).await;
                    count(&mut totals.lock().unwrap_or_else(PoisonError::into_inner), outcome);
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Ok(Traffic { totals, stop, workers: tasks })
    }

    /// What became of the requests so far.
    pub fn totals(&self) -> Totals {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops after the requests under way.
    pub async fn finish(mut self) -> Totals {
        self.stop.store(true, Ordering::Release);
        while self.workers.join_next().await.is_some() {}
        self.totals()
    }
}

enum Outcome {
    Right(String),
    Failed(String),
    Wrong(String, String),
    Lost(String),
}

fn count(totals: &mut Totals, outcome: Outcome) {
    match outcome {
        Outcome::Right(version) => totals.versions.entry(version).or_default().right += 1,
        Outcome::Failed(version) => totals.versions.entry(version).or_default().failed += 1,
        Outcome::Wrong(version, what) => {
            totals.versions.entry(version).or_default().wrong += 1;
            totals.first_fault.get_or_insert(what);
        }
        Outcome::Lost(why) => {
            totals.lost += 1;
            totals.first_fault.get_or_insert(why);
        }
    }
}

async fn send(
    client: &aws_sdk_lambda::Client,
    function: &str,
    alias: &str,
    case: &Case,
    models: &BTreeMap<String, String>,
) -> Outcome {
    let payload = Blob::new(case.request.to_string());
    let answer =
        client.invoke().function_name(function).qualifier(alias).payload(payload).send().await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return Outcome::Lost(format!(
                "{}",
                aws_sdk_lambda::error::DisplayErrorContext(&error)
            ));
        }
    };
    let version = answer.executed_version().unwrap_or_default().to_owned();
    let body = answer.payload().map(|blob| blob.as_ref().to_vec()).unwrap_or_default();
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let model = models.get(&version).map(String::as_str).unwrap_or_default();
    match answer.function_error() {
        None if case.is_answered_by(model, &value) => Outcome::Right(version),
        Some(_) if case.fails_on(model) => Outcome::Failed(version),
        _ => Outcome::Wrong(
            version.clone(),
            format!("version {version} answered {} with {value}", case.request["id"]),
        ),
    }
}
