//! One instance: a container by podman, or a process in the files of its image and nothing else.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::podman::{self, Podman, Wanted};
use super::rootfs::Rootfs;
use super::state::Failure;
use crate::data::{Log, process};

/// How long a container may take to listen; Google gives it four minutes.
const STARTUP: Duration = Duration::from_secs(20);

/// podman's proxy takes a connection before the container does, and closes it then within this time.
const PROXY: Duration = Duration::from_millis(50);

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
    /// podman's name of it.
    container: Option<String>,
    exited: Exited,
}

/// With what code a process ended; unknown if a signal did it.
type Exited = Arc<OnceLock<Option<i32>>>;

/// Why an instance does not start.
enum Cause {
    Spawn(std::io::Error),
    Ended(Option<i32>),
    Silent,
}

impl Launch {
    /// Whether the container is spoken to over HTTP/2.
    fn is_h2c(&self) -> bool {
        self.container["ports"][0]["name"] == "h2c"
    }

    /// The port the container listens on.
    fn inside(&self) -> u16 {
        let port = self.container["ports"][0]["containerPort"].as_u64();
        port.and_then(|port| u16::try_from(port).ok()).unwrap_or(8080)
    }

    /// Starts a container and waits until it listens.
    pub(crate) async fn start(&self, log: Arc<Log>, podman: &Podman) -> Result<Instance, Failure> {
        let by_podman = podman.is_next();
        if by_podman {
            match self.attempt(&log, Some(podman)).await {
                Ok(instance) => {
                    podman.worked();
                    return Ok(instance);
                }
                Err(Cause::Ended(code)) if podman.gives_up(code) => {
                    log.line(b"podman runs no container here: a sandboxed process takes its place");
                }
                // It is not installed.
                Err(Cause::Spawn(_)) if podman.gives_up(None) => {}
                Err(cause) => return Err(self.failure(&cause)),
            }
        }
        self.attempt(&log, None).await.map_err(|cause| {
            if by_podman {
                podman.is_acquitted();
            }
            self.failure(&cause)
        })
    }

    fn failure(&self, cause: &Cause) -> Failure {
        let why = format!(
            "The user-provided container failed to start and listen on the port defined provided by \
             the PORT={} environment variable within the allocated timeout.",
            self.inside()
        );
        let message = match cause {
            Cause::Spawn(error) => error.to_string(),
            Cause::Ended(_) => format!("{why} It ended."),
            Cause::Silent => why,
        };
        Failure {
            reason: "HEALTH_CHECK_CONTAINER_ERROR".into(),
            message: format!(
                "Revision '{}' is not ready and cannot serve traffic. {message}",
                self.revision
            ),
        }
    }

    async fn attempt(&self, log: &Arc<Log>, by: Option<&Podman>) -> Result<Instance, Cause> {
        let port = free_port().map_err(Cause::Spawn)?;
        let (container, mut command) = match by {
            None => (None, self.sandboxed(port).map_err(Cause::Spawn)?),
            Some(podman) => {
                let (name, command) = podman.run(&Wanted {
                    rootfs: &self.rootfs,
                    program: self.program().map_err(Cause::Spawn)?,
                    environment: self.environment(self.inside()),
                    limits: &self.container["resources"]["limits"],
                    inside: self.inside(),
                    outside: port,
                });
                (Some(name), command)
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(Cause::Spawn)?;
        let exited = Exited::default();
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(stream) = child.stdout.take() {
            tokio::spawn(log.clone().follow(stream));
        }
        if let Some(stream) = child.stderr.take() {
            tokio::spawn(log.clone().follow(stream));
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
            container,
            exited,
        };
        let until = Instant::now() + STARTUP;
        loop {
            if let Some(code) = instance.exited.get() {
                return Err(Cause::Ended(*code));
            }
            if listens(port, by.is_some()).await {
                return Ok(instance);
            }
            if Instant::now() > until {
                instance.kill();
                return Err(Cause::Silent);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the container runs.
    fn program(&self) -> std::io::Result<Vec<String>> {
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
        Ok(program)
    }

    fn environment(&self, port: u16) -> Vec<(String, String)> {
        let mut all = self.rootfs.environment.clone();
        for variable in self.container["env"].as_array().into_iter().flatten() {
            let text = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
            all.push((text("name"), text("value")));
        }
        // <https://cloud.google.com/run/docs/container-contract#env-vars>
        let own = [
            ("PORT", port.to_string()),
            ("K_SERVICE", self.service.clone()),
            ("K_CONFIGURATION", self.service.clone()),
            ("K_REVISION", self.revision.clone()),
        ];
        all.extend(own.map(|(name, value)| (name.to_owned(), value)));
        all
    }

    /// A process that sees the image's files alone. It needs root or the kernel's user namespaces.
    fn sandboxed(&self, port: u16) -> std::io::Result<Command> {
        let program = self.program()?;
        let mut all = process::unshare("containers need")?;
        if let (true, Some((user, group))) =
            (rustix::process::geteuid().is_root(), self.rootfs.user)
        {
            all.args(["--setuid", &user.to_string(), "--setgid", &group.to_string()]);
        }
        all.arg("--root").arg(&self.rootfs.folder);
        all.arg("--wd").arg(&self.rootfs.workdir).arg("--").args(program);
        all.env_clear().envs(self.environment(port));
        Ok(all)
    }
}

async fn listens(port: u16, through_a_proxy: bool) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    if !through_a_proxy {
        return true;
    }
    let closed = tokio::time::timeout(PROXY, stream.peek(&mut [0])).await;
    !matches!(closed, Ok(Ok(0) | Err(_)))
}

async fn watch(mut child: Child, exited: Exited) {
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    // However it ended, it did; and nobody else says so.
    let ended = child.wait().await;
    let _ = exited.set(ended.ok().and_then(|status| status.code()));
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
        self.exited.get().is_none()
    }

    fn signal(&self, signal: Signal) {
        if let (Some(pid), true) = (self.pid, self.is_alive()) {
            // It may have ended a moment ago.
            let _ = kill_process_group(pid, signal);
        }
    }

    pub(crate) fn kill(&self) {
        let container = self.container.clone().filter(|_| self.is_alive());
        // Who runs it first, so that it is not started any more.
        self.signal(Signal::KILL);
        if let Some(name) = container {
            podman::end(name);
        }
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
