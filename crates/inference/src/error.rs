//! Refusals and failures, each with the HTTP status it is answered with.

use serde_json::json;
use thiserror::Error;

/// The most characters of a message.
const LONGEST: usize = 500;

/// Why a request is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The request is at fault: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The path names something that does not exist: 404.
    #[error("{0}")]
    NotFound(String),
    /// The path exists, the method does not fit: 405.
    #[error("{path} takes {takes}")]
    MethodNotAllowed {
        /// The path.
        path: String,
        /// The method that fits.
        takes: &'static str,
    },
    /// The request does not arrive in time: 408.
    #[error("{0}")]
    TooSlow(String),
    /// The body is larger than the limit: 413.
    #[error("{0}")]
    TooLarge(String),
    /// The model failed on a request that fits its signature: 500.
    #[error("{0}")]
    Failed(String),
}

impl ProtocolError {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::NotFound(_) => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::TooSlow(_) => 408,
            Self::TooLarge(_) => 413,
            Self::Failed(_) => 500,
        }
    }

    /// The message, cut where it would only echo a large request back.
    pub fn message(&self) -> String {
        let whole = self.to_string();
        match whole.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &whole[..end]),
            None => whole,
        }
    }

    /// The protocol's error body: `{"error": "…"}`.
    pub fn body(&self) -> Vec<u8> {
        json!({ "error": self.message() }).to_string().into_bytes()
    }
}
