//! Cold processes: from exec to ready, to the first answer, and how fast they are then.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::runtime_api::{self, Seen};
use crate::{Error, Spread};

/// Warm requests in each process.
const WARM: usize = 50;

pub(crate) struct Start {
    pub(crate) ready_ms: Spread,
    pub(crate) first_answer_ms: Spread,
    pub(crate) warm_ms: Spread,
    pub(crate) peak_rss_bytes: u64,
}

pub(crate) async fn measure(task: &Path, request: &[u8], runs: usize) -> Result<Start, Error> {
    let request = Bytes::from(request.to_vec());
    let (mut ready, mut first, mut warm, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..runs.max(1) {
        let (address, mut seen) = runtime_api::serve(request.clone()).await?;
        let began = Instant::now();
        let mut child = Command::new(task.join("bootstrap"))
            .current_dir(task)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769")
            .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
            .env("LAMBDA_TASK_ROOT", task)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut asked = began;
        let mut answers = 0;
        while answers <= WARM {
            let next = tokio::time::timeout(Duration::from_secs(60), seen.recv()).await;
            match next.map_err(|_| "the process answers no more")?.ok_or("the process is gone")? {
                Seen::Asked(at) if answers == 0 => {
                    ready.push(at - began);
                    asked = at;
                }
                Seen::Asked(at) => asked = at,
                Seen::Answered(at, body) => {
                    check(&body)?;
                    if answers == 0 {
                        first.push(at - began)
                    } else {
                        warm.push(at - asked)
                    }
                    answers += 1;
                }
                Seen::Failed(why) => return Err(format!("the process failed: {why}").into()),
            }
        }
        peak = peak.max(peak_rss(&child)?);
        child.kill().await?;
    }
    Ok(Start {
        ready_ms: Spread::of(ready),
        first_answer_ms: Spread::of(first),
        warm_ms: Spread::of(warm),
        peak_rss_bytes: peak,
    })
}

/// A fast wrong answer is worth nothing.
fn check(body: &[u8]) -> Result<(), Error> {
    let answer: Value = serde_json::from_slice(body)?;
    match answer["outputs"].as_array() {
        Some(outputs) if !outputs.is_empty() => Ok(()),
        _ => Err(format!("no infer answer: {answer}").into()),
    }
}

fn peak_rss(child: &Child) -> Result<u64, Error> {
    let pid = child.id().ok_or("the process ended by itself")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
