//! Cold processes on a Runtime API of our own: from exec to ready, to the first answer, and warm.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::process::{Child, Command};

use crate::figures::median_ms;
use crate::runtime_api::{self, Seen};
use crate::{Error, request};

/// How long a process may say nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that serves Lambda events.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Where it runs: the unpacked function.
    pub(crate) folder: PathBuf,
}

/// What one cold process did.
#[derive(Debug)]
pub(crate) struct Start {
    /// From exec to the first question for work.
    pub(crate) ready: Duration,
    /// From exec to the first answer.
    pub(crate) first_answer: Duration,
    /// The median from handing out a request to its answer, after the first.
    pub(crate) warm_ms: f64,
    pub(crate) peak_rss_bytes: u64,
    pub(crate) answer: Bytes,
}

/// Starts the program once and lets it answer `1 + warm` times.
pub(crate) async fn start(program: &Program, event: &Bytes, warm: usize) -> Result<Start, Error> {
    let named = |error: Error| format!("{}: {error}", program.path.display());
    observe(program, event, warm).await.map_err(|error| named(error).into())
}

async fn observe(program: &Program, event: &Bytes, warm: usize) -> Result<Start, Error> {
    let (address, mut seen) = runtime_api::serve(event.clone()).await?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .current_dir(&program.folder)
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769")
        .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
        .env("LAMBDA_TASK_ROOT", &program.folder)
        .envs(program.env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let began = Instant::now();
    let mut child = command.spawn()?;
    let (mut ready, mut first_answer, mut times) = (None, None, Vec::new());
    let (mut asked, mut answer) = (began, Bytes::new());
    while times.len() < warm || first_answer.is_none() {
        let next = tokio::time::timeout(PATIENCE, seen.recv());
        let next = tokio::select! {
            next = next => next.map_err(|_| "it answers no more")?.ok_or("it is gone")?,
            status = child.wait() => return Err(format!("it ended: {}", status?).into()),
        };
        match next {
            Seen::Asked(at) => {
                ready.get_or_insert(at - began);
                asked = at;
            }
            Seen::Answered(at, body) if first_answer.is_none() => {
                first_answer = Some(at - began);
                answer = body;
            }
            Seen::Answered(at, _) => times.push(at - asked),
            Seen::Failed(why) => return Err(why.into()),
        }
    }
    request::outputs(&answer)?;
    let peak_rss_bytes = peak_rss(&child)?;
    child.kill().await?;
    Ok(Start {
        ready: ready.unwrap_or_default(),
        first_answer: first_answer.unwrap_or_default(),
        warm_ms: median_ms(&times),
        peak_rss_bytes,
        answer,
    })
}

/// A program that prints one JSON document and ends.
pub(crate) async fn print<T: serde::de::DeserializeOwned>(
    program: &Path,
    args: &[&str],
) -> Result<T, Error> {
    let output = Command::new(program).args(args).stderr(Stdio::inherit()).output().await?;
    if !output.status.success() {
        return Err(format!("{} {}: {}", program.display(), args.join(" "), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn peak_rss(child: &Child) -> Result<u64, Error> {
    let pid = child.id().ok_or("it ended by itself")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
