//! An alias as a release's target.
//!
//! The stable version is the alias's `FunctionVersion`, the candidate its additional weight.
//! Every write carries the RevisionId that was read, and always the whole routing: what Lambda is
//! not told, it keeps.

use std::time::Duration;

use aws_sdk_lambda::types::AliasRoutingConfiguration;
use slsml_release::journal::Probed;
use slsml_release::ports::{Observed, PortError, Target, Token};
use slsml_release::{Revision, Split, Weight};

use crate::{Clients, LambdaError, invoke};

/// How often a request of our own is tried when Lambda has no room for it, and after how long.
const PROBE_TRIES: u32 = 5;
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// An alias of a function.
#[derive(Clone, Debug)]
pub struct AliasTarget {
    pub(crate) clients: Clients,
    pub(crate) function: String,
    alias: String,
    /// What a version is asked before it gets traffic.
    request: Vec<u8>,
}

impl AliasTarget {
    /// The alias `alias` of `function`, which need not exist yet.
    pub fn new(clients: &Clients, function: &str, alias: &str) -> AliasTarget {
        let (function, alias) = (function.into(), alias.into());
        AliasTarget { clients: clients.clone(), function, alias, request: b"{}".to_vec() }
    }

    /// What to ask a version before it gets traffic: an infer request.
    pub fn with_request(mut self, request: Vec<u8>) -> AliasTarget {
        self.request = request;
        self
    }

    /// One request of our own to a version; the error it answered with, if it failed.
    async fn ask(&self, version: &str) -> Result<Option<String>, LambdaError> {
        let mut tried = 1;
        loop {
            match invoke(&self.clients, &self.function, version, &self.request, false).await {
                Ok(answer) if answer.failed => {
                    let text = String::from_utf8_lossy(&answer.payload).into_owned();
                    return Ok(Some(text.chars().take(500).collect()));
                }
                Ok(_) => return Ok(None),
                // That Lambda has no room, or fails itself, says nothing about the version.
                Err(_) if tried < PROBE_TRIES => tokio::time::sleep(PROBE_PAUSE).await,
                Err(error) => return Err(error),
            }
            tried += 1;
        }
    }

    fn moved(&self, error: LambdaError) -> LambdaError {
        match error.code() {
            Some("PreconditionFailedException" | "ResourceConflictException") => {
                LambdaError::Moved {
                    what: format!("the alias {} of {}", self.alias, self.function),
                }
            }
            _ => error,
        }
    }

    async fn create(&self, split: &Split) -> Result<Observed, LambdaError> {
        let created = self
            .clients
            .lambda
            .create_alias()
            .function_name(&self.function)
            .name(&self.alias)
            .function_version(&split.stable.0)
            .set_routing_config(split.candidate.is_some().then(|| routing(split)))
            .send()
            .await
            .map_err(|error| self.moved(LambdaError::of("CreateAlias", error)))?;
        observed(created.function_version, created.routing_config, created.revision_id)
    }

    async fn update(&self, split: &Split, seen: &Token) -> Result<Observed, LambdaError> {
        let updated = self
            .clients
            .lambda
            .update_alias()
            .function_name(&self.function)
            .name(&self.alias)
            .function_version(&split.stable.0)
            .routing_config(routing(split))
            .revision_id(&seen.0)
            .send()
            .await
            .map_err(|error| self.moved(LambdaError::of("UpdateAlias", error)))?;
        observed(updated.function_version, updated.routing_config, updated.revision_id)
    }

    async fn get(&self) -> Result<Observed, LambdaError> {
        let call = self.clients.lambda.get_alias().function_name(&self.function).name(&self.alias);
        match call.send().await {
            Ok(found) => observed(found.function_version, found.routing_config, found.revision_id),
            Err(error) => match LambdaError::of("GetAlias", error) {
                error if error.is_not_found() => Ok(Observed { split: None, token: None }),
                error => Err(error),
            },
        }
    }
}

impl Target for AliasTarget {
    async fn observe(&self) -> Result<Observed, PortError> {
        Ok(self.get().await?)
    }

    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError> {
        let written = match seen {
            Some(token) => self.update(split, token).await,
            None => self.create(split).await,
        };
        match written {
            // A write whose answer was lost is tried again by the SDK, and then comes too late:
            // it was us who moved it.
            Err(moved @ LambdaError::Moved { .. }) => {
                let found = self.get().await?;
                if found.split.as_ref() == Some(split) { Ok(found) } else { Err(moved.into()) }
            }
            other => Ok(other?),
        }
    }

    async fn exists(&self, revision: &Revision) -> Result<bool, PortError> {
        let call = self.clients.lambda.get_function_configuration();
        match call.function_name(&self.function).qualifier(&revision.0).send().await {
            Ok(_) => Ok(true),
            Err(error) => match LambdaError::of("GetFunctionConfiguration", error) {
                error if error.is_not_found() => Ok(false),
                error => Err(error.into()),
            },
        }
    }

    async fn probe(&self, revision: &Revision, requests: u32) -> Result<Probed, PortError> {
        let mut probed = Probed::default();
        for _ in 0..requests {
            match self.ask(&revision.0).await? {
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

fn routing(split: &Split) -> AliasRoutingConfiguration {
    let weights =
        split.candidate.iter().map(|(revision, weight)| (revision.0.clone(), weight.as_fraction()));
    AliasRoutingConfiguration::builder()
        .set_additional_version_weights(Some(weights.collect()))
        .build()
}

pub(crate) fn observed(
    version: Option<String>,
    routing: Option<AliasRoutingConfiguration>,
    revision_id: Option<String>,
) -> Result<Observed, LambdaError> {
    let missing = |field| LambdaError::Incomplete { call: "the alias", field };
    let stable = Revision(version.ok_or(missing("FunctionVersion"))?);
    let token = Token(revision_id.ok_or(missing("RevisionId"))?);
    let weights =
        routing.and_then(|routing| routing.additional_version_weights).unwrap_or_default();
    let candidate = match weights.into_iter().next() {
        None => None,
        Some((version, fraction)) => {
            // Weights set by others may be finer than ours.
            let percent = (fraction * 10_000.0).round() / 100.0;
            let weight = Weight::percent(percent).map_err(|_| missing("a weight from 0 to 1"))?;
            Some((Revision(version), weight))
        }
    };
    Ok(Observed { split: Some(Split { stable, candidate }), token: Some(token) })
}
