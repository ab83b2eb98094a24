//! Containers by podman, where it runs any: an image's files are a container of its own, with the limits of
//! its template, and its port is 8080 as on Cloud Run. Elsewhere they are processes (`instance`).
//!
//! podman's containers outlive whoever started them. So each has the folder of its local cloud as a
//! label, and those of an earlier one are removed before the next begins.

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;
use tokio::process::Command;

use super::rootfs::Rootfs;
use super::validate;
use crate::home::Home;
use crate::ids;
use crate::server::Containers;

/// Whether podman runs containers on this machine.
const UNKNOWN: u8 = 0;
const WORKS: u8 = 1;
const FAILS: u8 = 2;

/// What podman ends with when it is podman, or the runtime below it, that failed.
const OWN_FAILURES: [i32; 3] = [125, 126, 127];

/// A folder's containers.
#[derive(Debug)]
pub(crate) struct Podman {
    wanted: Containers,
    state: AtomicU8,
    label: String,
    /// Says that there were containers.
    mark: PathBuf,
}

/// What a container is started with.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) program: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// The limits of its template.
    pub(crate) limits: &'a Value,
    /// The port it listens on.
    pub(crate) inside: u16,
    /// The port of this machine that leads there.
    pub(crate) outside: u16,
}

impl Podman {
    /// What is known before the first container. Those of an earlier local cloud in this folder are
    /// removed.
    pub(crate) fn open(home: &Home, wanted: Containers) -> Podman {
        let mut hasher = std::hash::DefaultHasher::new();
        home.dir().hash(&mut hasher);
        let podman = Podman {
            wanted,
            state: AtomicU8::new(if wanted == Containers::Process { FAILS } else { UNKNOWN }),
            label: format!("slsml.local={:016x}", hasher.finish()),
            mark: home.join("containers"),
        };
        if podman.mark.exists() && podman.remove_all() {
            // What is not removed is looked for again.
            let _ = std::fs::remove_file(&podman.mark);
        }
        podman
    }

    /// Whether the next container is to be podman's.
    pub(crate) fn is_next(&self) -> bool {
        self.state.load(Ordering::Acquire) != FAILS
    }

    /// A container that ran.
    pub(crate) fn worked(&self) {
        self.state.store(WORKS, Ordering::Release);
    }

    /// Whether podman is given up, after it ended like that without a container.
    pub(crate) fn gives_up(&self, code: Option<i32>) -> bool {
        let gives_up = self.wanted == Containers::Auto
            && self.state.load(Ordering::Acquire) != WORKS
            && code.is_none_or(|code| OWN_FAILURES.contains(&code));
        if gives_up {
            self.state.store(FAILS, Ordering::Release);
        }
        gives_up
    }

    /// A container's name, and the command that runs it in the foreground. A signal to the command is
    /// one to the container.
    pub(crate) fn run(&self, wanted: &Wanted<'_>) -> (String, Command) {
        // Without it the containers would not be found again.
        let _ = std::fs::write(&self.mark, "");
        let name = format!("slsml-{}", ids::short_id(12));
        let mut all = Command::new("podman");
        all.args(["run", "--rm", "--name", &name, "--label", &self.label]);
        all.args(["--log-driver", "none", "--http-proxy=false", "--stop-timeout", "10"]);
        all.args(["--publish", &format!("127.0.0.1:{}:{}", wanted.outside, wanted.inside)]);
        all.args(["--workdir", &wanted.rootfs.workdir]);
        if let Some((user, group)) = wanted.rootfs.user {
            all.args(["--user", &format!("{user}:{group}")]);
        }
        let limit = |name: &str| wanted.limits[name].as_str();
        if let Some(cpus) = limit("cpu").and_then(validate::cpus) {
            all.args(["--cpus", &cpus.to_string()]);
        }
        // Where nothing is said it is what Google takes.
        let memory = limit("memory").and_then(validate::memory).unwrap_or(512 << 20);
        all.args(["--memory", &memory.to_string()]);
        for (name, value) in &wanted.environment {
            all.args(["--env", &format!("{name}={value}")]);
        }
        // What it writes is gone with it.
        all.arg("--rootfs").arg(format!("{}:O", wanted.rootfs.folder.display()));
        all.args(&wanted.program);
        (name, all)
    }

    /// A process that took a container's place did not start either: it was not podman's fault.
    pub(crate) fn is_acquitted(&self) {
        self.state.store(UNKNOWN, Ordering::Release);
    }

    /// Removes all that are there, whoever started them; whether none is left.
    pub(crate) fn remove_all(&self) -> bool {
        if !self.mark.exists() {
            return true;
        }
        let filter = format!("label={}", self.label);
        let found = std::process::Command::new("podman")
            .args(["ps", "--all", "--quiet", "--filter", &filter])
            .stdin(Stdio::null())
            .output();
        let Some(found) = found.ok().filter(|found| found.status.success()) else { return false };
        let found = String::from_utf8_lossy(&found.stdout);
        let names: Vec<&str> = found.split_whitespace().collect();
        names.is_empty() || removal(&names).status().is_ok_and(|status| status.success())
    }
}

fn removal(names: &[&str]) -> std::process::Command {
    let mut all = std::process::Command::new("podman");
    all.args(["rm", "--force", "--time", "0"]).args(names);
    all.stdin(Stdio::null()).stdout(Stdio::null());
    all
}

/// Ends a container at once.
pub(crate) fn end(name: String) {
    std::thread::spawn(move || {
        // It may have ended a moment ago.
        let _ = removal(&[&name]).stderr(Stdio::null()).status();
    });
}
