//! The protocol over gRPC.

mod messages;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use slsml_inference::{Elements, GivenInput, InferRequest, ProtocolError, RawOutput, metadata};
use slsml_model::{Data, TensorSpec};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::app::{App, Refusal};
use crate::log::{Access, TraceContext};
use crate::rest::BUSY;
use messages::{
    Contents, Empty, InferTensor, ModelInferRequest, ModelInferResponse, ModelMetadata, ModelName,
    Ready, ServerLive, ServerMetadata, TensorMetadata,
};

const SERVICE: &str = "/inference.GRPCInferenceService/";

/// Whether a request is gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(|value| value.as_bytes());
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Answers one request that is gRPC's.
pub(crate) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let began = Instant::now();
    let _in_flight = app.stats.begin();
    let path = request.uri().path().to_owned();
    let trace = TraceContext::of(request.headers());
    let response = dispatch(&app, &path, request).await;
    let code = code(response.headers());
    // An answer that does not say otherwise in its head says it is fine in its trailers.
    let status = http_status(code);
    let latency = began.elapsed();
    app.stats.answered("grpc", status, latency);
    if app.settings.access_log {
        let error = Status::from_header_map(response.headers());
        Access {
            method: "POST",
            path: &path,
            status,
            request_bytes: 0,
            response_bytes: 0,
            latency,
            error: error.as_ref().map(Status::message).filter(|_| code != Code::Ok),
            trace: trace.as_ref(),
            project: app.settings.project.as_deref(),
        }
        .log();
    }
    response
}

fn code(headers: &HeaderMap) -> Code {
    Status::from_header_map(headers).map_or(Code::Ok, |status| status.code())
}

/// The HTTP status that says what a gRPC code says, for the log.
fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument => 400,
        Code::NotFound => 404,
        Code::ResourceExhausted => 413,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        _ => 500,
    }
}

async fn dispatch(app: &Arc<App>, path: &str, request: Request<Incoming>) -> Response<Body> {
    match path.strip_prefix(SERVICE) {
        Some("ServerLive") => one(app, request, server_live).await,
        Some("ServerReady") => one(app, request, server_ready).await,
        Some("ModelReady") => one(app, request, model_ready).await,
        Some("ServerMetadata") => one(app, request, server_metadata).await,
        Some("ModelMetadata") => one(app, request, model_metadata).await,
        Some("ModelInfer") => one(app, request, model_infer).await,
        _ => Status::unimplemented(format!("nothing is at {path}")).into_http(),
    }
}

/// One message in, one message out.
async fn one<A, B, F, R>(app: &Arc<App>, request: Request<Incoming>, answer: F) -> Response<Body>
where
    A: prost::Message + Default + Send + 'static,
    B: prost::Message + Default + Send + 'static,
    F: Fn(Arc<App>, A) -> R,
    R: Future<Output = Result<B, Status>> + Send + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<B, A>::default())
        .max_decoding_message_size(app.settings.body_bytes)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    grpc.unary(Unary { app: app.clone(), answer }, request).await
}

/// A handler as tonic takes it.
struct Unary<F> {
    app: Arc<App>,
    answer: F,
}

impl<A, B, F, R> UnaryService<A> for Unary<F>
where
    F: Fn(Arc<App>, A) -> R,
    R: Future<Output = Result<B, Status>> + Send + 'static,
{
    type Response = B;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<B>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<A>) -> Self::Future {
        let answer = (self.answer)(self.app.clone(), request.into_inner());
        Box::pin(async move { answer.await.map(tonic::Response::new) })
    }
}

fn named(app: &App, name: &str, version: &str) -> Result<(), Status> {
    app.service.check_name(name, version).map_err(|error| status(&error))
}

async fn server_live(_: Arc<App>, _: Empty) -> Result<ServerLive, Status> {
    Ok(ServerLive { live: true })
}

async fn server_ready(_: Arc<App>, _: Empty) -> Result<Ready, Status> {
    Ok(Ready { ready: true })
}

async fn model_ready(app: Arc<App>, asked: ModelName) -> Result<Ready, Status> {
    named(&app, &asked.name, &asked.version).map(|()| Ready { ready: true })
}

async fn server_metadata(app: Arc<App>, _: Empty) -> Result<ServerMetadata, Status> {
    let extensions = app.service.extensions.iter().map(|&name| name.to_owned());
    Ok(ServerMetadata {
        name: metadata::SERVER_NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: extensions.collect(),
    })
}

async fn model_metadata(app: Arc<App>, asked: ModelName) -> Result<ModelMetadata, Status> {
    named(&app, &asked.name, &asked.version)?;
    let signature = app.service.model.signature();
    let tensor = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.to_string(),
        shape: spec.shape.iter().map(metadata::length).collect(),
    };
    Ok(ModelMetadata {
        name: app.service.name.clone(),
        versions: vec![app.service.version.clone()],
        platform: metadata::PLATFORM.into(),
        inputs: signature.inputs.iter().map(tensor).collect(),
        outputs: signature.outputs.iter().map(tensor).collect(),
    })
}

async fn model_infer(
    app: Arc<App>,
    asked: ModelInferRequest,
) -> Result<ModelInferResponse, Status> {
    named(&app, &asked.model_name, &asked.model_version)?;
    let mut request = bind(&app, asked).map_err(|error| status(&error))?;
    let tensors = app.run(&mut request).await.map_err(|refusal| match refusal {
        Refusal::Busy => Status::unavailable(BUSY),
        Refusal::Protocol(error) => status(&error),
    })?;
    app.stats.predicted(&app.service.predictions(&tensors));
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
    Ok(ModelInferResponse {
        model_name: app.service.name.clone(),
        model_version: app.service.version.clone(),
        id: request.id.unwrap_or_default(),
        outputs,
        raw_output_contents: raw,
        ..ModelInferResponse::default()
    })
}

fn status(error: &ProtocolError) -> Status {
    let code = match error {
        ProtocolError::BadRequest(_) | ProtocolError::MethodNotAllowed(_) => Code::InvalidArgument,
        ProtocolError::NotFound(_) => Code::NotFound,
        ProtocolError::TooLarge(_) => Code::ResourceExhausted,
        ProtocolError::Failed(_) => Code::Internal,
    };
    Status::new(code, error.message())
}

fn bad(message: String) -> ProtocolError {
    ProtocolError::BadRequest(message)
}

fn bind(app: &App, asked: ModelInferRequest) -> Result<InferRequest, ProtocolError> {
    let raw = &asked.raw_input_contents;
    if !raw.is_empty() && raw.len() != asked.inputs.len() {
        return Err(bad(format!(
            "there are {} inputs and {} raw_input_contents",
            asked.inputs.len(),
            raw.len()
        )));
    }
    let mut inputs = Vec::with_capacity(asked.inputs.len());
    for (at, input) in asked.inputs.into_iter().enumerate() {
        let elements = match (raw.get(at), input.contents) {
            (Some(_), Some(_)) => {
                return Err(bad(format!(
                    "input `{}` has contents, and so do raw_input_contents: use one of both",
                    input.name
                )));
            }
            (Some(bytes), None) => Elements::Raw(bytes),
            (None, None) => Elements::Absent,
            (None, Some(contents)) => Elements::Data(data(&input.name, &input.datatype, contents)?),
        };
        let InferTensor { name, datatype, shape, .. } = input;
        inputs.push(GivenInput { name, shape, datatype, elements });
    }
    let outputs: Vec<String> = asked.outputs.into_iter().map(|output| output.name).collect();
    let id = Some(asked.id).filter(|id| !id.is_empty());
    InferRequest::bind(id, inputs, &outputs, app.service.model.signature(), &app.service.limits)
}

/// Elements in the field of their type.
fn data(name: &str, datatype: &str, contents: Contents) -> Result<Data, ProtocolError> {
    fn narrow<T: TryFrom<V>, V: Copy + std::fmt::Display>(
        name: &str,
        datatype: &str,
        values: &[V],
    ) -> Result<Vec<T>, ProtocolError> {
        let unfit = |value| bad(format!("the data of input `{name}`: {value} is no {datatype}"));
        values.iter().map(|&value| T::try_from(value).map_err(|_| unfit(value))).collect()
    }
    Ok(match datatype {
        "BOOL" => Data::Bool(contents.bools),
        "INT8" => Data::Int8(narrow(name, datatype, &contents.ints)?),
        "INT16" => Data::Int16(narrow(name, datatype, &contents.ints)?),
        "INT32" => Data::Int32(contents.ints),
        "INT64" => Data::Int64(contents.int64s),
        "UINT8" => Data::Uint8(narrow(name, datatype, &contents.uints)?),
        "UINT16" => Data::Uint16(narrow(name, datatype, &contents.uints)?),
        "UINT32" => Data::Uint32(contents.uints),
        "UINT64" => Data::Uint64(contents.uint64s),
        "FP32" => Data::Fp32(contents.fp32s),
        "FP64" => Data::Fp64(contents.fp64s),
        "BYTES" => {
            let texts = contents.bytes.iter().map(|bytes| String::from_utf8(bytes.to_vec()));
            Data::Bytes(
                texts.collect::<Result<_, _>>().map_err(|_| {
                    bad(format!("the data of input `{name}`: an element is not UTF-8"))
                })?,
            )
        }
        other => {
            return Err(bad(format!("input `{name}`: {other} comes in raw_input_contents only")));
        }
    })
}
