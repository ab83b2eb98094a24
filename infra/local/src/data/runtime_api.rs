//! The Runtime API of one process, on a port of its own.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

/// A synchronous answer's limit: 6 MB and room for its envelope.
pub(crate) const ANSWER_LIMIT: usize = 6_291_556;

/// One request on its way to the process.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) request_id: String,
    pub(crate) payload: Bytes,
    pub(crate) arn: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) deadline: u64,
}

/// What the process does.
#[derive(Debug)]
pub(crate) enum Signal {
    /// It asks for the next request: it is initialised and free.
    Ready,
    /// It answered a request.
    Answer { request_id: String, payload: Bytes },
    /// It failed on a request.
    Error { request_id: String, payload: Bytes },
    /// It cannot initialise.
    InitError(Bytes),
    /// It ended; how, as the shell would say it.
    Exited(String),
}

#[derive(Debug)]
struct Api {
    work: Mutex<mpsc::Receiver<Work>>,
    signals: mpsc::UnboundedSender<Signal>,
}

/// Serves until the handle is aborted.
pub(crate) async fn serve(
    work: mpsc::Receiver<Work>,
    signals: mpsc::UnboundedSender<Signal>,
) -> std::io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let api = Arc::new(Api { work: Mutex::new(work), signals });
    let invocation = Router::new()
        .route("/next", get(next))
        .route("/{request_id}/response", post(response))
        .route("/{request_id}/error", post(error));
    let router = Router::new()
        .nest("/2018-06-01/runtime/invocation", invocation)
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(ANSWER_LIMIT * 4))
        .with_state(api);
    let task = tokio::spawn(async move {
        // Serving ends with the process; there is nobody to tell.
        let _ = axum::serve(listener, router).await;
    });
    Ok((address, task))
}

async fn next(State(api): State<Arc<Api>>) -> Response {
    // Nobody listens any more once the process was given up.
    let _ = api.signals.send(Signal::Ready);
    let Some(work) = api.work.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", work.request_id),
        ("lambda-runtime-deadline-ms", work.deadline.to_string()),
        ("lambda-runtime-invoked-function-arn", work.arn),
        ("lambda-runtime-trace-id", trace_id()),
        ("content-type", "application/json".to_owned()),
    ] {
        match value.parse() {
            Ok(value) => headers.insert(name, value),
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        };
    }
    (headers, work.payload).into_response()
}

fn trace_id() -> String {
    let id = crate::ids::uuid().replace('-', "");
    format!("Root=1-{}-{};Parent={};Sampled=0", &id[..8], &id[8..], &id[..16])
}

fn accepted() -> Response {
    (StatusCode::ACCEPTED, [("Content-Type", "application/json")], r#"{"status":"OK"}"#)
        .into_response()
}

async fn response(
    State(api): State<Arc<Api>>,
    Path(request_id): Path<String>,
    payload: Bytes,
) -> Response {
    let too_large = payload.len() > ANSWER_LIMIT;
    let signal = if too_large {
        let payload = serde_json::json!({
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": format!(
                "Response payload size ({} bytes) exceeded maximum allowed payload size ({ANSWER_LIMIT} bytes).",
                payload.len()
            ),
        });
        Signal::Error { request_id, payload: payload.to_string().into() }
    } else {
        Signal::Answer { request_id, payload }
    };
    let _ = api.signals.send(signal);
    if too_large { StatusCode::PAYLOAD_TOO_LARGE.into_response() } else { accepted() }
}

async fn error(
    State(api): State<Arc<Api>>,
    Path(request_id): Path<String>,
    payload: Bytes,
) -> Response {
    let _ = api.signals.send(Signal::Error { request_id, payload });
    accepted()
}

async fn init_error(State(api): State<Arc<Api>>, payload: Bytes) -> Response {
    let _ = api.signals.send(Signal::InitError(payload));
    accepted()
}
