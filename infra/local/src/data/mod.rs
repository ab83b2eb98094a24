//! The data plane: real `bootstrap` processes behind a real Runtime API.

pub(crate) mod fleet;
pub(crate) mod invoke;
mod log;
pub(crate) mod process;
mod runtime_api;
mod sandbox;
pub(crate) mod url;

pub(crate) use fleet::Fleet;
pub(crate) use log::Log;
