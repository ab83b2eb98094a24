//! Google Cloud Run's control plane for slsml: images that go to a registry, a service that is as it
//! should be, revisions, how traffic is divided, and the counts a release is judged by.
//!
//! Deliberately absent: which strategy a release follows (`slsml-release`), how an image is made
//! (`slsml-package`), and anything that prints.
#![forbid(unsafe_code)]

mod access;
mod api;
mod cleanup;
mod credentials;
mod error;
mod layout;
mod logs;
mod metrics;
mod push;
mod scope;
mod service;
mod status;
mod store;
mod target;
mod template;
mod traffic;

pub use api::{Connect, Google};
pub use credentials::{Credentials, credentials};
pub use error::CloudRunError;
pub use layout::{Layout, can_be_tag};
pub use logs::{ANSWERS, count_answers, counts_answers};
pub use metrics::RevisionMetrics;
pub use push::{Fate, Push, Pushed, PushedBlob, Repository, push};
pub use service::{Change, Egress, Ensured, Ingress, Progress, ServiceSpec, Vpc, changes, ensure};
pub use status::{RevisionStatus, ServiceStatus, TargetStatus, status};
pub use store::ObjectStore;
pub use target::{Addresses, Invoked, ServiceTarget};
pub use template::check_resources;
