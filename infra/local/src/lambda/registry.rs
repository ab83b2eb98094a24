//! The resources behind one lock, written to disk after every change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{AwsError, AwsResult};
use crate::home::Home;
use crate::lambda::code::CodeStore;
use crate::lambda::state::{Function, State};

const STATE_FILE: &str = "state.json";

/// Lambda's resources.
#[derive(Debug)]
pub(crate) struct Registry {
    home: Home,
    pub(crate) code: CodeStore,
    /// How many invocations may run at once in the account.
    pub(crate) account_concurrency: u32,
    state: Mutex<State>,
}

impl Registry {
    /// What the folder holds; an empty one if it is new.
    pub(crate) fn open(home: &Home, account_concurrency: u32) -> std::io::Result<Registry> {
        let path = home.join(STATE_FILE);
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                std::io::Error::other(format!("{} cannot be read: {error}", path.display()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        let code = CodeStore::open(home)?;
        Ok(Registry { home: home.clone(), code, account_concurrency, state: Mutex::new(state) })
    }

    /// Reads.
    pub(crate) fn read(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a copy, writes it, and only then lets others see it: a refusal or a full disk
    /// leaves everything as it was.
    pub(crate) fn change<T>(&self, edit: impl FnOnce(&mut State) -> AwsResult<T>) -> AwsResult<T> {
        let mut state = self.read();
        let mut edited = state.clone();
        let answer = edit(&mut edited)?;
        let json = serde_json::to_vec(&edited).map_err(AwsError::internal)?;
        self.home.write(STATE_FILE, &json).map_err(AwsError::internal)?;
        *state = edited;
        Ok(answer)
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
