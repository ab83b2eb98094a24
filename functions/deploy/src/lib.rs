//! AWS Lambda's control plane for slsml: a function that is as it should be, published versions,
//! an alias that divides traffic, and the counts a release is judged by.
//!
//! Deliberately absent: which strategy a release follows (`slsml-release`), what is in the zip
//! (`slsml-package`), and anything that prints.
#![forbid(unsafe_code)]

mod alias;
mod cleanup;
mod connect;
mod error;
mod function;
mod invoke;
mod logs;
mod metrics;
mod status;
mod store;
mod upload;

pub use alias::AliasTarget;
pub use connect::{Clients, Connect};
pub use error::LambdaError;
pub use function::{Change, Ensured, FunctionSpec, Progress, changes, ensure};
pub use invoke::{Invoked, invoke};
pub use metrics::VersionMetrics;
pub use status::{AliasStatus, FunctionStatus, VersionStatus, status};
pub use store::BucketStore;
