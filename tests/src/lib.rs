//! What the end-to-end tests, the demo and the benchmark share: the built `slsml`, a local Lambda
//! of their own, the example's requests, and traffic whose every answer is checked.
#![forbid(unsafe_code)]

pub mod chaos;
pub mod digits;
pub mod slsml;
pub mod traffic;

/// What helpers here fail with; it is only ever shown.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
