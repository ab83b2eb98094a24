//! Refusals as Google writes them. <https://cloud.google.com/apis/design/errors>

use std::fmt::Display;

use axum::body::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

/// What Google would answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoogleError {
    pub(crate) http: u16,
    pub(crate) status: &'static str,
    pub(crate) message: String,
}

pub(crate) type GoogleResult<T> = Result<T, GoogleError>;

macro_rules! refusals {
    ($($name:ident, $http:literal, $status:literal;)*) => {$(
        pub(crate) fn $name(message: impl Display) -> Self {
            Self { http: $http, status: $status, message: message.to_string() }
        }
    )*};
}

impl GoogleError {
    refusals! {
        invalid, 400, "INVALID_ARGUMENT";
        failed_precondition, 400, "FAILED_PRECONDITION";
        denied, 403, "PERMISSION_DENIED";
        not_found, 404, "NOT_FOUND";
        aborted, 409, "ABORTED";
        exists, 409, "ALREADY_EXISTS";
        internal, 500, "INTERNAL";
        not_offered, 501, "UNIMPLEMENTED";
    }

    pub(crate) fn response(&self) -> Response<Bytes> {
        let error = json!({ "code": self.http, "message": self.message, "status": self.status });
        answer(self.http, &json!({ "error": error }))
    }
}

/// A fault on purpose: a refusal with this status.
pub(crate) fn fault(status: u16) -> Response<Bytes> {
    let error = match status {
        429 => GoogleError {
            http: 429,
            status: "RESOURCE_EXHAUSTED",
            message: "Quota exceeded, by a fault on purpose".into(),
        },
        403 => GoogleError::denied("Permission denied, by a fault on purpose"),
        _ => GoogleError::internal("a fault on purpose"),
    };
    error.response()
}

/// JSON with a status.
pub(crate) fn answer(status: u16, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json; charset=UTF-8");
    response.headers_mut().insert("content-type", json);
    response
}
