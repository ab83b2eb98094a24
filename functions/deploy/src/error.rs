//! What can go wrong, in words.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use slsml_release::ports::{PortError, causes};
use thiserror::Error;

/// Why Lambda could not be brought to do something.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum LambdaError {
    #[error("no AWS region is set")]
    NoRegion,
    #[error("{call} was refused: {message} ({code})")]
    Refused { call: &'static str, code: String, message: String },
    #[error("{call} did not get through: {cause}")]
    Unreachable { call: &'static str, cause: String },
    #[error("the function {function} does not exist")]
    NoFunction { function: String },
    #[error("the alias {alias} of {function} does not exist")]
    NoAlias { function: String, alias: String },
    #[error("the function {function} needs an execution role")]
    NoRole { function: String },
    #[error("the zip has {bytes} bytes; Lambda takes {limit} directly, larger ones from a bucket")]
    NeedsBucket { bytes: u64, limit: u64 },
    #[error("the function has {bytes} bytes unpacked; Lambda takes {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("{what} failed: {reason}")]
    Failed { what: String, reason: String },
    #[error("{what} is still not ready after {seconds} s")]
    NeverReady { what: String, seconds: u64 },
    #[error("somebody else changed {what} in the meantime")]
    Moved { what: String },
    #[error("Lambda's answer to {call} lacks {field}")]
    Incomplete { call: &'static str, field: &'static str },
}

impl LambdaError {
    /// A failed call, told by what went wrong.
    pub(crate) fn of<E>(call: &'static str, error: SdkError<E, HttpResponse>) -> LambdaError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match &error {
            SdkError::ServiceError(refused) => {
                let meta = refused.err().meta();
                LambdaError::Refused {
                    call,
                    // An answer without a body, to HEAD, has nothing but its status.
                    code: match meta.code() {
                        Some(code) => code.into(),
                        None => format!("HTTP {}", refused.raw().status()),
                    },
                    message: meta.message().unwrap_or("no message").into(),
                }
            }
            _ => LambdaError::Unreachable { call, cause: causes(&error) },
        }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some("ResourceNotFoundException")
    }

    /// The IAM action that is missing, if the call was refused for want of a permission.
    fn denied_action(&self) -> Option<String> {
        let Self::Refused { call, code, message } = self else { return None };
        let denied = ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "HTTP 403"];
        if !denied.contains(&code.as_str()) {
            return None;
        }
        // Most refusals say it themselves, and it may be another service's: iam:PassRole.
        let said = message.split("not authorized to perform: ").nth(1);
        let said = said.and_then(|rest| rest.split_whitespace().next());
        if let Some(action) = said.filter(|action| action.contains(':')) {
            return Some(action.trim_end_matches(['.', ',']).into());
        }
        Some(match *call {
            "GetMetricData" | "ListMetrics" => format!("cloudwatch:{call}"),
            "FilterLogEvents" => format!("logs:{call}"),
            // S3 names its permissions otherwise than its calls.
            "PutObject" => "s3:PutObject".into(),
            // What is not there looks forbidden to those who may not list.
            "GetObject" | "HeadObject" => "s3:GetObject and s3:ListBucket".into(),
            "ListObjectsV2" => "s3:ListBucket".into(),
            "Invoke" => "lambda:InvokeFunction".into(),
            _ => format!("lambda:{call}"),
        })
    }

    /// What to do about it, where there is something.
    pub fn help(&self) -> Option<String> {
        if let Some(action) = self.denied_action() {
            return Some(format!("allow {action} to whoever runs slsml"));
        }
        Some(match self {
            Self::NoRegion => "set AWS_REGION or pass --region, or use --local".into(),
            Self::Unreachable { .. } => {
                "check the network, the region and the credentials (aws sts get-caller-identity)"
                    .into()
            }
            Self::NoFunction { .. } => "deploy it first: slsml deploy lambda --alias live; a service on Cloud Run is named by --service".into(),
            Self::NoAlias { alias, .. } => {
                format!(
                    "create it with a first deployment: slsml deploy lambda --alias {alias} --strategy all-at-once"
                )
            }
            Self::NoRole { .. } => {
                "pass --role ARN or set role under [lambda] in slsml.toml; it must trust \
                 lambda.amazonaws.com and carry AWSLambdaBasicExecutionRole"
                    .into()
            }
            Self::NeedsBucket { .. } => {
                "pass --bucket NAME, a bucket in the function's region".into()
            }
            Self::TooLarge { .. } => "a container on Cloud Run holds larger models".into(),
            Self::Moved { .. } => "look at it with slsml status, then try again".into(),
            _ => return None,
        })
    }
}

impl From<LambdaError> for PortError {
    fn from(error: LambdaError) -> Self {
        match error {
            LambdaError::Moved { .. } => PortError::Moved(error.to_string()),
            other => PortError::Failed(Box::new(other)),
        }
    }
}
