//! A request and its answer, as metrics, the log and traces tell of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::{Extensions, HeaderMap, Method};

use crate::app::App;
use crate::log::{Access, TraceContext};
use crate::stats::InFlight;
use crate::traces::ServerSpan;

/// One that is under way. One that is dropped before its end has no answer: its client hung up, the
/// container was stopped, or answering it panicked.
pub(crate) struct Exchange {
    app: Arc<App>,
    began: Instant,
    asked: Asked,
    trace: Option<TraceContext>,
    span: Option<ServerSpan>,
    over: bool,
    _in_flight: InFlight,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `rest` or `grpc`.
    pub(crate) protocol: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
}

/// The status of a request whose client hung up, as nginx has it.
const HUNG_UP: (u16, &str) = (499, "the client hung up");

/// That of one that took longer than a container that is told to stop waits.
const CUT_OFF: (u16, &str) = (503, "the container was stopped before it was answered");

/// That of one that brought its thread down.
const PANICKED: (u16, &str) = (500, "answering it panicked");

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
    pub(crate) fn failed_unseen(&self, asked: &Asked) -> bool {
        asked.protocol == "grpc" && self.status >= 500 && self.status != 501
    }
}

impl Exchange {
    pub(crate) fn begin(app: &Arc<App>, headers: &HeaderMap, asked: Asked) -> Exchange {
        let began = Instant::now();
        let mut trace = TraceContext::of(headers);
        let span = app.traces.as_ref().map(|traces| traces.begin(trace.as_ref()));
        if let Some(span) = &span {
            trace = Some(span.context());
        }
        let (app, _in_flight) = (app.clone(), app.stats.begin());
        Exchange { app, began, asked, trace, span, over: false, _in_flight }
    }

    pub(crate) fn end(mut self, ended: &Ended<'_>) {
        self.tell(ended);
    }

    fn tell(&mut self, ended: &Ended<'_>) {
        self.over = true;
        let latency = self.began.elapsed();
        self.app.stats.answered(self.asked.protocol, ended.status, latency);
        if let Some(bin) = ended.prediction() {
            self.app.stats.predicted(bin);
        }
        if self.app.settings.access_log {
            let (asked, trace) = (&self.asked, self.trace.as_ref());
            let project = self.app.settings.project.as_deref();
            Access { asked, ended, latency, trace, project }.log();
        }
        if let Some(span) = self.span.take() {
            span.end(&self.asked, ended);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.over {
            let (status, error) = match self.app.cuts_off.load(Ordering::Relaxed) {
                _ if std::thread::panicking() => PANICKED,
                true => CUT_OFF,
                false => HUNG_UP,
            };
            self.tell(&Ended {
                status,
                request_bytes: 0,
                response_bytes: 0,
                error: Some(error),
                extensions: &Extensions::new(),
            });
        }
    }
}
