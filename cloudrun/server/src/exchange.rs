//! A request and its answer, as metrics, the log and traces tell of it.

use std::sync::Arc;
use std::time::Instant;

use http::{Extensions, HeaderMap};

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

/// What the model answered, on its way to whoever counts it.
#[derive(Clone, Copy, Debug)]
struct Prediction(u8);

/// Notes on an answer what the model said. One item of a request counts, as elsewhere: items of one
/// request are alike.
pub(crate) fn note_prediction(answer: &mut Extensions, predictions: &[u8]) {
    if let Some(bin) = predictions.first() {
        answer.insert(Prediction(*bin));
    }
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
    /// What else is known of the answer.
    pub(crate) extensions: &'a Extensions,
}

impl Ended<'_> {
    /// The class or range of the model's answer, if it gave one.
    pub(crate) fn prediction(&self) -> Option<u8> {
        self.extensions.get().map(|Prediction(bin)| *bin)
    }

    /// Whether it failed here and HTTP does not tell: gRPC's errors have the status 200. A method that
    /// does not exist is its caller's fault.
    pub(crate) fn failed_unseen(&self) -> bool {
        self.protocol == "grpc" && self.status >= 500 && self.status != 501
    }
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
        if let Some(bin) = ended.prediction() {
            self.app.stats.predicted(bin);
        }
        if self.app.settings.access_log {
            let trace = self.trace.as_ref();
            Access { ended, latency, trace, project: self.app.settings.project.as_deref() }.log();
        }
        if let Some(span) = self.span {
            span.end(ended);
        }
    }
}
