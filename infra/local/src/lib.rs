//! A Lambda on this machine.
//!
//! The control plane speaks AWS's own wire protocols, so any AWS client works against it; the data
//! plane runs every version's real `bootstrap` from its real zip over a real Runtime API. It
//! refuses what AWS refuses: a release that works here should not be surprised there.
//!
//! It depends on no other slsml crate. Deliberately absent: credentials checks outside S3, IAM
//! policies, images, VPCs, event sources, the freezing of idle processes, limits on memory and
//! CPU, and a private `/tmp` for each process.
#![forbid(unsafe_code)]

mod cloudrun;
mod data;
mod error;
mod fault;
mod home;
mod iam;
mod ids;
mod images;
mod kept;
mod lambda;
mod logs;
mod metrics;
mod query;
mod s3;
mod server;
mod storage;

pub use fault::{ApiFault, ApiFaultKind, Faults, VersionFault};
pub use home::{Home, HomeError, Running};
pub use server::{Containers, Options, ServeError, serve};

/// The region every resource is in.
pub const REGION: &str = "us-east-1";

/// The account every resource belongs to.
pub const ACCOUNT: &str = "000000000000";

/// The Google Cloud project every service belongs to.
pub const PROJECT: &str = "slsml-local";

/// The access key that signs requests to the object store. It guards nothing: the local cloud
/// listens on loopback only.
pub const ACCESS_KEY: &str = "slsml-local";

/// The secret that goes with [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "slsml-local-secret";

/// The role that exists from the start.
pub const ROLE_ARN: &str = "arn:aws:iam::000000000000:role/slsml-local";
