//! The protocol over gRPC.

mod decode;
mod messages;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::MapErr;
use hyper::body::Incoming;
use prost::Message;
use slsml_inference::{ProtocolError, RawOutput, metadata};
use slsml_model::TensorSpec;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::app::{App, Refusal};
use crate::crowd::Place;
use crate::exchange::{Asked, Ended, Exchange, note_prediction};
use crate::rest::BUSY;
use crate::room::{self, NoRoom, Part};
use decode::{Counted, bind};
use messages::{
    Empty, InferTensor, ModelInferRequest, ModelInferResponse, ModelMetadata, ModelName, Ready,
    ServerLive, ServerMetadata, TensorMetadata,
};

pub use decode::decode;

const SERVICE: &str = "/inference.GRPCInferenceService/";

/// Whether a request is gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(|value| value.as_bytes());
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Answers one request that is gRPC's.
pub(crate) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let asked = Asked { protocol: "grpc", method: request.method().clone(), path: path.clone() };
    let exchange = Exchange::begin(&app, request.headers(), asked);
    let part = app.room.part();
    let request = request.map(|body| received(body, &part));
    let response = dispatch(&app, &path, request, &part).await;
    let code = code(response.headers());
    let error = Status::from_header_map(response.headers());
    exchange.end(&Ended {
        // An answer that does not say otherwise in its head says it is fine in its trailers.
        status: http_status(code),
        request_bytes: part.received(),
        response_bytes: response.extensions().get().map_or(0, |MessageSize(bytes)| *bytes),
        error: error.as_ref().map(Status::message).filter(|_| code != Code::Ok),
        extensions: response.extensions(),
    });
    if code == Code::Unavailable {
        // Nothing of it is kept any more.
        part.let_go();
        app.before_refusal().await;
    }
    response
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, with tonic's word for what ends it.
type Received = MapErr<room::Received, fn(Error) -> Error>;

fn received(body: Incoming, part: &Arc<Part>) -> Received {
    room::Received { body, part: part.clone() }.map_err(|error| match error.downcast::<NoRoom>() {
        Ok(no_room) => no_room_status(*no_room).into(),
        Err(other) => other,
    })
}

fn busy() -> Status {
    Status::unavailable(BUSY)
}

fn no_room_status(no_room: NoRoom) -> Status {
    refused(no_room.into())
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Busy => busy(),
        Refusal::Protocol(error) => status(&error),
    }
}

/// The size of an answer's message before it is compressed.
#[derive(Clone, Copy, Debug)]
struct MessageSize(usize);

fn code(headers: &HeaderMap) -> Code {
    Status::from_header_map(headers).map_or(Code::Ok, |status| status.code())
}

/// The HTTP status that says what a gRPC code says, for the log.
fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument => 400,
        Code::NotFound => 404,
        // tonic's own code for a message that is too large is the first.
        Code::OutOfRange | Code::ResourceExhausted => 413,
        Code::DeadlineExceeded => 408,
        Code::Cancelled => 499,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        _ => 500,
    }
}

async fn dispatch(
    app: &Arc<App>,
    path: &str,
    request: Request<Received>,
    part: &Arc<Part>,
) -> Response<Body> {
    match path.strip_prefix(SERVICE) {
        Some("ServerLive") => one(app, request, plain(), server_live).await,
        Some("ServerReady") => one(app, request, plain(), server_ready).await,
        Some("ModelReady") => one(app, request, plain(), model_ready).await,
        Some("ServerMetadata") => one(app, request, plain(), server_metadata).await,
        Some("ModelMetadata") => one(app, request, plain(), model_metadata).await,
        Some("ModelInfer") => {
            // Better before a message is kept than after it.
            let Ok(mut place) = app.queue.place() else { return busy().into_http() };
            let codec = Counted { limits: app.service.limits, part: part.clone() };
            let part = part.clone();
            let infer = move |app, asked| model_infer(app, asked, part.clone(), place.take());
            one(app, request, codec, infer).await
        }
        _ => {
            let path: String = path.chars().take(200).collect();
            Status::unimplemented(format!("nothing is at {path}")).into_http()
        }
    }
}

/// Small messages, as prost reads and writes them.
fn plain<A, B>() -> ProstCodec<B, A> {
    ProstCodec::default()
}

/// One message in, one message out.
async fn one<C, F, R>(
    app: &Arc<App>,
    request: Request<Received>,
    codec: C,
    answer: F,
) -> Response<Body>
where
    C: Codec<Decode: Send + 'static, Encode: Message + Send + 'static>,
    F: FnMut(Arc<App>, C::Decode) -> R,
    R: Future<Output = Answered<C::Encode>> + Send + 'static,
{
    let mut grpc = Grpc::new(codec)
        .max_decoding_message_size(app.settings.body_bytes)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate);
    let has_come = Arc::new(AtomicBool::new(false));
    let unary = Unary { app: app.clone(), answer, has_come: has_come.clone() };
    let answered = grpc.unary(unary, request);
    tokio::pin!(answered);
    let limit = app.settings.receive;
    let come = || has_come.load(Ordering::Acquire);
    match tokio::time::timeout(limit, &mut answered).await {
        Ok(response) if come() => response,
        Ok(response) => unread(response),
        Err(_) if come() => answered.await,
        Err(_) => {
            let message = format!("the message did not arrive within {} s", limit.as_secs());
            Status::deadline_exceeded(message).into_http()
        }
    }
}

/// The answer to a message that could not be read. tonic calls some of that an error of its own, as
/// when it cannot be decompressed or its connection breaks; it is no failure of the model's.
fn unread(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if matches!(status.code(), Code::Internal | Code::Unknown) => {
            Status::invalid_argument(status.message()).into_http()
        }
        _ => response,
    }
}

type Answered<B> = Result<tonic::Response<B>, Status>;

/// A handler as tonic takes it.
struct Unary<F> {
    app: Arc<App>,
    answer: F,
    /// Set once the whole message is there.
    has_come: Arc<AtomicBool>,
}

impl<A, B, F, R> UnaryService<A> for Unary<F>
where
    F: FnMut(Arc<App>, A) -> R,
    R: Future<Output = Answered<B>> + Send + 'static,
    B: Message,
{
    type Response = B;
    type Future = Pin<Box<dyn Future<Output = Answered<B>> + Send>>;

    fn call(&mut self, request: tonic::Request<A>) -> Self::Future {
        self.has_come.store(true, Ordering::Release);
        let answer = (self.answer)(self.app.clone(), request.into_inner());
        Box::pin(async move {
            let mut answer = answer.await?;
            let size = MessageSize(answer.get_ref().encoded_len());
            answer.extensions_mut().insert(size);
            Ok(answer)
        })
    }
}

fn named(app: &App, name: &str, version: &str) -> Result<(), Status> {
    app.service.check_name(name, version).map_err(|error| status(&error))
}

async fn server_live(_: Arc<App>, _: Empty) -> Answered<ServerLive> {
    Ok(tonic::Response::new(ServerLive { live: true }))
}

async fn server_ready(app: Arc<App>, _: Empty) -> Answered<Ready> {
    Ok(tonic::Response::new(Ready { ready: !app.draining.load(Ordering::Relaxed) }))
}

/// A model that is not here is not ready.
async fn model_ready(app: Arc<App>, asked: ModelName) -> Answered<Ready> {
    let ready = named(&app, &asked.name, &asked.version).is_ok();
    Ok(tonic::Response::new(Ready { ready }))
}

async fn server_metadata(app: Arc<App>, _: Empty) -> Answered<ServerMetadata> {
    let extensions = app.service.extensions.iter().map(|&name| name.to_owned());
    Ok(tonic::Response::new(ServerMetadata {
        name: metadata::SERVER_NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: extensions.collect(),
    }))
}

async fn model_metadata(app: Arc<App>, asked: ModelName) -> Answered<ModelMetadata> {
    named(&app, &asked.name, &asked.version)?;
    let signature = app.service.model.signature();
    let tensor = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.to_string(),
        shape: spec.shape.iter().map(metadata::length).collect(),
    };
    Ok(tonic::Response::new(ModelMetadata {
        name: app.service.name.clone(),
        versions: vec![app.service.version.clone()],
        platform: metadata::PLATFORM.into(),
        inputs: signature.inputs.iter().map(tensor).collect(),
        outputs: signature.outputs.iter().map(tensor).collect(),
    }))
}

async fn model_infer(
    app: Arc<App>,
    asked: ModelInferRequest,
    part: Arc<Part>,
    place: Option<Place>,
) -> Answered<ModelInferResponse> {
    named(&app, &asked.model_name, &asked.model_version)?;
    let bound = bind(asked, app.service.model.signature(), &app.service.limits);
    let mut request = bound.map_err(|error| status(&error))?;
    part.hold(request.bytes()).map_err(no_room_status)?;
    let tensors = app.run(&mut request, &part, place).await.map_err(refused)?;
    let predictions = app.service.predictions(&tensors);
    let answer = app.service.named(&request, &tensors);
    let (mut outputs, mut raw) = (Vec::new(), Vec::new());
    for RawOutput { name, tensor, bytes } in answer.to_raw().map_err(|error| status(&error))? {
        let shape = tensor.shape().iter().map(|&length| i64::try_from(length).unwrap_or(i64::MAX));
        outputs.push(InferTensor {
            name: name.into(),
            datatype: tensor.datatype().to_string(),
            shape: shape.collect(),
            ..InferTensor::default()
        });
        raw.push(Bytes::from(bytes));
    }
    let mut response = tonic::Response::new(ModelInferResponse {
        model_name: app.service.name.clone(),
        model_version: app.service.version.clone(),
        id: request.id.unwrap_or_default(),
        outputs,
        raw_output_contents: raw,
        ..ModelInferResponse::default()
    });
    note_prediction(response.extensions_mut(), &predictions);
    Ok(response)
}

fn status(error: &ProtocolError) -> Status {
    let code = match error {
        ProtocolError::BadRequest(_) | ProtocolError::MethodNotAllowed { .. } => {
            Code::InvalidArgument
        }
        ProtocolError::TooSlow(_) => Code::DeadlineExceeded,
        ProtocolError::NotFound(_) => Code::NotFound,
        ProtocolError::TooLarge(_) => Code::ResourceExhausted,
        ProtocolError::Failed(_) => Code::Internal,
    };
    Status::new(code, error.message())
}
