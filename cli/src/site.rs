//! What is released: an alias of a Lambda function, or a service on Cloud Run.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use slsml_cloudrun::{RevisionMetrics, ServiceTarget};
use slsml_lambda::{AliasTarget, VersionMetrics};
use slsml_release::journal::Probed;
use slsml_release::ports::{LogLine, LogQuery, Metrics, Observed, PortError, Target, Token};
use slsml_release::{Counts, Measure, Revision, Split};

use crate::failure::Failure;

/// Its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// An alias of a Lambda function.
    Alias { function: String, alias: String },
    /// A service on Cloud Run.
    Service { service: String },
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias { function, alias } => write!(f, "{alias} of {function}"),
            Self::Service { service } => write!(f, "the service {service}"),
        }
    }
}

impl Site {
    /// What it is, and its name.
    pub(crate) fn whole(&self) -> String {
        match self {
            Self::Alias { .. } => format!("the alias {self}"),
            Self::Service { .. } => self.to_string(),
        }
    }

    /// What its revisions are called.
    pub(crate) fn revision(&self) -> &'static str {
        match self {
            Self::Alias { .. } => "version",
            Self::Service { .. } => "revision",
        }
    }

    /// What the revisions of a target are called, by the name that journals have for it.
    pub(crate) fn revision_of(target: &str) -> &'static str {
        if target.starts_with("cloudrun/") { "revision" } else { "version" }
    }

    /// What its revisions are part of.
    pub(crate) fn deployed(&self) -> String {
        match self {
            Self::Alias { function, .. } => format!("the function {function}"),
            Self::Service { .. } => self.to_string(),
        }
    }

    /// The command that deploys it.
    pub(crate) fn deploy(&self) -> &'static str {
        match self {
            Self::Alias { .. } => "slsml deploy lambda",
            Self::Service { .. } => "slsml deploy cloudrun",
        }
    }

    /// The flags that name it.
    pub(crate) fn flags(&self) -> String {
        match self {
            Self::Alias { function, alias } => format!(" --function {function} --alias {alias}"),
            Self::Service { service } => format!(" --service {service}"),
        }
    }

    /// A document with its names in front.
    pub(crate) fn with(&self, mut value: Value) -> Value {
        match self {
            Self::Alias { function, alias } => {
                value["function"] = json!(function);
                value["alias"] = json!(alias);
            }
            Self::Service { service } => value["service"] = json!(service),
        }
        value
    }
}

/// Where traffic is divided.
#[derive(Clone, Debug)]
pub(crate) enum AnyTarget {
    Alias(AliasTarget),
    Service(ServiceTarget),
}

impl AnyTarget {
    /// What to ask a revision before it gets traffic.
    pub(crate) fn with_request(self, request: Vec<u8>) -> AnyTarget {
        match self {
            Self::Alias(target) => Self::Alias(target.with_request(request)),
            Self::Service(target) => Self::Service(target.with_request(request)),
        }
    }

    /// The aliases the same revisions may be released behind.
    pub(crate) async fn aliases(&self) -> Result<Vec<String>, Failure> {
        Ok(match self {
            Self::Alias(target) => target.aliases().await?,
            Self::Service(_) => Vec::new(),
        })
    }

    /// Revisions that have neither traffic nor a name, the newest first.
    pub(crate) async fn unused(&self) -> Result<Vec<String>, Failure> {
        Ok(match self {
            Self::Alias(target) => target.unused().await?,
            Self::Service(target) => target.unused().await?,
        })
    }

    /// Lines that revisions printed, the oldest first.
    pub(crate) async fn logs(&self, query: &LogQuery<'_>) -> Result<Vec<LogLine>, Failure> {
        Ok(match self {
            Self::Alias(target) => target.logs(query).await?,
            Self::Service(target) => target.logs(query).await?,
        })
    }

    /// Deletes a revision.
    pub(crate) async fn delete_revision(&self, revision: &str) -> Result<(), Failure> {
        match self {
            Self::Alias(target) => target.delete_version(revision).await?,
            Self::Service(target) => target.delete_revision(revision).await?,
        }
        Ok(())
    }

    /// Deletes everything.
    pub(crate) async fn delete_all(&self) -> Result<(), Failure> {
        match self {
            Self::Alias(target) => target.delete_function().await?,
            Self::Service(target) => target.delete_service().await?,
        }
        Ok(())
    }
}

impl Target for AnyTarget {
    async fn observe(&self) -> Result<Observed, PortError> {
        match self {
            Self::Alias(target) => target.observe().await,
            Self::Service(target) => target.observe().await,
        }
    }

    async fn route(&self, split: &Split, seen: Option<&Token>) -> Result<Observed, PortError> {
        match self {
            Self::Alias(target) => target.route(split, seen).await,
            Self::Service(target) => target.route(split, seen).await,
        }
    }

    async fn exists(&self, revision: &Revision) -> Result<bool, PortError> {
        match self {
            Self::Alias(target) => target.exists(revision).await,
            Self::Service(target) => target.exists(revision).await,
        }
    }

    async fn probe(&self, revision: &Revision, requests: u32) -> Result<Probed, PortError> {
        match self {
            Self::Alias(target) => target.probe(revision, requests).await,
            Self::Service(target) => target.probe(revision, requests).await,
        }
    }
}

/// What revisions did.
#[derive(Clone, Debug)]
pub(crate) enum AnyMetrics {
    Versions(VersionMetrics),
    Revisions(RevisionMetrics),
}

impl Metrics for AnyMetrics {
    fn resolution(&self) -> Duration {
        match self {
            Self::Versions(metrics) => metrics.resolution(),
            Self::Revisions(metrics) => metrics.resolution(),
        }
    }

    fn delay(&self) -> Duration {
        match self {
            Self::Versions(metrics) => metrics.delay(),
            Self::Revisions(metrics) => metrics.delay(),
        }
    }

    async fn knows(&self, measure: &Measure) -> Result<bool, PortError> {
        match self {
            Self::Versions(metrics) => metrics.knows(measure).await,
            Self::Revisions(metrics) => metrics.knows(measure).await,
        }
    }

    async fn counts(
        &self,
        revision: &Revision,
        measures: &[Measure],
        from: Duration,
        to: Duration,
    ) -> Result<Counts, PortError> {
        match self {
            Self::Versions(metrics) => metrics.counts(revision, measures, from, to).await,
            Self::Revisions(metrics) => metrics.counts(revision, measures, from, to).await,
        }
    }
}
