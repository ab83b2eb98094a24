//! State behind one lock, written to a file of the local cloud's folder after every change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::home::Home;

/// What is kept.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    home: Home,
    file: &'static str,
    state: Mutex<T>,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> Kept<T> {
    /// What the file holds; an empty state if there is none.
    pub(crate) fn open(home: &Home, file: &'static str) -> std::io::Result<Kept<T>> {
        let path = home.join(file);
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                std::io::Error::other(format!("{} cannot be read: {error}", path.display()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => T::default(),
            Err(error) => return Err(error),
        };
        Ok(Kept { home: home.clone(), file, state: Mutex::new(state) })
    }

    /// Reads.
    pub(crate) fn read(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a copy, writes it, and only then lets others see it: a refusal or a full disk leaves
    /// everything as it was. `failed` says in the API's words that it could not be written.
    pub(crate) fn change<A, E>(
        &self,
        edit: impl FnOnce(&mut T) -> Result<A, E>,
        failed: impl Fn(String) -> E,
    ) -> Result<A, E> {
        let mut state = self.read();
        let mut edited = state.clone();
        let answer = edit(&mut edited)?;
        let json = serde_json::to_vec(&edited).map_err(|error| failed(error.to_string()))?;
        self.home.write(self.file, &json).map_err(|error| failed(error.to_string()))?;
        *state = edited;
        Ok(answer)
    }
}
