//! One process: started, given one request at a time, ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use rustix::process::{Pid, Signal as Kill, kill_process_group};
use serde_json::json;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::log::Log;
use super::process::{self, Launch};
use super::runtime_api::{self, Signal, Work};
use crate::ids;

/// How long a process that answered may take to ask for the next request before it is given back
/// all the same.
const ASKS_AGAIN: Duration = Duration::from_millis(200);

/// A process that asked for its first request.
#[derive(Debug)]
pub(crate) struct Sandbox {
    work: mpsc::Sender<Work>,
    signals: mpsc::UnboundedReceiver<Signal>,
    pub(crate) log: Arc<Log>,
    api: JoinHandle<()>,
    pid: Option<Pid>,
    exited: Arc<AtomicBool>,
    /// How long it took to initialise, until the first request tells it.
    init: Option<Duration>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The process answered.
    Answered(Bytes),
    /// The process reported an error and lives.
    Failed(Bytes),
    /// The process is gone: it ended or took too long.
    Died(Bytes),
}

fn error(kind: &str, message: &str) -> Bytes {
    json!({ "errorType": kind, "errorMessage": message }).to_string().into()
}

fn exit_error(request_id: &str, status: &str) -> Bytes {
    let message = format!("RequestId: {request_id} Error: Runtime exited {status}");
    error("Runtime.ExitError", &message)
}

fn timeout_error(request_id: &str, limit: Duration) -> Bytes {
    let seconds = limit.as_secs_f64();
    let message =
        format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds");
    error("Sandbox.Timedout", &message)
}

impl Sandbox {
    /// Starts a process and waits until it asks for its first request. The error is JSON for the
    /// caller of the function.
    pub(crate) async fn start(
        launch: &Launch,
        log: Arc<Log>,
        limit: Duration,
        request_id: &str,
    ) -> Result<Sandbox, Bytes> {
        let started = Instant::now();
        let invalid = |cause: std::io::Error| {
            let message = format!("RequestId: {request_id} Error: Couldn't start {cause}");
            log.line(message.as_bytes());
            error("Runtime.InvalidEntrypoint", &message)
        };
        let (work, work_rx) = mpsc::channel(1);
        let (signals_tx, signals) = mpsc::unbounded_channel();
        let (address, api) =
            runtime_api::serve(work_rx, signals_tx.clone()).await.map_err(invalid)?;
        let exited = Arc::new(AtomicBool::new(false));
        let mut sandbox =
            Sandbox { work, signals, log: log.clone(), api, pid: None, exited, init: None };
        let child = process::spawn(launch, address).map_err(invalid)?;
        sandbox.pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        tokio::spawn(watch(child, log.clone(), sandbox.exited.clone(), signals_tx));
        let outcome = tokio::time::timeout(limit, sandbox.first_signal()).await;
        match outcome {
            Ok(Signal::Ready) => {
                sandbox.init = Some(started.elapsed());
                Ok(sandbox)
            }
            Ok(Signal::InitError(payload)) => Err(payload),
            Ok(Signal::Exited(status)) => Err(exit_error(request_id, &status)),
            Ok(Signal::Answer { .. } | Signal::Error { .. }) => {
                Err(exit_error(request_id, "after an answer that nobody asked for"))
            }
            Err(_) => Err(timeout_error(request_id, limit)),
        }
    }

    async fn first_signal(&mut self) -> Signal {
        self.signals.recv().await.unwrap_or_else(|| Signal::Exited("without a word".into()))
    }

    /// Whether the process still lives.
    pub(crate) fn is_alive(&self) -> bool {
        !self.exited.load(Ordering::Acquire)
    }

    /// Takes the time of initialisation, once.
    pub(crate) fn take_init(&mut self) -> Option<Duration> {
        self.init.take()
    }

    /// The most memory the process had, in MB; 0 if it is gone.
    pub(crate) fn peak_memory_mb(&self) -> u64 {
        let Some(pid) = self.pid else { return 0 };
        let path = format!("/proc/{}/status", pid.as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0).div_ceil(1024)
    }

    /// Gives the process one request and waits for its end.
    pub(crate) async fn run(&mut self, work: Work, limit: Duration) -> Ended {
        let request_id = work.request_id.clone();
        while let Ok(signal) = self.signals.try_recv() {
            if let Signal::Exited(status) = signal {
                return Ended::Died(exit_error(&request_id, &status));
            }
        }
        let deadline = tokio::time::Instant::now() + limit;
        if self.work.send(work).await.is_err() {
            return Ended::Died(exit_error(&request_id, "before the request"));
        }
        loop {
            let signal = match tokio::time::timeout_at(deadline, self.signals.recv()).await {
                Ok(signal) => signal.unwrap_or_else(|| Signal::Exited("without a word".into())),
                Err(_) => {
                    self.kill();
                    return Ended::Died(timeout_error(&request_id, limit));
                }
            };
            match signal {
                Signal::Answer { request_id: id, payload } if id == request_id => {
                    self.asks_again().await;
                    return Ended::Answered(payload);
                }
                Signal::Error { request_id: id, payload } if id == request_id => {
                    self.asks_again().await;
                    return Ended::Failed(payload);
                }
                Signal::Exited(status) => return Ended::Died(exit_error(&request_id, &status)),
                // A late word about an earlier request.
                Signal::Ready
                | Signal::InitError(_)
                | Signal::Answer { .. }
                | Signal::Error { .. } => {}
            }
        }
    }

    /// A process is free when it asks for more; until then its log may still grow.
    async fn asks_again(&mut self) {
        let ready = async {
            while let Some(signal) = self.signals.recv().await {
                if matches!(signal, Signal::Ready | Signal::Exited(_)) {
                    return;
                }
            }
        };
        // A process that does not ask again keeps its next request waiting, no more.
        let _ = tokio::time::timeout(ASKS_AGAIN, ready).await;
    }

    fn kill(&self) {
        if let (Some(pid), true) = (self.pid, self.is_alive()) {
            // It may have ended a moment ago.
            let _ = kill_process_group(pid, Kill::KILL);
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
        self.api.abort();
    }
}

/// Follows a process to its end.
async fn watch(
    mut child: Child,
    log: Arc<Log>,
    exited: Arc<AtomicBool>,
    signals: mpsc::UnboundedSender<Signal>,
) {
    let out = child.stdout.take().map(|stream| tokio::spawn(log.clone().follow(stream)));
    let err = child.stderr.take().map(|stream| tokio::spawn(log.follow(stream)));
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let status = child.wait().await;
    exited.store(true, Ordering::Release);
    if let Some(group) = group {
        // What it started ends with it; usually there is nothing.
        let _ = kill_process_group(group, Kill::KILL);
    }
    // What it said last belongs before its end; a child of its own may keep the pipe open.
    for reader in [out, err].into_iter().flatten() {
        let _ = tokio::time::timeout(Duration::from_millis(200), reader).await;
    }
    let text = match status {
        Ok(status) => match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status))
        {
            (Some(0), _) => "without providing a reason".to_owned(),
            (Some(code), _) => format!("with error: exit status {code}"),
            (None, Some(signal)) => format!("with error: signal: {signal}"),
            (None, None) => "with error".to_owned(),
        },
        Err(error) => format!("with error: {error}"),
    };
    let _ = signals.send(Signal::Exited(text));
}

/// The lines Lambda itself writes about a request.
pub(crate) fn report(
    request_id: &str,
    took: Duration,
    memory_mb: u32,
    peak_mb: u64,
    init: Option<Duration>,
) -> String {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let mut line = format!(
        "REPORT RequestId: {request_id}\tDuration: {:.2} ms\tBilled Duration: {} ms\tMemory Size: \
         {memory_mb} MB\tMax Memory Used: {peak_mb} MB\t",
        millis(took),
        millis(took).ceil() as u64,
    );
    if let Some(init) = init {
        line.push_str(&format!("Init Duration: {:.2} ms\t", millis(init)));
    }
    line
}

/// The deadline of a request that may take `limit`, in milliseconds since the Unix epoch.
pub(crate) fn deadline(limit: Duration) -> u64 {
    ids::now_millis() + limit.as_millis() as u64
}
