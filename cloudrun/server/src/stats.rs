//! What Prometheus reads at `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Labels = [(&'static str, String); 2];
type Class = [(&'static str, String); 1];

/// Seconds a request may take: from a tenth of a millisecond, each bucket 2.5 times the one before.
const BUCKETS: [f64; 13] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0];

/// Every metric.
pub(crate) struct Stats {
    registry: Registry,
    requests: Family<Labels, Counter>,
    latency: Histogram,
    predictions: Family<Class, Counter>,
    runs: Counter,
    run_requests: Counter,
    in_flight: Gauge,
    waiting: Gauge,
}

impl Stats {
    pub(crate) fn new() -> Arc<Stats> {
        let mut registry = Registry::with_prefix("slsml");
        let requests = Family::default();
        let latency = Histogram::new(BUCKETS);
        let predictions = Family::default();
        let (runs, run_requests) = (Counter::<u64, AtomicU64>::default(), Counter::default());
        let in_flight = Gauge::<i64, AtomicI64>::default();
        let waiting = Gauge::default();
        registry.register("requests", "Requests answered", requests.clone());
        registry.register_with_unit(
            "request_latency",
            "From a request's head to its answer",
            Unit::Seconds,
            latency.clone(),
        );
        registry.register("predictions", "Answers by class or range", predictions.clone());
        registry.register("runs", "Runs of the model", runs.clone());
        registry.register("run_requests", "Requests in those runs", run_requests.clone());
        registry.register("in_flight", "Requests being answered", in_flight.clone());
        registry.register("waiting", "Requests that wait for a run", waiting.clone());
        Arc::new(Stats {
            registry,
            requests,
            latency,
            predictions,
            runs,
            run_requests,
            in_flight,
            waiting,
        })
    }

    /// A request was answered.
    pub(crate) fn answered(&self, protocol: &'static str, status: u16, latency: Duration) {
        let labels = [("protocol", protocol.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.latency.observe(latency.as_secs_f64());
    }

    /// The model answered so.
    pub(crate) fn predicted(&self, bin: u8) {
        self.predictions.get_or_create(&[("bin", bin.to_string())]).inc();
    }

    /// So many requests were run, in so many runs of the model.
    pub(crate) fn ran(&self, requests: usize, runs: usize) {
        self.runs.inc_by(runs as u64);
        self.run_requests.inc_by(requests as u64);
    }

    /// A request begins; it ends when what is returned is dropped.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// How many requests are being answered.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// The exposition, with what waits at this moment.
    pub(crate) fn text(&self, waiting: usize) -> String {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# the metrics cannot be written: {error}\n"),
        }
    }
}

/// A request that is being answered.
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
