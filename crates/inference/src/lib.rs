//! The Open Inference Protocol (v2) over a packaged model: a request in, an answer out.
//!
//! Everything here is a plain function of its arguments. Who carries the request (Lambda's
//! events, an HTTP server) is none of this crate's business: it holds no socket, no clock and no
//! log. The protocol is specified at <https://github.com/kserve/open-inference-protocol>.
#![forbid(unsafe_code)]

mod answer;
mod error;
mod lift;
mod limits;
pub mod metadata;
mod numbers;
pub mod raw;
mod request;
mod router;

pub use answer::{InferAnswer, RawOutput};
pub use error::ProtocolError;
pub use limits::Limits;
pub use request::{Elements, GivenInput, InferRequest, Wanted};
pub use router::{Answer, Method, Route, Service, failed};
