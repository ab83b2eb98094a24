//! Addresses of services and tags: each is a port of its own, so that HTTP/1.1, HTTP/2 and gRPC work
//! as they do at a host of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rand::Rng;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::CloudRun;
use super::instance::Body;
use super::monitoring;
use super::pool::{NoRoom, Permit};
use super::state::{Service, Serving};
use crate::fault;

/// The largest request over HTTP/1.1. <https://cloud.google.com/run/quotas>
const BODY_LIMIT: usize = 32 << 20;

/// Headers that belong to one connection.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// Something that listens, until it is dropped.
#[derive(Debug)]
pub(crate) struct Front {
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CloudRun {
    /// Listens for a service or one of its tags, at a port that was its own before if that is free.
    pub(super) fn listen(
        self: &Arc<CloudRun>,
        service: &str,
        tag: &str,
        port: u16,
    ) -> std::io::Result<u16> {
        let key = (service.to_owned(), tag.to_owned());
        if let Some(front) = self.inner().fronts.get(&key) {
            return Ok(front.port);
        }
        let bind = |port| std::net::TcpListener::bind(("127.0.0.1", port));
        let listener = bind(port).or_else(|_| bind(0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let listener = TcpListener::from_std(listener)?;
        let (run, at) = (Arc::downgrade(self), key.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of file descriptors, most likely: others may be closed soon.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let Some(run) = run.upgrade() else { return };
                let _ = stream.set_nodelay(true);
                let (service, tag) = at.clone();
                tokio::spawn(async move {
                    let answer = hyper::service::service_fn(|request| {
                        let (run, service, tag) = (run.clone(), service.clone(), tag.clone());
                        async move {
                            Ok::<_, std::convert::Infallible>(
                                run.serve(&service, &tag, request).await,
                            )
                        }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is no error of ours.
                    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        self.inner().fronts.insert(key, Front { port, task });
        Ok(port)
    }

    /// Stops listening for tags that are not there any more.
    pub(super) fn close_unused_tags(&self, name: &str) {
        let Ok(service) = self.store.service(name) else { return };
        let used = |tag: &str| {
            tag.is_empty() || service.serving.iter().any(|one| one.tag.as_deref() == Some(tag))
        };
        self.inner().fronts.retain(|(service, tag), _| service != name || used(tag));
    }

    /// Stops listening for a service, and ends its instances.
    pub(super) fn close(&self, name: &str) {
        let mut inner = self.inner();
        inner.fronts.retain(|(service, _), _| service != name);
        inner.pools.retain(|(service, _), pool| {
            if service == name {
                pool.kill();
            }
            service != name
        });
    }

    async fn serve(
        self: &Arc<CloudRun>,
        name: &str,
        tag: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let Ok(service) = self.store.service(name) else {
            return plain(StatusCode::NOT_FOUND, "Page not found");
        };
        if !service.is_public() && !request.headers().contains_key("authorization") {
            return plain(
                StatusCode::FORBIDDEN,
                "Forbidden: your client does not have permission to get this URL",
            );
        }
        let Some(serving) = pick(&service, tag) else {
            return plain(StatusCode::NOT_FOUND, "Page not found");
        };
        let Some(revision) = service.revisions.get(&serving.revision) else {
            return plain(StatusCode::NOT_FOUND, "Page not found");
        };
        let began = Instant::now();
        let fate = self.faults.of_request(service.id(), &revision.name);
        if fate.throttled {
            // Google counts only what reaches an instance.
            return plain(StatusCode::TOO_MANY_REQUESTS, "Rate exceeded.");
        }
        let permit = match self.pool(&service, revision).room().await {
            Ok(permit) => permit,
            Err(NoRoom::Busy) => return plain(StatusCode::TOO_MANY_REQUESTS, "Rate exceeded."),
            Err(NoRoom::Failed(failure)) => {
                return plain(StatusCode::SERVICE_UNAVAILABLE, &failure.message);
            }
        };
        let of = service.counted(&revision.name);
        // A client that goes away is no failure of the revision's.
        let counted = Counted { run: self.clone(), of, class: "4xx", began, permit };
        tokio::time::sleep(fate.delay).await;
        if fate.fails {
            return counted.answer(plain(StatusCode::INTERNAL_SERVER_ERROR, "a fault on purpose"));
        }
        let timeout = revision.template["timeout"].as_str().and_then(|text| text.strip_suffix('s'));
        let timeout = timeout.and_then(|text| text.parse().ok()).unwrap_or(300.0);
        let forwarded = forward(request, counted.permit.instance.port, fate.blank);
        let request = match forwarded.await {
            Ok(request) => request,
            Err(status) => {
                let reason = status.canonical_reason().unwrap_or_default();
                return counted.answer(plain(status, reason));
            }
        };
        let answer = counted.permit.instance.client.request(request);
        match tokio::time::timeout(Duration::from_secs_f64(timeout), answer).await {
            Ok(Ok(response)) => {
                counted.answer(response.map(|body| body.map_err(Into::into).boxed_unsync()))
            }
            Ok(Err(_)) => {
                let text = "The request failed because either the HTTP response was malformed or connection to the instance had an error.";
                counted.answer(plain(StatusCode::SERVICE_UNAVAILABLE, text))
            }
            Err(_) => {
                let text = "The request has been terminated because it has reached the maximum request timeout.";
                counted.answer(plain(StatusCode::GATEWAY_TIMEOUT, text))
            }
        }
    }
}

/// Whom a request goes to: a tag's target, or one drawn by percent.
fn pick<'a>(service: &'a Service, tag: &str) -> Option<&'a Serving> {
    if !tag.is_empty() {
        return service.serving.iter().find(|serving| serving.tag.as_deref() == Some(tag));
    }
    let mut drawn = rand::rng().random_range(0..100);
    service.serving.iter().find(|serving| {
        let hit = drawn < serving.percent;
        drawn = drawn.saturating_sub(serving.percent);
        hit
    })
}

/// The request as the container gets it.
async fn forward(
    request: Request<Incoming>,
    port: u16,
    blank: bool,
) -> Result<Request<Body>, StatusCode> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = format!("http://127.0.0.1:{port}{path}")
        .parse::<Uri>()
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    let limited = parts.version < Version::HTTP_2;
    let trailers = parts.headers.get("te").is_some_and(|te| te == "trailers");
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    if trailers {
        parts.headers.insert("te", http::HeaderValue::from_static("trailers"));
    }
    parts.headers.insert("x-forwarded-proto", http::HeaderValue::from_static("https"));
    parts.headers.insert("x-forwarded-for", http::HeaderValue::from_static("127.0.0.1"));
    if !parts.headers.contains_key("x-cloud-trace-context") {
        let id = crate::ids::uuid().replace('-', "");
        if let Ok(value) = http::HeaderValue::from_str(&format!("{id}/1;o=0")) {
            parts.headers.insert("x-cloud-trace-context", value);
        }
    }
    parts.version = Version::HTTP_11;
    if limited && body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    if blank {
        let bytes = Limited::new(body, BODY_LIMIT).collect().await;
        let bytes = bytes.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?.to_bytes();
        let bytes = fault::blanked(&bytes).map_or(bytes, Bytes::from);
        parts.headers.remove("content-length");
        return Ok(Request::from_parts(parts, whole(bytes)));
    }
    let body = match limited {
        true => Limited::new(body, BODY_LIMIT).boxed_unsync(),
        false => body.map_err(Into::into).boxed_unsync(),
    };
    Ok(Request::from_parts(parts, body))
}

/// A request that is counted when its answer is over.
struct Counted {
    run: Arc<CloudRun>,
    of: monitoring::Counted,
    class: &'static str,
    began: Instant,
    permit: Permit,
}

impl Counted {
    fn answer(mut self, response: Response<Body>) -> Response<Body> {
        self.class = match response.status().as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        response.map(|body| Body::new(Followed { body, _counted: self }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let took = self.began.elapsed().as_secs_f64() * 1e3;
        monitoring::record(&self.run.metrics, &self.of, self.class, took);
    }
}

/// A body with whom it belongs to.
struct Followed {
    body: Body,
    _counted: Counted,
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}
