//! The folder that holds a local cloud's state, and who runs in it.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

const ENDPOINT_FILE: &str = "endpoint.json";

/// How long a lock that is held for a moment, or a start, is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A local cloud's folder.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

/// A local cloud that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Running {
    /// Where AWS clients are pointed.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Why a folder cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum HomeError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("a local cloud runs in {dir} already{}", at.as_ref().map(|at| format!(" (process {}, {})", at.pid, at.endpoint())).unwrap_or_default())]
    Taken { dir: PathBuf, at: Option<Running> },
}

impl Home {
    /// The folder at `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Home {
        Home { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path inside.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// Where a detached local cloud writes what it says.
    pub fn log_file(&self) -> PathBuf {
        self.join("local.log")
    }

    /// Who runs here, if anybody does. The lock tells, not the file: it goes with its process,
    /// however that ends.
    pub fn running(&self) -> Result<Option<Running>, HomeError> {
        let path = self.join("lock");
        match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Io { path, source }),
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(None),
                Err(TryLockError::WouldBlock) => Ok(Some(self.announced()?)),
                Err(TryLockError::Error(source)) => Err(HomeError::Io { path, source }),
            },
        }
    }

    /// Who announced that it runs here; it may still be starting.
    fn announced(&self) -> Result<Running, HomeError> {
        let began = Instant::now();
        loop {
            if let Some(running) = self.endpoint_file() {
                return Ok(running);
            }
            if began.elapsed() > PATIENCE {
                return Err(HomeError::Taken { dir: self.dir.clone(), at: None });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn endpoint_file(&self) -> Option<Running> {
        serde_json::from_slice(&std::fs::read(self.join(ENDPOINT_FILE)).ok()?).ok()
    }

    /// Takes the folder for this process, until the returned file is dropped.
    pub(crate) fn take(&self) -> Result<File, HomeError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::Io { path, source }
        };
        std::fs::create_dir_all(&self.dir).map_err(failed(&self.dir))?;
        let path = self.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&path)
            .map_err(failed(&path))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // Whoever only looks holds the lock for a moment.
                Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(HomeError::Taken {
                        dir: self.dir.clone(),
                        at: self.endpoint_file(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(HomeError::Io { path, source }),
            }
        }
        // What an earlier process announced is not true any more.
        match std::fs::remove_file(self.join(ENDPOINT_FILE)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(HomeError::Io { path: self.join(ENDPOINT_FILE), source })
            }
            _ => Ok(file),
        }
    }

    /// Tells others where this process listens.
    pub(crate) fn announce(&self, running: &Running) -> Result<(), HomeError> {
        let json = serde_json::to_vec(running).unwrap_or_default();
        self.write(ENDPOINT_FILE, &json)
    }

    /// Writes a whole file or nothing.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let path = self.join(name);
        let fresh = self.join(format!("{name}.new"));
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            std::fs::rename(&fresh, &path)
        };
        write().map_err(|source| HomeError::Io { path: path.clone(), source })
    }
}
