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

/// Where requests are sent.
#[derive(Clone, Debug)]
pub enum Door {
    /// An alias of a function.
    Alias {
        /// Who sends.
        client: Box<aws_sdk_lambda::Client>,
        /// The function's name.
        function: String,
        /// The alias.
        alias: String,
    },
    /// A service on Cloud Run.
    Service {
        /// Who sends.
        client: reqwest::Client,
        /// Where infer requests go.
        url: String,
    },
}

impl Door {
    /// An alias of a function.
    pub fn alias(endpoint: &str, function: &str, alias: &str) -> Door {
        let client = Box::new(client(endpoint));
        Door::Alias { client, function: function.into(), alias: alias.into() }
    }

    /// A service on Cloud Run that serves the example.
    pub fn service(address: &str) -> Result<Door, Error> {
        Ok(Door::Service { client: http()?, url: format!("{address}/v2/models/digits/infer") })
    }
}

/// A client for addresses on this machine.
pub fn http() -> Result<reqwest::Client, Error> {
    // Built together with others, it may be one that has to be told; the first to say it wins.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?)
}

/// Whether a revision's name is, or contains as a part, what another is known by.
pub fn is_marked(revision: &str, mark: &str) -> bool {
    revision.split('-').any(|part| part == mark)
}

impl Traffic {
    /// Sends requests from `workers` clients, each pausing between requests. `models` says which of the
    /// example's models each revision serves.
    pub fn start(
        door: Door,
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
            let door = door.clone();
            tasks.spawn(async move {
                // Each worker walks the requests from another place.
                for case in cases.iter().cycle().skip(worker * 7) {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let outcome = send(&door, case, &models).await;
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

/// What a request was answered with: by whom, what, and whether it failed.
struct Answer {
    revision: String,
    value: Value,
    failed: bool,
}

async fn ask(door: &Door, case: &Case) -> Result<Answer, String> {
    match door {
        Door::Alias { client, function, alias } => {
            let payload = Blob::new(case.request.to_string());
            let call = client.invoke().function_name(function).qualifier(alias).payload(payload);
            let answer = call.send().await.map_err(|error| {
                format!("{}", aws_sdk_lambda::error::DisplayErrorContext(&error))
            })?;
            let body = answer.payload().map(|blob| blob.as_ref().to_vec()).unwrap_or_default();
            Ok(Answer {
                revision: answer.executed_version().unwrap_or_default().to_owned(),
                value: serde_json::from_slice(&body).unwrap_or_default(),
                failed: answer.function_error().is_some(),
            })
        }
        Door::Service { client, url } => {
            let answer = client.post(url).json(&case.request).send().await;
            let answer = answer.map_err(|error| format!("{error:?}"))?;
            let status = answer.status();
            let body = answer.bytes().await.map_err(|error| format!("{error:?}"))?;
            let value: Value = serde_json::from_slice(&body).unwrap_or_default();
            // Only the server's own errors are the model's.
            if !status.is_success() && value["error"].is_null() {
                return Err(format!("status {status}: {}", String::from_utf8_lossy(&body)));
            }
            let revision = value["model_version"].as_str().unwrap_or_default().to_owned();
            Ok(Answer { revision, value, failed: status.is_server_error() })
        }
    }
}

async fn send(door: &Door, case: &Case, models: &BTreeMap<String, String>) -> Outcome {
    let Answer { revision, value, failed } = match ask(door, case).await {
        Ok(answer) => answer,
        Err(why) => return Outcome::Lost(why),
    };
    let by_name = models.iter().find(|(mark, _)| is_marked(&revision, mark));
    // An error over HTTP does not say who failed: it is whoever fails on this.
    let by_fault = || models.iter().find(|(_, model)| failed && case.fails_on(model));
    let known = by_name.or_else(by_fault);
    let (mark, model) = known.map_or(("", ""), |(mark, model)| (mark.as_str(), model.as_str()));
    match failed {
        false if case.is_answered_by(model, &value) => Outcome::Right(mark.to_owned()),
        true if case.fails_on(model) => Outcome::Failed(mark.to_owned()),
        _ => Outcome::Wrong(
            revision.clone(),
            format!("revision `{revision}` answered {} with {value}", case.request["id"]),
        ),
    }
}
