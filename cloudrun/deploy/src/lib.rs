//! Google Cloud Run's control plane for slsml: images that go to a registry.
//!
//! Deliberately absent: how an image is made (`slsml-package`), and anything that prints.
#![forbid(unsafe_code)]

mod credentials;
mod error;
mod layout;
mod push;

pub use credentials::{Credentials, credentials};
pub use error::CloudRunError;
pub use layout::Layout;
pub use push::{Fate, Push, Pushed, PushedBlob, Repository, push};
