//! One port for all services. A signed request says which service it is for; what is not signed
//! is a function URL or the local cloud's own.

use std::ffi::OsStr;
use std::future::Future;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::cloudrun::{self, CloudRun};
use crate::data::{Fleet, url};
use crate::error::{AwsError, AwsResult};
use crate::fault::{ApiFaultKind, FailsLater, Injector};
use crate::home::{Home, HomeError, Running};
use crate::images::{self, Images};
use crate::lambda::registry::Registry;
use crate::lambda::routes::{self, Lambda};
use crate::lambda::urls;
use crate::logs::{self, Logs};
use crate::metrics::{self, Metrics};
use crate::s3::Store;
use crate::storage::{self, Storage};
use crate::{iam, query};

/// The largest request that is not for the object store: a zip of 50 MB in base64, with room.
const BODY_LIMIT: usize = 100 << 20;

/// How the local cloud is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its state is.
    pub home: Home,
    /// The port on 127.0.0.1; 0 lets the system choose.
    pub port: u16,
    /// After how long without a request a process is stopped.
    pub idle_after: Duration,
    /// How many requests may run at once in the account.
    pub account_concurrency: u32,
    /// How Cloud Run's containers are run.
    pub containers: Containers,
    /// A file that calls of Google's APIs and their answers are written to, for whoever wants to see
    /// them.
    pub record: Option<std::path::PathBuf>,
}

/// How containers are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containers {
    /// By podman, unless it runs none here: then as processes.
    Auto,
    /// By podman.
    Podman,
    /// As processes in the files of their image.
    Process,
}

/// Why it does not run.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("port {port} is in use")]
    PortInUse { port: u16 },
    #[error("cannot listen on 127.0.0.1:{port}: {source}")]
    Listen { port: u16, source: std::io::Error },
    #[error("cannot use the state in {dir}: {source}")]
    State { dir: std::path::PathBuf, source: std::io::Error },
}

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug)]
struct Cloud {
    lambda: Lambda,
    metrics: Arc<Metrics>,
    logs: Arc<Logs>,
    images: Arc<Images>,
    run: Arc<CloudRun>,
    storage: Storage,
    home: Home,
    faults: Arc<Injector>,
    /// Conditional writes look and then write: one at a time.
    writes: tokio::sync::Mutex<()>,
}

/// Runs the local cloud until `stop` is ready, then ends its processes. `ready` is called once it
/// listens.
pub async fn serve(
    options: Options,
    ready: impl FnOnce(&Running),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let _taken = options.home.take()?;
    let port = options.port;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|source| {
        match source.kind() {
            std::io::ErrorKind::AddrInUse => ServeError::PortInUse { port },
            _ => ServeError::Listen { port, source },
        }
    })?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen { port, source })?;
    let cloud = Arc::new(open(&options, address)?);
    let running = Running { pid: std::process::id(), address };
    options.home.announce(&running)?;
    ready(&running);
    let sweeper = tokio::spawn(sweep(cloud.clone()));
    tokio::select! {
        () = accept(listener, cloud.clone()) => {}
        () = stop => {}
    }
    sweeper.abort();
    cloud.lambda.fleet.stop();
    cloud.run.stop();
    Ok(())
}

fn open(options: &Options, address: SocketAddr) -> Result<Cloud, ServeError> {
    let home = &options.home;
    let state = |source| ServeError::State { dir: home.dir().to_owned(), source };
    end_leftovers(home);
    let registry = Registry::open(home, options.account_concurrency).map_err(state)?;
    iam::prepare(&registry).map_err(|error| state(std::io::Error::other(error.message)))?;
    let metrics = Arc::new(Metrics::open(home).map_err(state)?);
    let logs = Arc::new(Logs::default());
    let store = Arc::new(Store::open(&home.join("s3")).map_err(state)?);
    let faults = Arc::new(Injector::new(home));
    let registry = Arc::new(registry);
    let fleet = Fleet::new(
        home.clone(),
        registry,
        metrics.clone(),
        logs.clone(),
        faults.clone(),
        options.idle_after,
    );
    let lambda = Lambda { fleet: Arc::new(fleet), store, endpoint: format!("http://{address}") };
    let writes = tokio::sync::Mutex::default();
    let images = Arc::new(Images::open(home).map_err(state)?);
    let storage = Storage::open(home).map_err(state)?;
    let run = CloudRun::open(
        options,
        address.to_string(),
        images.clone(),
        metrics.clone(),
        logs.clone(),
        faults.clone(),
    );
    let run = Arc::new(run.map_err(state)?);
    run.resume().map_err(state)?;
    Ok(Cloud { lambda, metrics, logs, images, run, storage, home: home.clone(), faults, writes })
}

/// Ends processes that a killed local cloud left in this folder. They would end by themselves when
/// they next ask for work; one in the middle of a request would not.
fn end_leftovers(home: &Home) {
    let unpacked = home.join("unpacked").canonicalize().ok();
    let rootfs = home.join("rootfs").canonicalize().ok();
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let id = process.file_name().to_str().and_then(|name| name.parse().ok());
        // A container's process is in its image's files.
        let root = std::fs::read_link(process.path().join("root")).ok();
        let of_image = rootfs.as_ref().zip(root).is_some_and(|(all, root)| root.starts_with(all));
        // A shell that happens to be there is not one of ours; what Lambda started has its variable.
        let of_lambda = || {
            std::fs::read(process.path().join("environ")).is_ok_and(|environ| {
                let mut variables = environ.split(|byte| *byte == 0);
                let root =
                    variables.find_map(|variable| variable.strip_prefix(b"LAMBDA_TASK_ROOT="));
                root.zip(unpacked.as_ref())
                    .is_some_and(|(root, all)| Path::new(OsStr::from_bytes(root)).starts_with(all))
            })
        };
        let ours = of_image || of_lambda();
        if let (Some(id), true) = (id.and_then(rustix::process::Pid::from_raw), ours) {
            // It may have ended a moment ago.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    }
}

async fn sweep(cloud: Arc<Cloud>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        cloud.lambda.fleet.sweep();
        cloud.run.sweep();
        cloud.metrics.sweep();
    }
}

async fn accept(listener: TcpListener, cloud: Arc<Cloud>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: others may be closed soon.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Answers are small and come in one piece.
        let _ = stream.set_nodelay(true);
        let cloud = cloud.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(cloud.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is no error of ours.
            let _ = connection.await;
        });
    }
}

async fn answer(
    cloud: Arc<Cloud>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    if let Err(why) = from_this_machine(&request) {
        return Ok(plain(403, why));
    }
    let service = signed_for(&request);
    let path = request.uri().path().to_owned();
    let agents = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let agents: Vec<&str> =
        ["user-agent", "x-amz-user-agent"].into_iter().filter_map(agents).collect();
    let fault = cloud.faults.of_call(request.method().as_str(), &path, &agents);
    match fault {
        None => Ok(serve_call(cloud, request, service, path).await),
        Some(ApiFaultKind::Throttle) if is_googles(&path) => Ok(whole(cloudrun::fault(429))),
        Some(ApiFaultKind::Error) if is_googles(&path) => Ok(whole(cloudrun::fault(500))),
        Some(ApiFaultKind::Deny) if is_googles(&path) => Ok(whole(cloudrun::fault(403))),
        Some(ApiFaultKind::Throttle) => {
            Ok(refused(429, "TooManyRequestsException", "Rate exceeded"))
        }
        Some(ApiFaultKind::Error) => Ok(refused(500, "ServiceException", "a fault on purpose")),
        Some(ApiFaultKind::Deny) => Ok(denied(service.as_deref(), request.headers(), &path)),
        Some(ApiFaultKind::FailOperation) => {
            request.extensions_mut().insert(FailsLater);
            Ok(serve_call(cloud, request, service, path).await)
        }
        Some(ApiFaultKind::DropBefore) => Err(Dropped),
        Some(ApiFaultKind::DropAfter) => {
            serve_call(cloud, request, service, path).await;
            Err(Dropped)
        }
        Some(ApiFaultKind::HangBefore) => {
            cloud.faults.hang().await;
            Err(Dropped)
        }
        Some(ApiFaultKind::HangAfter) => {
            serve_call(cloud.clone(), request, service, path).await;
            cloud.faults.hang().await;
            Err(Dropped)
        }
    }
}

/// Whether a path is one of Google's APIs.
fn is_googles(path: &str) -> bool {
    cloudrun::is_for(path) || storage::is_for(path)
}

/// The connection is broken on purpose.
#[derive(Debug, Error)]
#[error("the connection is broken on purpose")]
struct Dropped;

/// A refusal that every service's clients understand.
fn refused(status: u16, code: &'static str, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "__type": code, "message": message, "Message": message });
    let mut response = plain(status, &body.to_string());
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(code));
    response
}

/// What lacks a permission.
fn denied(service: Option<&str>, headers: &HeaderMap, path: &str) -> Response<Body> {
    let message = "not authorized, by a fault on purpose";
    match service {
        Some("monitoring") => {
            let (status, code, message) = (403, "AccessDenied", message.into());
            let error = AwsError { status, code, message, reason: None };
            whole(metrics::api::refuse(headers, path, error))
        }
        _ => refused(403, "AccessDeniedException", message),
    }
}

async fn serve_call(
    cloud: Arc<Cloud>,
    request: Request<Incoming>,
    service: Option<String>,
    path: String,
) -> Response<Body> {
    if service.as_deref() == Some("s3") {
        return objects(&cloud, request).await;
    }
    if images::is_for(&path) {
        return whole(images::answer(&cloud.images, request).await);
    }
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return plain(413, &format!("requests are limited to {BODY_LIMIT} bytes")),
    };
    let body = match decompress(&parts, body) {
        Ok(body) => body,
        Err(error) => return plain(error.status, &error.message),
    };
    if storage::is_for(&path) {
        return whole(cloud.storage.answer(&parts, &body));
    }
    if cloudrun::is_for(&path) {
        return whole(cloudrun::answer(&cloud.run, &parts, &body).await);
    }
    match service.as_deref() {
        Some("lambda") => whole(routes::answer(&cloud.lambda, &parts, body).await),
        Some("monitoring") => whole(metrics::api::answer(&cloud.metrics, &parts, &body)),
        Some("logs") => whole(logs::api::answer(&cloud.logs, &parts, &body)),
        Some("iam") => xml(&body, iam::IAM_NAMESPACE, |action, request| {
            iam::iam(&cloud.lambda.fleet.registry, action, request)
        }),
        Some("sts") => xml(&body, iam::STS_NAMESPACE, |action, _| iam::sts(action)),
        Some(other) => plain(501, &format!("slsml local does not offer the service {other}")),
        None => unsigned(&cloud, &path, &parts, body).await,
    }
}

/// Listening on loopback does not keep web pages out: a browser on this machine may be made to
/// send requests here, under another host's name or across origins. AWS clients do neither.
fn from_this_machine(request: &Request<Incoming>) -> Result<(), &'static str> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = header("host").unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if !(matches!(name, "127.0.0.1" | "localhost" | "[::1]") || name.ends_with(".localhost")) {
        return Err("slsml local answers requests to 127.0.0.1 and localhost only");
    }
    let foreign_page = header("origin").is_some()
        || header("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin");
    if foreign_page && !is_url(request.uri().path()) {
        return Err("slsml local does not answer web pages, except at function URLs");
    }
    Ok(())
}

/// The service in the request's signature: `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
fn signed_for(request: &Request<Incoming>) -> Option<String> {
    // A function URL may be signed too; it keeps its own path.
    if is_url(request.uri().path()) {
        return None;
    }
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if let Some(header) = header {
        let scope = header.split("Credential=").nth(1)?.split(',').next()?;
        return scope.split('/').nth(3).map(str::to_owned);
    }
    // Only objects have addresses that carry their own signature, and s3s verifies it.
    let mut pairs = form_urlencoded::parse(request.uri().query()?.as_bytes());
    pairs.any(|(key, _)| key == "X-Amz-Credential").then(|| "s3".to_owned())
}

async fn unsigned(cloud: &Cloud, path: &str, parts: &Parts, body: Bytes) -> Response<Body> {
    let url_path = path.strip_prefix('/').and_then(|path| path.strip_prefix(urls::PATH));
    if let Some(rest) = url_path.and_then(|rest| rest.strip_prefix('/')) {
        let (id, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        return whole(url::answer(&cloud.lambda.fleet, id, path, parts, body).await);
    }
    if let Some(file) = path.strip_prefix("/_slsml/code/")
        && !file.contains('/')
    {
        return match std::fs::read(cloud.home.join("code").join(file)) {
            Ok(bytes) => whole(Response::new(bytes.into())),
            Err(_) => plain(404, "no such code"),
        };
    }
    match path {
        "/_slsml/health" => plain(200, "ok"),
        _ => plain(403, "Missing Authentication Token: this is slsml local, for AWS clients"),
    }
}

/// Clients compress large requests.
fn decompress(parts: &Parts, body: Bytes) -> AwsResult<Bytes> {
    let encoding = parts.headers.get("content-encoding").and_then(|value| value.to_str().ok());
    let gzip = encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("gzip"));
    if !gzip || is_url(parts.uri.path()) {
        return Ok(body);
    }
    let mut plain = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(&body[..]).take(BODY_LIMIT as u64 + 1);
    reader.read_to_end(&mut plain).map_err(|_| AwsError::malformed("the body is not gzip"))?;
    if plain.len() > BODY_LIMIT {
        return Err(AwsError::too_large(format!("requests are limited to {BODY_LIMIT} bytes")));
    }
    Ok(plain.into())
}

/// Whether a path is below a function URL, whose requests belong to the function as they are.
fn is_url(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(urls::PATH))
        .is_some_and(|rest| rest.starts_with('/'))
}

async fn objects(cloud: &Cloud, request: Request<Incoming>) -> Response<Body> {
    let conditional =
        ["if-match", "if-none-match"].iter().any(|name| request.headers().contains_key(*name));
    let _one_at_a_time = match request.method() == http::Method::PUT && conditional {
        true => Some(cloud.writes.lock().await),
        false => None,
    };
    match cloud.lambda.store.service.call(request.map(s3s::Body::from)).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(error) => plain(500, &format!("the object store failed: {error:?}")),
    }
}

fn xml(
    body: &[u8],
    namespace: &str,
    call: impl FnOnce(&str, &Value) -> AwsResult<Value>,
) -> Response<Body> {
    let request = query::parse(body);
    let action = request.get("Action").and_then(Value::as_str).unwrap_or_default();
    let (status, text) = match call(action, &request) {
        Ok(result) => (200, query::answer(action, namespace, &result)),
        Err(error) => (error.status, query::refusal(&error, namespace)),
    };
    let mut response = plain(status, &text);
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/xml"));
    response
}

fn whole(response: Response<Bytes>) -> Response<Body> {
    response.map(|bytes| Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
}

fn plain(status: u16, text: &str) -> Response<Body> {
    let mut response = whole(Response::new(Bytes::from(text.to_owned())));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
