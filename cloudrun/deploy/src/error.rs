//! What can go wrong, in words.

use std::path::PathBuf;

use oci_client::errors::OciDistributionError;
use thiserror::Error;

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
}

impl CloudRunError {
    /// What a registry's refusal means.
    pub(crate) fn registry(registry: &str, what: &str, error: &OciDistributionError) -> Self {
        let (registry, what) = (registry.to_owned(), what.to_owned());
        let why = reason(error);
        match status(error) {
            Some(401 | 403) => Self::Unauthorized { registry, what, why },
            _ => Self::Registry { registry, what, why },
        }
    }
}

/// The status a registry answered with.
fn status(error: &OciDistributionError) -> Option<u16> {
    use oci_client::errors::OciErrorCode::{Denied, Unauthorized};
    match error {
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. } => Some(401),
        OciDistributionError::ServerError { code, .. } => Some(*code),
        OciDistributionError::RequestError(error) => error.status().map(|status| status.as_u16()),
        OciDistributionError::RegistryError { envelope, .. } => {
            let mut codes = envelope.errors.iter().map(|error| &error.code);
            codes.any(|code| matches!(code, Denied | Unauthorized)).then_some(403)
        }
        _ => None,
    }
}

/// Whether another try may end otherwise.
pub(crate) fn is_passing(error: &OciDistributionError) -> bool {
    match (error, status(error)) {
        (_, Some(status)) => status == 429 || status >= 500,
        (OciDistributionError::RequestError(_), None) => true,
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
            let message = message.trim().chars().take(300).collect::<String>();
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
