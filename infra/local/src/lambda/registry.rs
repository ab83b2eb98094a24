//! The resources behind one lock, written to disk after every change.

use std::sync::MutexGuard;

use crate::error::{AwsError, AwsResult};
use crate::home::Home;
use crate::kept::Kept;
use crate::lambda::code::CodeStore;
use crate::lambda::state::{Function, State};

/// Lambda's resources.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) code: CodeStore,
    /// How many invocations may run at once in the account.
    pub(crate) account_concurrency: u32,
    state: Kept<State>,
}

impl Registry {
    /// What the folder holds; an empty one if it is new.
    pub(crate) fn open(home: &Home, account_concurrency: u32) -> std::io::Result<Registry> {
        let (state, code) = (Kept::open(home, "state.json")?, CodeStore::open(home)?);
        Ok(Registry { code, account_concurrency, state })
    }

    /// Reads.
    pub(crate) fn read(&self) -> MutexGuard<'_, State> {
        self.state.read()
    }

    /// Changes everything or nothing.
    pub(crate) fn change<T>(&self, edit: impl FnOnce(&mut State) -> AwsResult<T>) -> AwsResult<T> {
        self.state.change(edit, AwsError::internal)
    }
}

impl State {
    pub(crate) fn function(&self, name: &str) -> AwsResult<&Function> {
        self.functions.get(name).ok_or_else(|| unknown_function(name))
    }

    pub(crate) fn function_mut(&mut self, name: &str) -> AwsResult<&mut Function> {
        self.functions.get_mut(name).ok_or_else(|| unknown_function(name))
    }
}

fn unknown_function(name: &str) -> AwsError {
    let arn = super::names::function_arn(name, None);
    AwsError::not_found(format!("Function not found: {arn}"))
}
