//! CloudWatch metrics: what invocations and functions count, kept by the second.

pub(crate) mod api;
mod cbor;
mod embedded;
mod statistic;
mod store;

pub(crate) use store::{Key, Metrics};
