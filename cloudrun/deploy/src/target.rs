//! A service as a release's target.
//!
//! Every write carries the etag that was read, and all targets: Cloud Run replaces what it is told.
//! It also sets an annotation that is new each time, so that the etag changes though the traffic may
//! not: a write that was given up cannot come through later.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use slsml_release::journal::Probed;
use slsml_release::ports::{Observed, PortError, Target, Token};
use slsml_release::{Revision, Split};

use crate::service::{self, FIRST, MODEL};
use crate::traffic::{self, Traffic};
use crate::{CloudRunError, Google};

/// How often a request of our own is tried when there is no room for it, and after how long.
const PROBE_TRIES: u32 = 5;
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// A service.
#[derive(Clone, Debug)]
pub struct ServiceTarget {
    pub(crate) google: Google,
    pub(crate) service: String,
    /// What a revision is asked before it gets traffic.
    request: Vec<u8>,
}

/// An answer to a request.
#[derive(Clone, Debug)]
pub struct Invoked {
    /// The HTTP status.
    pub status: u16,
    /// What it says.
    pub body: Vec<u8>,
}

/// Where a service and one of its revisions answer.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The service itself.
    pub service: Option<String>,
    /// The revision alone, if it has a tag.
    pub revision: Option<String>,
}

impl ServiceTarget {
    /// A service, which need not exist yet.
    pub fn new(google: &Google, service: &str) -> ServiceTarget {
        let request = b"{}".to_vec();
        ServiceTarget { google: google.clone(), service: service.into(), request }
    }

    /// What to ask a revision before it gets traffic: an infer request.
    pub fn with_request(mut self, request: Vec<u8>) -> ServiceTarget {
        self.request = request;
        self
    }

    /// The service's own address, and that of a revision that has a tag.
    pub async fn addresses(&self, revision: &Revision) -> Result<Addresses, CloudRunError> {
        let service = self.get().await?.unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let tagged = traffic::list(&service, "trafficStatuses")
            .find(|one| traffic::revision(one) == Some(&*revision.0) && one["uri"].is_string());
        Ok(Addresses {
            service: text(&service["uri"]),
            revision: tagged.and_then(|one| text(&one["uri"])),
        })
    }

    /// Asks whoever has traffic, or a revision at its own address, once; whatever the answer is.
    pub async fn invoke(&self, revision: Option<&Revision>) -> Result<Invoked, CloudRunError> {
        let service = service::existing(&self.google, &self.service).await?;
        let whom = revision.map_or_else(|| self.service.clone(), ToString::to_string);
        let failed = |reason: &str| CloudRunError::Failed {
            what: format!("asking {whom}"),
            reason: reason.into(),
        };
        let (address, template) = match revision {
            None => (service["uri"].as_str().map(str::to_owned), service["template"].clone()),
            Some(revision) => {
                let found = service::revision(&self.google, &self.service, &revision.0).await?;
                let found = found.ok_or_else(|| failed("there is no such revision"))?;
                let has_all = Traffic::of(&service).shares == [(revision.0.clone(), 100)];
                let Addresses { service, revision } = self.addresses(revision).await?;
                (revision.or(service.filter(|_| has_all)), found)
            }
        };
        let address = address.ok_or_else(|| failed("it has no address of its own"))?;
        let url = infer_url(&address, &template).ok_or_else(|| failed(NOT_OURS))?;
        let token = self.google.identity_token(&self.audience(&address).await?).await;
        let unreachable = |error: reqwest::Error| CloudRunError::Unreachable {
            call: "the request",
            cause: error.without_url().to_string(),
        };
        let answer = self.request(&url, token.as_deref()).send().await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(unreachable)?;
        Ok(Invoked { status, body: body.to_vec() })
    }

    /// The request that is asked, to an address.
    fn request(&self, url: &str, token: Option<&str>) -> RequestBuilder {
        let mut request = self.google.http().request(Method::POST, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.header("content-type", "application/json").body(self.request.clone())
    }

    /// Whom a token for requests must be for: the service, whatever tag is asked.
    async fn audience(&self, address: &str) -> Result<String, CloudRunError> {
        let service = self.get().await?.unwrap_or_default();
        Ok(service["uri"].as_str().unwrap_or(address).to_owned())
    }

    fn moved(&self) -> CloudRunError {
        CloudRunError::moved(&self.service)
    }

    fn observed(&self, service: &Value) -> Result<Observed, CloudRunError> {
        let mut split = Traffic::of(service).split(&self.service)?;
        // A first revision serves nobody in a release's words until it is released.
        let first = service["annotations"][FIRST].as_str();
        let unreleased = first.map(|first| Split::all_to(Revision(first.into())));
        if unreleased.is_some() && split == unreleased {
            split = None;
        }
        let missing = CloudRunError::Incomplete { call: "GetService", field: "etag" };
        let token = service["etag"].as_str().ok_or(missing)?;
        Ok(Observed { split, token: Some(Token(token.into())) })
    }

    async fn get(&self) -> Result<Option<Value>, CloudRunError> {
        service::get(&self.google, &self.service).await
    }

    async fn at_rest(&self) -> Result<Option<Value>, CloudRunError> {
        service::at_rest(&self.google, &self.service).await
    }

    async fn write(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, CloudRunError> {
        let service = self.at_rest().await?.ok_or_else(|| match seen {
            Some(_) => self.moved(),
            None => CloudRunError::NoService { service: self.service.clone() },
        })?;
        let now = self.observed(&service)?;
        if now.token.as_ref() != seen {
            return Err(self.moved());
        }
        let traffic = Traffic::of(&service).routed(split);
        let body = json!({
            "traffic": traffic.wire(),
            "annotations": service::annotations(&service, None),
            "etag": service["etag"],
        });
        let mask = vec!["traffic".into(), "annotations".into()];
        let operation = service::patch(&self.google, &self.service, mask, body).await;
        let operation = operation.map_err(|error| match error.is_conflict() {
            true => self.moved(),
            false => error,
        })?;
        let finished = self.google.finish("UpdateService", operation).await;
        // Somebody else may have moved it since: that is not ours to write down. And what the operation
        // ended with may be another's failure, as of the newest revision, while the traffic moved.
        let service = self.at_rest().await?.ok_or_else(|| self.moved())?;
        let found = self.observed(&service)?;
        if found.split.as_ref() == Some(split) {
            return Ok(found);
        }
        finished?;
        Err(self.moved())
    }

    /// One request of our own; the error it was answered with, if it failed.
    async fn ask(
        &self,
        revision: &str,
        url: &str,
        token: Option<&str>,
    ) -> Result<Option<String>, CloudRunError> {
        let mut tried = 1;
        loop {
            let again = match self.request(url, token).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(None),
                Ok(answer) => match answer.status().as_u16() {
                    status @ (401 | 403) => {
                        return Err(CloudRunError::ProbeRefused {
                            revision: revision.into(),
                            status,
                        });
                    }
                    // That there is no room, or that an address is so new that Google does not
                    // know it everywhere, says nothing about the revision: its own 404 is JSON.
                    status @ (404 | 429) if status == 429 || !is_json(&answer) => {
                        CloudRunError::Failed {
                            what: format!("asking {revision}"),
                            reason: format!("Google itself answers with status {status}"),
                        }
                    }
                    status => {
                        let text = answer.text().await.unwrap_or_default();
                        let text: String = text.chars().take(500).collect();
                        return Ok(Some(format!("status {status}: {text}")));
                    }
                },
                Err(error) => CloudRunError::Unreachable {
                    call: "a request to the candidate",
                    cause: error.without_url().to_string(),
                },
            };
            if tried >= PROBE_TRIES {
                return Err(again);
            }
            tried += 1;
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
}

const NOT_OURS: &str = "slsml did not make it: it does not say which model it serves";

/// Where a revision's model is asked, if it says which that is.
fn infer_url(address: &str, revision: &Value) -> Option<String> {
    let model = revision["annotations"][MODEL].as_str()?;
    Some(format!("{address}/v2/models/{model}/infer"))
}

fn is_json(answer: &reqwest::Response) -> bool {
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

impl Target for ServiceTarget {
    async fn observe(&self) -> Result<Observed, PortError> {
        Ok(match self.at_rest().await? {
            Some(service) => self.observed(&service)?,
            None => Observed { split: None, token: None },
        })
    }

    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError> {
        match self.write(split, seen).await {
            // A write whose answer was lost is tried again, and then comes too late: it was us who
            // moved it.
            Err(moved @ CloudRunError::Moved { .. }) => {
                let found = self.observe().await?;
                if found.split.as_ref() == Some(split) { Ok(found) } else { Err(moved.into()) }
            }
            other => Ok(other?),
        }
    }

    async fn exists(&self, revision: &Revision) -> Result<bool, PortError> {
        let found = service::revision(&self.google, &self.service, &revision.0).await?;
        Ok(found.is_some())
    }

    async fn probe(&self, revision: &Revision, requests: u32) -> Result<Probed, PortError> {
        let mut probed = Probed::default();
        if requests == 0 {
            return Ok(probed);
        }
        let address =
            self.addresses(revision).await?.revision.ok_or_else(|| CloudRunError::Failed {
                what: format!("asking {revision}"),
                reason: "it has no address of its own: somebody took its tag away".into(),
            })?;
        let found = service::revision(&self.google, &self.service, &revision.0).await?;
        let url = found.and_then(|found| infer_url(&address, &found));
        let url = url.ok_or_else(|| CloudRunError::Failed {
            what: format!("asking {revision}"),
            reason: NOT_OURS.into(),
        })?;
        let token = self.google.identity_token(&self.audience(&address).await?).await;
        for _ in 0..requests {
            match self.ask(&revision.0, &url, token.as_deref()).await? {
                None => probed.answered += 1,
                Some(error) => {
                    probed.failed += 1;
                    probed.error.get_or_insert(error);
                }
            }
        }
        Ok(probed)
    }
}
