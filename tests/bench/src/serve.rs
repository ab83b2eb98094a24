//! `slsml-bench serve`: the container's server beside FastAPI with onnxruntime, and beside a bare
//! run of the model.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::{Value, json};
use slsml_import::{DimOverride, ShapeOverride};
use slsml_model::Model;
use slsml_package::{Arch, ImageParts, make_image};

use crate::client::{Ask, Client, Loaded, load};
use crate::coldstart::{root, target};
use crate::figures::{Series, Spread};
use crate::peers::{self, Peers};
use crate::{Error, packaging, request};

/// How many connections load is tried with.
const CONNECTIONS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// In how many pieces a load comes, each server's in turn.
const ROUNDS: u32 = 3;

/// A run this quick is made longer for an overload, to so much, and how many rows it may have for that.
const QUICK: Duration = Duration::from_millis(2);
const WHILE: Duration = Duration::from_millis(10);
const MOST_ROWS: usize = 1 << 16;

/// By how much more requests come than can be answered.
const OVERLOAD: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The ONNX file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// An input's shape, as in `slsml package`; repeat it for several
    #[arg(long, value_name = "NAME=1x3x224x224")]
    shape: Vec<ShapeOverride>,
    /// A named dimension's length, as in `slsml package`
    #[arg(long, value_name = "NAME=1")]
    dim: Vec<DimOverride>,
    /// Starts of each server
    #[arg(long, default_value_t = 7)]
    runs: u16,
    /// Seconds of each load
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Seconds of the overload
    #[arg(long, default_value_t = 60)]
    overload_seconds: u64,
    /// Connections of the overload: each waits for its answer, so that few cannot offer all of it
    #[arg(long, default_value_t = 128)]
    overload_connections: usize,
    /// The folder with slsml and slsml-server [default: built as they ship, by `make ship`]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    start_vs_fastapi: f64,
    start_ms: Spread,
    start_ms_fastapi: Spread,
    throughput_vs_fastapi: f64,
    per_second: f64,
    per_second_fastapi: f64,
    p99_ms: f64,
    p99_ms_fastapi: f64,
    bare_run_ms: f64,
    overhead_ms: Overhead,
    /// Resident memory after the first answer, beyond the packaged model.
    rest_rss_bytes: i64,
    image_bytes_without_model: u64,
    /// The image alone, in memory and onto disk.
    build_s: f64,
    overload: Overload,
}

#[derive(Debug, Serialize)]
struct Overhead {
    json: f64,
    binary: f64,
    grpc: f64,
}

#[derive(Debug, Serialize)]
struct Overload {
    /// What is answered without it.
    capacity_per_second: f64,
    offered_per_second: f64,
    accepted: usize,
    rss_growth: i64,
    p99_ratio: f64,
    refused_503: u64,
    other_errors: u64,
}

pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let (root, target) = (root()?, target()?);
    let programs = match &args.programs {
        Some(programs) => programs.clone(),
        None => {
            let mut make = Command::new("make");
            peers::run(make.args(["--no-print-directory", "ship"]).current_dir(&root))?;
            target.join("ship")
        }
    };
    let peers = Peers::set_up(&root.join("tests/bench/peers"), &target.join("bench"))?;
    let report = measure(&args, &programs, &peers).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

async fn measure(args: &Args, programs: &Path, peers: &Peers) -> Result<Report, Error> {
    let scratch = tempfile::tempdir()?;
    let folder = package(args, programs, scratch.path())?;
    let packaged = folder.join("model.slsml");
    let server = Server {
        program: programs.join("slsml-server"),
        args: vec![],
        env: vec![("SLSML_MODEL_DIR", folder.display().to_string())],
        folder: folder.clone(),
    };
    let fastapi = Server {
        program: peers.python(),
        args: vec![peers.script("fastapi_server.py").display().to_string()],
        env: vec![
            ("MODEL_PATH", args.model.canonicalize()?.display().to_string()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("PATH", "/usr/bin:/bin".into()),
        ],
        folder: peers.script(""),
    };
    let model = Model::load_to_serve(&packaged)?;
    let body = request::generate(model.signature())?;
    let asks = Asks::of(&body)?;

    eprintln!("starting each {} times", args.runs);
    let (mut start, mut start_fastapi) = (Series::default(), Series::default());
    for _ in 0..args.runs {
        start.push(server.first_answer(&asks.json).await?);
        start_fastapi.push(fastapi.first_answer(&asks.json).await?);
    }

    eprintln!("what a request costs beside the run");
    let (bare_run_ms, overhead_ms, rest) = overhead(&server, &model, &body, &asks).await?;
    let rest_rss_bytes = rest - i64::try_from(std::fs::metadata(&packaged)?.len())?;
    let slow = slow(&model)?;
    drop(model);

    eprintln!("how much each answers");
    let lasts = Duration::from_secs(args.seconds);
    let two = Server {
        env: [fastapi.env.clone(), vec![("WORKERS", "2".into())]].concat(),
        ..fastapi.clone()
    };
    let [ours, theirs] = throughput([&server, &two], &asks.json, lasts).await?;

    eprintln!("ten times as much as it can answer, for {} s", args.overload_seconds);
    let overload = overload(&server, &slow, args).await?;
    let (image_bytes_without_model, build_s) = image(programs, &packaged, scratch.path())?;
    Ok(Report {
        model: args.model.display().to_string(),
        start_vs_fastapi: start.over(&start_fastapi).spread().median,
        start_ms: start.spread(),
        start_ms_fastapi: start_fastapi.spread(),
        throughput_vs_fastapi: ours.per_second() / theirs.per_second(),
        per_second: ours.per_second(),
        per_second_fastapi: theirs.per_second(),
        p99_ms: ours.p99_ms(),
        p99_ms_fastapi: theirs.p99_ms(),
        bare_run_ms,
        overhead_ms,
        rest_rss_bytes,
        image_bytes_without_model,
        build_s,
        overload,
    })
}

/// A request whose run takes a while, where the model's first dimension is free: a client cannot send ten times
/// as many quick ones as a server answers on the same machine. Nor as many as are large, so one of many rows is
/// compressed.
fn slow(model: &Model) -> Result<Ask, Error> {
    let (mut rows, mut least) = (1, QUICK);
    loop {
        let body = request::generate_rows(model.signature(), rows)?;
        let inputs = request::tensors(&body)?.into_iter().map(|(_, tensor)| tensor).collect();
        let began = Instant::now();
        model.run(inputs)?;
        let is_free = body != request::generate_rows(model.signature(), rows + 1)?;
        if began.elapsed() >= least || !is_free || rows >= MOST_ROWS {
            let ask = Asks::of(&body)?.binary;
            return if rows == 1 { Ok(ask) } else { ask.compressed() };
        }
        (rows, least) = (2 * rows, WHILE);
    }
}

/// The packaged model's folder, as it is in the image.
fn package(args: &Args, programs: &Path, scratch: &Path) -> Result<PathBuf, Error> {
    let mut package = Command::new(programs.join("slsml"));
    package.args(["package", "--emit", "dockerfile", "--name", "m", "--out"]);
    package.arg(scratch).arg(&args.model);
    package.args(packaging::flags(&args.shape, &args.dim));
    peers::run(&mut package)?;
    Ok(scratch.join("m/docker/model"))
}

/// The same request in every form.
struct Asks {
    json: Ask,
    binary: Ask,
    grpc: Ask,
}

impl Asks {
    fn of(body: &[u8]) -> Result<Asks, Error> {
        let path = "/v2/models/m/infer";
        let kind = |name: &str| ("content-type", name.to_owned());
        let json = Ask::new(path, vec![kind("application/json")], body.to_vec().into(), false);
        let (mut head, mut bytes): (Value, _) = (serde_json::from_slice(body)?, Vec::new());
        let mut message = Vec::new();
        field(1, b"m", &mut message);
        let inputs = request::tensors(body)?;
        for ((name, tensor), input) in
            inputs.iter().zip(head["inputs"].as_array_mut().ok_or("no inputs")?)
        {
            let before = bytes.len();
            slsml_inference::raw::write(tensor.data(), &mut bytes);
            let raw = &bytes[before..];
            if let Some(input) = input.as_object_mut() {
                input.remove("data");
                input.insert("parameters".into(), json!({ "binary_data_size": raw.len() }));
            }
            let mut wire = Vec::new();
            field(1, name.as_bytes(), &mut wire);
            field(2, tensor.datatype().to_string().as_bytes(), &mut wire);
            let mut shape = Vec::new();
            tensor.shape().iter().for_each(|length| varint(*length as u64, &mut shape));
            field(3, &shape, &mut wire);
            field(5, &wire, &mut message);
        }
        let mut at = 0;
        for (_, tensor) in &inputs {
            let mut raw = Vec::new();
            slsml_inference::raw::write(tensor.data(), &mut raw);
            field(7, &raw, &mut message);
            at += raw.len();
        }
        debug_assert_eq!(at, bytes.len());
        head["parameters"] = json!({ "binary_data_output": true });
        let head = head.to_string().into_bytes();
        let length = vec![("inference-header-content-length", head.len().to_string())];
        let binary = Ask::new(path, length, [head, bytes].concat().into(), false);
        // A message on the wire: not compressed, its length.
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len())?.to_be_bytes());
        framed.extend(message);
        let headers = vec![kind("application/grpc"), ("te", "trailers".into())];
        let path = "/inference.GRPCInferenceService/ModelInfer";
        let grpc = Ask::new(path, headers, framed.into(), true);
        Ok(Asks { json, binary, grpc })
    }
}

/// A field of Protocol Buffers that has a length.
fn field(number: u64, bytes: &[u8], to: &mut Vec<u8>) {
    varint(number << 3 | 2, to);
    varint(bytes.len() as u64, to);
    to.extend_from_slice(bytes);
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A server and how it is started.
#[derive(Clone, Debug)]
struct Server {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    folder: PathBuf,
}

/// One that runs; it is stopped when this is dropped.
struct Running {
    process: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its workers go with it when it is asked to stop, not when it is killed.
        if let Some(id) = Pid::from_raw(self.process.id().cast_signed()) {
            let _ = kill_process(id, Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

impl Server {
    fn spawn(&self) -> Result<Running, Error> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (*name, value)))
            .env("PORT", port.to_string())
            // As theirs.
            .env("SLSML_ACCESS_LOG", "false")
            .envs(
                std::env::var("SLSML_REFUSAL_DELAY_MS")
                    .map(|delay| ("SLSML_REFUSAL_DELAY_MS", delay)),
            )
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running { process, address: format!("127.0.0.1:{port}") })
    }

    /// From exec to the first answer.
    async fn first_answer(&self, ask: &Ask) -> Result<Duration, Error> {
        let began = Instant::now();
        let running = self.spawn()?;
        running.answers(ask).await?;
        Ok(began.elapsed())
    }
}

impl Running {
    /// Waits until it answers, and returns the answer.
    async fn answers(&self, ask: &Ask) -> Result<Bytes, Error> {
        let began = Instant::now();
        loop {
            match Client::connect(&self.address, ask.http2).await {
                Ok(mut client) => {
                    let (status, answer) = client.send(ask).await?;
                    if !status.is_success() {
                        let answer = String::from_utf8_lossy(&answer).into_owned();
                        return Err(format!("{status}: {answer}").into());
                    }
                    return Ok(answer);
                }
                Err(error) if began.elapsed() > Duration::from_secs(60) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_micros(500)).await,
            }
        }
    }

    fn rss_bytes(&self) -> Result<i64, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?;
        Ok(kib.trim().parse::<i64>()? * 1024)
    }
}

/// Medians of the bare run and of what each kind of request takes beyond it; and the memory after.
async fn overhead(
    server: &Server,
    model: &Model,
    body: &[u8],
    asks: &Asks,
) -> Result<(f64, Overhead, i64), Error> {
    let running = server.spawn()?;
    running.answers(&asks.json).await?;
    let rest = running.rss_bytes()?;
    let inputs: Vec<_> = request::tensors(body)?.into_iter().map(|(_, tensor)| tensor).collect();
    let kinds = [&asks.json, &asks.binary, &asks.grpc];
    let mut clients = Vec::new();
    for ask in kinds {
        clients.push(Client::connect(&running.address, ask.http2).await?);
    }
    let mut times: [Series; 4] = Default::default();
    // In turn, as the machine's speed drifts.
    for round in 0..60 {
        let fresh = inputs.clone();
        let began = Instant::now();
        model.run(fresh)?;
        let bare = began.elapsed();
        let mut took = vec![bare];
        for (client, ask) in clients.iter_mut().zip(kinds) {
            let began = Instant::now();
            let (status, answer) = client.send(ask).await?;
            if !status.is_success() {
                return Err(format!("{status}: {}", String::from_utf8_lossy(&answer)).into());
            }
            took.push(began.elapsed());
        }
        if round >= 10 {
            times.iter_mut().zip(took).for_each(|(all, one)| all.push(one));
        }
    }
    let [bare, json, binary, grpc] = times.map(|series| series.spread().median);
    let overhead = Overhead { json: json - bare, binary: binary - bare, grpc: grpc - bare };
    Ok((bare, overhead, rest))
}

/// The most requests a second that our server answers, and FastAPI's: ours at a p99 no higher than that of
/// theirs. They are asked in turn, as the machine's speed drifts.
async fn throughput(
    servers: [&Server; 2],
    ask: &Ask,
    lasts: Duration,
) -> Result<[Loaded; 2], Error> {
    let mut running = Vec::new();
    for server in servers {
        let server = server.spawn()?;
        server.answers(ask).await?;
        running.push(server);
    }
    let _polite = Polite::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for connections in CONNECTIONS {
        let mut pair = [Loaded::default(), Loaded::default()];
        for _ in 0..ROUNDS {
            for (server, all) in running.iter().zip(&mut pair) {
                all.add(load(&server.address, ask, connections, None, lasts / ROUNDS).await?);
            }
        }
        for (name, loaded) in ["slsml", "FastAPI"].into_iter().zip(&pair) {
            eprintln!(
                "  {connections:>2} connections, {name}: {:.0} a second, p99 {:.2} ms, {} refused, {} errors",
                loaded.per_second(),
                loaded.p99_ms(),
                loaded.refused_503,
                loaded.other_errors
            );
        }
        let [one, other] = pair;
        ours.push(one);
        theirs.push(other);
    }
    let theirs = best(theirs, f64::INFINITY)?;
    Ok([best(ours, theirs.p99_ms())?, theirs])
}

fn best(loads: Vec<Loaded>, p99: f64) -> Result<Loaded, Error> {
    let fit = loads.into_iter().filter(|load| load.p99_ms() <= p99 && load.other_errors == 0);
    fit.max_by(|one, other| one.per_second().total_cmp(&other.per_second()))
        .ok_or_else(|| format!("nothing was answered within {p99:.2} ms").into())
}

/// As long as it lives, this process gives way: a client that shares processors with the server it measures
/// shall not take one from it in the middle of an answer, only because there is something to read.
/// Servers are to be started before it, as they would inherit it.
struct Polite;

impl Polite {
    fn new() -> Polite {
        if let Err(error) = schedule("--batch") {
            eprintln!(
                "this client does not give way to the servers, which cannot be had here: {error}"
            );
        }
        Polite
    }
}

impl Drop for Polite {
    fn drop(&mut self) {
        // Where it cannot be had it was not done either.
        let _ = schedule("--other");
    }
}

/// Gives all threads of this process a policy of the kernel's scheduler: `man 7 sched`, SCHED_BATCH.
fn schedule(policy: &str) -> Result<(), Error> {
    let this = std::process::id().to_string();
    peers::run(Command::new("chrt").args([policy, "--all-tasks", "--pid", "0", &this]))
}

async fn overload(server: &Server, ask: &Ask, args: &Args) -> Result<Overload, Error> {
    let running = server.spawn()?;
    running.answers(ask).await?;
    let _polite = Polite::new();
    let usual = load(&running.address, ask, 2, None, Duration::from_secs(args.seconds)).await?;
    let pace = OVERLOAD * usual.per_second();
    let lasts = Duration::from_secs(args.overload_seconds);
    let before = running.rss_bytes()?;
    let loaded = load(&running.address, ask, args.overload_connections, Some(pace), lasts).await?;
    let rss_growth = running.rss_bytes()? - before;
    let all = loaded.took.len() as u64 + loaded.refused_503 + loaded.other_errors;
    Ok(Overload {
        capacity_per_second: usual.per_second(),
        offered_per_second: all as f64 / loaded.lasted.as_secs_f64(),
        accepted: loaded.took.len(),
        rss_growth,
        p99_ratio: loaded.p99_ms() / usual.p99_ms(),
        refused_503: loaded.refused_503,
        other_errors: loaded.other_errors,
    })
}

/// The image's size without the model, and how long it takes to make and write.
fn image(programs: &Path, packaged: &Path, scratch: &Path) -> Result<(u64, f64), Error> {
    let (server, model) = (std::fs::read(programs.join("slsml-server"))?, std::fs::read(packaged)?);
    let began = Instant::now();
    let made = make_image(&ImageParts {
        name: "m",
        programs: &[(Arch::X86_64, &server)],
        model: &model,
        model_sha256: &slsml_package::sha256_hex(&model),
        manifest: b"{}",
        slsml_version: "0",
        source: None,
        revision: None,
        version: None,
        modified: None,
        smallest: false,
    })?;
    let folder = scratch.join("image");
    std::fs::create_dir_all(folder.join("blobs/sha256"))?;
    for (path, bytes) in made.files() {
        std::fs::write(folder.join(path), bytes)?;
    }
    let build_s = began.elapsed().as_secs_f64();
    let model_layer = made.image.platforms[0].layers.last().map_or(0, |layer| layer.bytes);
    Ok((made.image.bytes - model_layer, build_s))
}
