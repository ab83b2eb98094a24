//! Traces by OpenTelemetry: a span for each request, sent to a collector in batches by a thread of its own.
//!
//! The collector is beside the container or in the same network, so gRPC without TLS is all that is
//! spoken. What OTEL_… variables say of sampling, batches, headers and the resource holds.
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>

use std::time::Duration;

use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};

use crate::exchange::{Asked, Ended};
use crate::log::{self, TraceContext};

/// How long the last spans may take to be sent.
const FINISH: Duration = Duration::from_millis(1500);

/// Where spans go.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Finds the collector's address where OpenTelemetry's own variables say it. Connects when there is
    /// something to send; to be called where the server's threads are.
    pub(crate) fn connect(service: &str, version: &str) -> Result<Traces, ExporterBuildError> {
        let exporter = Told(SpanExporter::builder().with_tonic().build()?);
        let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty());
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", version.to_owned()));
        if !named {
            let own = std::env::var("K_SERVICE").unwrap_or_else(|_| service.to_owned());
            resource = resource.with_service_name(own);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("slsml-server");
        Ok(Traces { provider, tracer })
    }

    /// The span of a request, below its caller's if that is known.
    pub(crate) fn begin(&self, parent: Option<&TraceContext>) -> ServerSpan {
        let parent = parent.and_then(|parent| {
            let trace = TraceId::from_hex(&parent.trace).ok()?;
            let span = SpanId::from_hex(&parent.span).ok()?;
            let flags = TraceFlags::default().with_sampled(parent.sampled);
            Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
        });
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let builder = self.tracer.span_builder("request").with_kind(SpanKind::Server);
        ServerSpan(builder.start_with_context(&self.tracer, &context))
    }

    /// Sends what is left. Requests in flight had eight of the ten seconds Cloud Run gives.
    pub(crate) fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FINISH) {
            log::error("spans were lost", &error.to_string());
        }
    }
}

/// The exporter, and a line in the log for each batch that did not arrive: the SDK keeps that to itself.
#[derive(Debug)]
struct Told(SpanExporter);

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.0.export(batch).await;
        if let Err(error) = &sent {
            log::error("spans were lost", &format!("{spans} of them: {error}"));
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// The span of one request.
pub(crate) struct ServerSpan(opentelemetry_sdk::trace::Span);

impl ServerSpan {
    /// Where the request belongs from here on.
    pub(crate) fn context(&self) -> TraceContext {
        let own = self.0.span_context();
        TraceContext {
            trace: own.trace_id().to_string(),
            span: own.span_id().to_string(),
            sampled: own.is_sampled(),
        }
    }

    /// Attributes are those of the semantic conventions for HTTP and RPC servers.
    /// <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server>
    pub(crate) fn end(mut self, asked: &Asked, ended: &Ended<'_>) {
        let status = i64::from(ended.status);
        if asked.protocol == "grpc" {
            // What is not there may be any path, and names of spans are few.
            self.0.update_name(match ended.status {
                501 => "grpc".to_owned(),
                _ => asked.path.trim_start_matches('/').to_owned(),
            });
            self.0.set_attribute(KeyValue::new("rpc.system", "grpc"));
        } else {
            self.0.update_name(match ended.status {
                404 => asked.method.to_string(),
                _ => format!("{} {}", asked.method, asked.path),
            });
            self.0.set_attribute(KeyValue::new("http.request.method", asked.method.to_string()));
            self.0.set_attribute(KeyValue::new("url.path", asked.path.clone()));
        }
        self.0.set_attribute(KeyValue::new("http.response.status_code", status));
        if ended.status >= 500 {
            self.0.set_status(Status::error(ended.error.unwrap_or_default().to_owned()));
        }
        self.0.end();
    }
}
