//! One instance: a container's process in the files of its image and nothing else.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Child;

use super::rootfs::Rootfs;
use super::state::Failure;
use crate::data::{Log, process};

/// How long a container may take to listen; Google gives it four minutes.
const STARTUP: Duration = Duration::from_secs(20);

/// How long one that is told to stop has.
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) type Body = UnsyncBoxBody<axum::body::Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) rootfs: Rootfs,
    /// The container of the revision's template.
    pub(crate) container: Value,
    pub(crate) service: String,
    pub(crate) revision: String,
}

/// A container that listens.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) port: u16,
    pub(crate) client: Client<HttpConnector, Body>,
    pub(crate) in_flight: AtomicU32,
    /// When it last had a request.
    pub(crate) used: std::sync::Mutex<Instant>,
    pid: Option<Pid>,
    exited: Arc<AtomicBool>,
}

impl Launch {
    /// Whether the container is spoken to over HTTP/2.
    fn is_h2c(&self) -> bool {
        self.container["ports"][0]["name"] == "h2c"
    }

    /// Starts a container and waits until it listens.
    pub(crate) async fn start(&self, log: Arc<Log>) -> Result<Instance, Failure> {
        let failed = |message: String| Failure {
            reason: "HEALTH_CHECK_CONTAINER_ERROR".into(),
            message: format!(
                "Revision '{}' is not ready and cannot serve traffic. {message}",
                self.revision
            ),
        };
        let port = free_port().map_err(|error| failed(error.to_string()))?;
        let mut child = self.spawn(port).map_err(|error| failed(error.to_string()))?;
        let exited = Arc::new(AtomicBool::new(false));
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(stream) = child.stdout.take() {
            tokio::spawn(log.clone().follow(stream));
        }
        if let Some(stream) = child.stderr.take() {
            tokio::spawn(log.follow(stream));
        }
        tokio::spawn(watch(child, exited.clone()));
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new()).http2_only(self.is_h2c());
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let instance = Instance {
            port,
            client: client.build(connector),
            in_flight: AtomicU32::new(0),
            used: std::sync::Mutex::new(Instant::now()),
            pid,
            exited,
        };
        let asked = self.container["ports"][0]["containerPort"].as_u64().unwrap_or(8080);
        let why = format!(
            "The user-provided container failed to start and listen on the port defined provided by \
             the PORT={asked} environment variable within the allocated timeout."
        );
        let until = Instant::now() + STARTUP;
        loop {
            if !instance.is_alive() {
                return Err(failed(format!("{why} It ended.")));
            }
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(instance);
            }
            if Instant::now() > until {
                instance.kill();
                return Err(failed(why));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A process that sees the image's files alone. It needs root or the kernel's user namespaces.
    fn spawn(&self, port: u16) -> std::io::Result<Child> {
        let texts = |value: &Value| -> Vec<String> {
            let all = value.as_array().into_iter().flatten();
            all.filter_map(|text| Some(text.as_str()?.to_owned())).collect()
        };
        let (command, args) = (texts(&self.container["command"]), texts(&self.container["args"]));
        let program = match (command.is_empty(), args.is_empty()) {
            (true, true) => self.rootfs.entrypoint.clone(),
            (true, false) => {
                let first = self.rootfs.entrypoint.first().cloned();
                first.into_iter().chain(args).collect()
            }
            (false, _) => [command, args].concat(),
        };
        if program.is_empty() {
            return Err(std::io::Error::other("the image names no program to start"));
        }
        let mut all = process::unshare("containers need")?;
        if let (true, Some((user, group))) =
            (rustix::process::geteuid().is_root(), self.rootfs.user)
        {
            all.args(["--setuid", &user.to_string(), "--setgid", &group.to_string()]);
        }
        all.arg("--root").arg(&self.rootfs.folder);
        all.arg("--wd").arg(&self.rootfs.workdir).arg("--").args(program);
        all.env_clear().envs(self.rootfs.environment.iter().cloned());
        for variable in self.container["env"].as_array().into_iter().flatten() {
            let text = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
            all.env(text("name"), text("value"));
        }
        // <https://cloud.google.com/run/docs/container-contract#env-vars>
        all.env("PORT", port.to_string())
            .env("K_SERVICE", &self.service)
            .env("K_CONFIGURATION", &self.service)
            .env("K_REVISION", &self.revision)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        all.spawn()
    }
}

async fn watch(mut child: Child, exited: Arc<AtomicBool>) {
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    // However it ended, it did.
    let _ = child.wait().await;
    exited.store(true, Ordering::Release);
    if let Some(group) = group {
        // What it started ends with it; usually there is nothing.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Instance {
    pub(crate) fn is_alive(&self) -> bool {
        !self.exited.load(Ordering::Acquire)
    }

    fn signal(&self, signal: Signal) {
        if let (Some(pid), true) = (self.pid, self.is_alive()) {
            // It may have ended a moment ago.
            let _ = kill_process_group(pid, signal);
        }
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Tells it to stop, and ends it when its time is over.
    pub(crate) fn stop(self: Arc<Instance>) {
        self.signal(Signal::TERM);
        tokio::spawn(async move {
            tokio::time::sleep(DRAIN).await;
            self.kill();
        });
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}
