//! Refusals with AWS's status, code and message.

use std::fmt::Display;

/// What AWS would answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AwsError {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// `TooManyRequestsException` carries a reason.
    pub(crate) reason: Option<&'static str>,
}

macro_rules! refusals {
    ($($name:ident, $status:literal, $code:literal;)*) => {$(
        pub(crate) fn $name(message: impl Display) -> Self {
            Self { status: $status, code: $code, message: message.to_string(), reason: None }
        }
    )*};
}

impl AwsError {
    refusals! {
        invalid, 400, "InvalidParameterValueException";
        validation, 400, "ValidationException";
        malformed, 400, "InvalidRequestContentException";
        not_found, 404, "ResourceNotFoundException";
        conflict, 409, "ResourceConflictException";
        precondition, 412, "PreconditionFailedException";
        too_large, 413, "RequestEntityTooLargeException";
        payload_too_large, 413, "RequestTooLargeException";
        internal, 500, "ServiceException";
        no_such_entity, 404, "NoSuchEntity";
        already_exists, 409, "EntityAlreadyExists";
    }

    pub(crate) fn throttled(reason: &'static str) -> Self {
        let (status, code) = (429, "TooManyRequestsException");
        Self { status, code, message: "Rate Exceeded.".into(), reason: Some(reason) }
    }

    pub(crate) fn not_offered(what: impl Display) -> Self {
        let message = format!("slsml local does not offer {what}");
        Self { status: 501, code: "NotImplementedException", message, reason: None }
    }
}

pub(crate) type AwsResult<T> = Result<T, AwsError>;
