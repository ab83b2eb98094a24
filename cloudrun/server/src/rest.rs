//! The protocol over HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use slsml_inference::{Answer, InferRequest, Method, ProtocolError, Route};

use crate::app::{App, Refusal};
use crate::crowd::Place;
use crate::encoding;
use crate::exchange::{Asked, Ended, Exchange, note_prediction};
use crate::room::{NoRoom, Part, Received};

/// Where an infer request's JSON ends and its tensors' bytes begin.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Answers one request that is not gRPC's.
pub(crate) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/metrics" && parts.method == http::Method::GET {
        return metrics(&app);
    }
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let exchange = Exchange::begin(&app, &parts.headers, Asked { protocol: "rest", method, path });
    let part = app.room.part();
    let mut body = Received { body, part: part.clone() };
    let answered = respond(&app, &parts, &mut body).await;
    if answered.is_err() {
        // Nothing of it is kept any more.
        part.let_go();
    }
    let is_busy = matches!(answered, Err(Refusal::Busy));
    let is_slow = matches!(answered, Err(Refusal::Protocol(ProtocolError::TooSlow(_))));
    // Whoever sends a body reads the answer only then, unless it asked first.
    let is_left = answered.is_err() && !is_slow && !parts.headers.contains_key(EXPECT);
    let error = answered.as_ref().err().map(message);
    let response = answered.unwrap_or_else(|refusal| refused(&refusal));
    exchange.end(&Ended {
        status: response.status().as_u16(),
        request_bytes: part.received(),
        response_bytes: response.body().size(),
        error: error.as_deref(),
        extensions: response.extensions(),
    });
    if is_left {
        discard(&mut body.body).await;
    }
    if is_busy {
        app.before_refusal().await;
    }
    response
}

trait Size {
    fn size(&self) -> usize;
}

impl Size for Full<Bytes> {
    fn size(&self) -> usize {
        self.size_hint().exact().map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX))
    }
}

async fn respond(
    app: &App,
    parts: &Parts,
    body: &mut Received,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let method = match parts.method {
        http::Method::GET | http::Method::HEAD => Method::Get,
        http::Method::POST => Method::Post,
        _ => Method::Other,
    };
    let path = parts.uri.path();
    if path == READY && app.draining.load(Ordering::Relaxed) {
        return Ok(not_ready());
    }
    match app.service.route(method, path)? {
        Route::Known(answer) => Ok(response(&parts.headers, answer)),
        Route::Infer => {
            // Better before a body is kept than after it.
            let place = app.queue.place()?;
            let whole = receive(app, body).await?;
            let answer = infer(app, &parts.headers, whole, &body.part, place).await?;
            let predictions = answer.predictions.clone();
            let mut response = response(&parts.headers, answer);
            note_prediction(response.extensions_mut(), &predictions);
            Ok(response)
        }
    }
}

async fn infer(
    app: &App,
    headers: &HeaderMap,
    body: Bytes,
    part: &Arc<Part>,
    place: Option<Place>,
) -> Result<Answer, Refusal> {
    let limits = &app.service.limits;
    let signature = app.service.model.signature();
    let plain = encoding::decompressed(headers, &body, limits.body_bytes)?;
    let whole = plain.as_deref().unwrap_or(&body);
    part.hold(body.len() + plain.as_ref().map_or(0, Vec::len))?;
    let mut request = match json_length(headers)? {
        Some(length) => InferRequest::parse_binary(whole, length, signature, limits)?,
        None => InferRequest::parse(whole, signature, limits)?,
    };
    // The run can have its memory.
    drop((plain, body));
    part.hold(request.bytes())?;
    let tensors = app.run(&mut request, part, place).await?;
    Ok(app.service.infer_answer(&request, &tensors)?)
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ProtocolError> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        ProtocolError::BadRequest("Inference-Header-Content-Length is no number of bytes".into())
    })
}

/// The whole body, within its limits of size and time.
async fn receive(app: &App, body: &mut Received) -> Result<Bytes, Refusal> {
    let (limit, time) = (app.settings.body_bytes, app.settings.receive);
    match tokio::time::timeout(time, whole(body, limit)).await {
        Ok(whole) => whole,
        Err(_) => Err(ProtocolError::TooSlow(format!(
            "the body did not arrive within {} s",
            time.as_secs()
        ))
        .into()),
    }
}

/// A body in one piece, which it is from the beginning: several would have to be copied into one, and be there
/// twice.
async fn whole(body: &mut Received, limit: usize) -> Result<Bytes, Refusal> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast_ref::<NoRoom>() {
            Some(no_room) => Refusal::from(*no_room),
            None => ProtocolError::BadRequest(format!("the body broke off: {error}")).into(),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > limit {
            let message = format!("the body has more than {limit} bytes, which is the limit");
            return Err(ProtocolError::TooLarge(message).into());
        }
        if all.is_empty() {
            if body.is_end_stream() {
                return Ok(data);
            }
            let left = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
            all.reserve((data.len() + left).min(limit));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// How long what is left of a refused request may take.
const LEFT: Duration = Duration::from_secs(5);

/// Takes in what is left of a body without keeping it.
async fn discard(body: &mut Incoming) {
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // However it ends, the request is refused.
    let _ = tokio::time::timeout(LEFT, all).await;
}

/// Where is asked whether requests may come.
const READY: &str = "/v2/health/ready";

/// That they should go elsewhere, as this container is told to stop.
fn not_ready() -> Response<Full<Bytes>> {
    let body = br#"{"ready":false}"#.to_vec();
    response(
        &HeaderMap::new(),
        Answer { status: 503, body, json_length: None, predictions: Vec::new() },
    )
}

fn response(asked: &HeaderMap, answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let kind = match answer.json_length {
        None => "application/json",
        Some(length) => {
            headers.insert(JSON_LENGTH, HeaderValue::from(length));
            "application/octet-stream"
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let body = match encoding::compressed(asked, &answer.body) {
        Some((coding, small)) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
            small
        }
        None => answer.body,
    };
    *response.body_mut() = Full::new(body.into());
    response
}

fn message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Busy => BUSY.into(),
        Refusal::Protocol(error) => error.message(),
    }
}

/// What a client reads that is refused for want of room.
pub(crate) const BUSY: &str = "more requests come than can be answered; try again in a second";

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    match refusal {
        Refusal::Protocol(error) => {
            let mut response = response(&HeaderMap::new(), Answer::from(error.clone()));
            if let ProtocolError::MethodNotAllowed { takes, .. } = error {
                let allowed = if *takes == "GET" { "GET, HEAD" } else { takes };
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            }
            response
        }
        Refusal::Busy => {
            let body = serde_json::json!({ "error": BUSY }).to_string();
            let mut response = Response::new(Full::new(body.into()));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

fn metrics(app: &App) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(app.stats.text(app.queue.len()).into()));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
