//! Lambda's control plane: the resources ([`state`]), the rules each call keeps, and their form on
//! the wire.

pub(crate) mod aliases;
pub(crate) mod code;
pub(crate) mod concurrency;
pub(crate) mod functions;
pub(crate) mod layers;
pub(crate) mod names;
pub(crate) mod page;
pub(crate) mod registry;
pub(crate) mod routes;
pub(crate) mod state;
pub(crate) mod urls;
pub(crate) mod versions;
