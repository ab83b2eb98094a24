//! Just enough of the Runtime API to time a process: it hands out one request again and again and
//! notes when each was asked for, handed out and answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::Error;

/// What the process did, and when.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It asked for work, which it got at once.
    Asked(Instant),
    /// It answered.
    Answered(Instant, Bytes),
    /// It failed.
    Failed(String),
}

#[derive(Clone)]
struct Api {
    request: Bytes,
    seen: mpsc::UnboundedSender<Seen>,
}

/// Serves until the process ends; what it sees arrives at the receiver.
pub(crate) async fn serve(
    request: Bytes,
) -> Result<(SocketAddr, mpsc::UnboundedReceiver<Seen>), Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let (seen, receiver) = mpsc::unbounded_channel();
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(answered))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
        .route("/2018-06-01/runtime/init/error", post(failed))
        // Lambda's own limit is for whoever deploys; here large answers are only slow.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(Api { request, seen }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, receiver))
}

async fn next(State(api): State<Arc<Api>>) -> Response {
    // Whoever measures may have seen enough.
    let _ = api.seen.send(Seen::Asked(Instant::now()));
    let headers = [
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
        ("lambda-runtime-deadline-ms", "9999999999999"),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:000000000000:function:bench",
        ),
        ("content-type", "application/json"),
    ];
    (headers, api.request.clone()).into_response()
}

async fn answered(State(api): State<Arc<Api>>, body: Bytes) -> StatusCode {
    let _ = api.seen.send(Seen::Answered(Instant::now(), body));
    StatusCode::ACCEPTED
}

async fn failed(State(api): State<Arc<Api>>, body: String) -> StatusCode {
    let _ = api.seen.send(Seen::Failed(body));
    StatusCode::ACCEPTED
}
