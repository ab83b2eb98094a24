//! What can go wrong, in words.

use std::path::PathBuf;

use oci_client::errors::OciDistributionError;
use slsml_release::ports::PortError;
use thiserror::Error;

use crate::Repository;

/// Why an image could not be brought where it should be.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum CloudRunError {
    #[error("`{text}` is no place for an image: {why}")]
    Repository { text: String, why: String },
    #[error("`{tag}` is no tag: up to 128 letters, digits, dots, hyphens and underscores")]
    Tag { tag: String },
    #[error("cannot read {path}: {source}")]
    Layout { path: PathBuf, source: std::io::Error },
    #[error("{path} is not what the image names it: it was changed or is incomplete")]
    Blob { path: PathBuf },
    #[error("{path} is no image manifest: {why}")]
    Manifest { path: PathBuf, why: String },
    #[error("the credentials for {registry} cannot be had: {why}")]
    Credentials { registry: String, why: String },
    #[error("{registry} lets nobody {what} without credentials, or not with these: {why}")]
    Unauthorized { registry: String, what: String, why: String },
    #[error("{registry} could not {what}: {why}")]
    Registry { registry: String, what: String, why: String },
    #[error("there is no repository for {place}: {why}")]
    NoRepository { place: String, why: String },
    #[error("no Google Cloud project is named")]
    NoProject,
    #[error("no region is named")]
    NoRegion,
    #[error("Google's credentials cannot be had: {why}")]
    NoCredentials { why: String },
    #[error("{call} was refused: {message} ({code})")]
    Refused { call: &'static str, status: u16, code: String, message: String },
    #[error("{call} did not get through: {cause}")]
    Unreachable { call: &'static str, cause: String },
    #[error("{call} answered without {field}")]
    Incomplete { call: &'static str, field: &'static str },
    #[error("the bucket {bucket} does not exist")]
    NoBucket { bucket: String },
    #[error("the service {service} does not exist")]
    NoService { service: String },
    #[error("{what} was changed by somebody else")]
    Moved { what: String },
    #[error("{service} would not get what is asked for: {why}")]
    Scaling { service: String, why: String },
    #[error("{what} of an instance cannot be `{text}`: they are {is}")]
    Resources { what: &'static str, text: String, is: &'static str },
    #[error("the traffic of {service} is divided: {shares}")]
    Divided { service: String, shares: String },
    #[error("the revision {revision} does not become ready: {why}")]
    NotReady { revision: String, why: String },
    #[error("{what} failed: {reason}")]
    Failed { what: String, reason: String },
    #[error("{what} took longer than {seconds} s")]
    TooLong { what: String, seconds: u64 },
    #[error("the address of {revision} does not let slsml in (status {status})")]
    ProbeRefused { revision: String, status: u16 },
}

impl From<CloudRunError> for PortError {
    fn from(error: CloudRunError) -> Self {
        match error {
            CloudRunError::Moved { .. } | CloudRunError::Divided { .. } => {
                PortError::Moved(error.to_string())
            }
            other => PortError::Failed(Box::new(other)),
        }
    }
}

impl CloudRunError {
    /// That somebody else was faster.
    pub(crate) fn moved(service: &str) -> Self {
        Self::Moved { what: format!("the service {service}") }
    }

    /// Whether Google says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether a write came too late.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, code, .. } if code == "ABORTED")
    }

    /// What a registry's refusal means.
    pub(crate) fn registry(to: &Repository, what: &str, error: &OciDistributionError) -> Self {
        let (registry, what) = (to.registry().to_owned(), what.to_owned());
        let why = reason(error);
        match status(error) {
            Some(401 | 403) => Self::Unauthorized { registry, what, why },
            None if matches!(error, OciDistributionError::RequestError(_)) => {
                let what = "be reached".into();
                Self::Registry { registry, what, why }
            }
            Some(404) => Self::NoRepository { place: to.to_string(), why },
            _ => Self::Registry { registry, what, why },
        }
    }
}

/// The status a registry answered with.
fn status(error: &OciDistributionError) -> Option<u16> {
    use oci_client::errors::OciErrorCode::{Denied, NameUnknown, Unauthorized};
    match error {
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. } => Some(401),
        OciDistributionError::ServerError { code, .. } => Some(*code),
        OciDistributionError::RequestError(error) => error.status().map(|status| status.as_u16()),
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().find_map(|error| match error.code {
                Denied | Unauthorized => Some(403),
                NameUnknown => Some(404),
                _ => None,
            })
        }
        _ => None,
    }
}

/// Whether another try may end otherwise. Whoever was let in once is not refused for who it is: then it is
/// whoever gives out tokens that failed.
pub(crate) fn is_passing(error: &OciDistributionError, let_in: bool) -> bool {
    match (error, status(error)) {
        (OciDistributionError::AuthenticationFailure(why), _) if !let_in => {
            let why = why.to_lowercase();
            let refusals = ["denied", "unauthorized", "forbidden", "incorrect", "invalid"];
            !refusals.iter().any(|refusal| why.contains(refusal))
        }
        (_, Some(401)) => let_in,
        (_, Some(status)) => status == 429 || status >= 500,
        (OciDistributionError::RequestError(_) | OciDistributionError::IoError(_), None) => true,
        _ => false,
    }
}

/// An error and what caused it, without the address, which may hold a secret of an upload.
fn reason(error: &OciDistributionError) -> String {
    match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            let each = envelope.errors.iter().map(|error| match error.message.as_str() {
                "" => format!("{:?}", error.code),
                message => message.to_owned(),
            });
            each.collect::<Vec<_>>().join("; ")
        }
        OciDistributionError::ServerError { code, message, .. } => {
            // A registry's own words, where it has some.
            let said: Option<serde_json::Value> = serde_json::from_str(message).ok();
            let said = said.as_ref().and_then(|all| all["errors"][0]["message"].as_str());
            let message = said.unwrap_or(message).trim().chars().take(300).collect::<String>();
            format!("status {code} {message}").trim().to_owned()
        }
        OciDistributionError::UnauthorizedError { .. } => "status 401".into(),
        OciDistributionError::RequestError(error) => {
            use std::error::Error;
            if let Some(status) = error.status() {
                return format!("status {}", status.as_u16());
            }
            let causes =
                std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source());
            causes.last().map_or_else(|| "the connection failed".into(), ToString::to_string)
        }
        OciDistributionError::AuthenticationFailure(why) => why.chars().take(300).collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_out_tokens_may_fail_and_a_refusal_is_one() {
        let failure = |why: &str| OciDistributionError::AuthenticationFailure(why.into());
        assert!(is_passing(&failure("<html>502 Bad Gateway</html>"), false));
        assert!(!is_passing(&failure(r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#), false));
        let unauthorized = OciDistributionError::UnauthorizedError { url: "u".into() };
        assert!(!is_passing(&unauthorized, false) && is_passing(&unauthorized, true));
    }
}
