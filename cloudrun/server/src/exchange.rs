//! A request and its answer, as metrics, the log and traces tell of it.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use crate::app::App;
use crate::log::{Access, TraceContext};
use crate::stats::InFlight;
use crate::traces::ServerSpan;

/// One that is under way.
pub(crate) struct Exchange {
    app: Arc<App>,
    began: Instant,
    trace: Option<TraceContext>,
    span: Option<ServerSpan>,
    _in_flight: InFlight,
}

/// How one ended.
pub(crate) struct Ended<'a> {
    /// `rest` or `grpc`.
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The HTTP status, or the one that says what a gRPC code says.
    pub(crate) status: u16,
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
    pub(crate) error: Option<&'a str>,
}

impl Exchange {
    pub(crate) fn begin(app: &Arc<App>, headers: &HeaderMap) -> Exchange {
        let began = Instant::now();
        let mut trace = TraceContext::of(headers);
        let span = app.traces.as_ref().map(|traces| traces.begin(trace.as_ref()));
        if let Some(span) = &span {
            trace = Some(span.context());
        }
        Exchange { app: app.clone(), began, trace, span, _in_flight: app.stats.begin() }
    }

    pub(crate) fn end(self, ended: &Ended<'_>) {
        let latency = self.began.elapsed();
        self.app.stats.answered(ended.protocol, ended.status, latency);
        if self.app.settings.access_log {
            let trace = self.trace.as_ref();
            Access { ended, latency, trace, project: self.app.settings.project.as_deref() }.log();
        }
        if let Some(span) = self.span {
            span.end(ended);
        }
    }
}
