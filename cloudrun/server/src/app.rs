//! Everything an answer needs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use slsml_inference::{InferRequest, Limits, ProtocolError, Service, failed};
use slsml_model::{MANIFEST_FILE, MODEL_FILE, Manifest, Model, RunError, Tensor};
use tokio::sync::oneshot;

use crate::batch::Batches;
use crate::crowd::Place;
use crate::gather::Gathered;
use crate::log;
use crate::pace::Pace;
use crate::queue::{Full, Job, Queue, elements};
use crate::room::{NoRoom, Part, Room};
use crate::settings::Settings;
use crate::stats::Stats;
use crate::traces::Traces;
use crate::workers::{self, Runner};

pub(crate) struct App {
    pub(crate) service: Service,
    runner: Arc<Runner>,
    gathered: Gathered,
    pub(crate) queue: Arc<Queue>,
    pub(crate) room: Arc<Room>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) traces: Option<Traces>,
    pub(crate) settings: Settings,
    /// How long the first request of a batch waits for others.
    delay: Duration,
    /// Whether the container is told to stop.
    pub(crate) draining: AtomicBool,
    /// Whether requests in flight are given up, as the time to answer them is over.
    pub(crate) cuts_off: AtomicBool,
}

/// Why a request has no answer of the model's.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is no room for it.
    Busy,
    /// Something else.
    Protocol(ProtocolError),
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Refusal {
        Refusal::Protocol(error)
    }
}

impl From<Full> for Refusal {
    fn from(Full: Full) -> Refusal {
        Refusal::Busy
    }
}

impl From<NoRoom> for Refusal {
    fn from(no_room: NoRoom) -> Refusal {
        match no_room {
            NoRoom::Now => Refusal::Busy,
            NoRoom::Ever { whole } => Refusal::Protocol(ProtocolError::TooLarge(format!(
                "the request takes more memory than the {whole} bytes that all requests may take together"
            ))),
        }
    }
}

impl App {
    /// Loads the model and starts its threads; to be called within the server's runtime.
    pub(crate) fn load(settings: &Settings) -> Result<Arc<App>, Box<dyn std::error::Error>> {
        let manifest = Manifest::read(&settings.model.join(MANIFEST_FILE))?;
        let model = Model::load_to_serve(&settings.model.join(MODEL_FILE))?;
        if settings.warm_up
            && let Err(error) = model.warm_up()
        {
            // Zeros may be input the model refuses; a request will tell.
            log::error("the warm-up run failed", &error.to_string());
        }
        let stats = Stats::new();
        let pace = Arc::new(Pace::new());
        let queue = Arc::new(Queue::new(settings.threads, pace.clone()));
        let batches = Batches::of(&model, settings.batch_size);
        // Where nothing runs together there is nobody to wait for.
        let delay = if batches.are_allowed() { settings.batch_delay } else { Duration::ZERO };
        let runner = Arc::new(Runner { model: model.clone(), batches, stats: stats.clone(), pace });
        workers::start(settings.threads, &runner, &queue, delay)?;
        let service = Service {
            name: manifest.name,
            // Cloud Run's name of the revision says which release answered.
            version: std::env::var("K_REVISION").unwrap_or_else(|_| "1".into()),
            model,
            limits: Limits { body_bytes: settings.body_bytes, ..Limits::default() },
            counted: manifest.counted,
            extensions: &["binary_tensor_data"],
        };
        let traces = settings.traces.then(|| Traces::connect(&service.name, &service.version));
        let (traces, settings) = (traces.transpose()?, settings.clone());
        Ok(Arc::new(App {
            service,
            runner,
            gathered: Gathered::default(),
            queue,
            room: Room::new(settings.requests_bytes),
            stats,
            traces,
            settings,
            delay,
            draining: AtomicBool::new(false),
            cuts_off: AtomicBool::new(false),
        }))
    }

    /// Waits before a refusal for want of room.
    pub(crate) async fn before_refusal(&self) {
        tokio::time::sleep(self.settings.refusal_delay).await;
    }

    /// Runs the model for a request once a thread is free. A run that takes less time than waking
    /// another thread twice is done at once, where nobody waits.
    pub(crate) async fn run(
        &self,
        request: &mut InferRequest,
        part: &Arc<Part>,
        place: Option<Place>,
    ) -> Result<Vec<Tensor>, Refusal> {
        let inputs = std::mem::take(&mut request.inputs);
        let is_quick = self.runner.pace.is_quick(elements(&inputs));
        if is_quick && self.queue.len() == 0 && self.delay.is_zero() {
            drop(place);
            if self.stats.in_flight() > 1 && self.runner.batches.are_allowed() {
                return self.run_with_others(inputs, part).await;
            }
            let answer = self.runner.run(vec![inputs]).pop();
            return answered(answer);
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { inputs, reply, part: part.clone() };
        self.queue.push(job, place)?;
        answered(answer.await.ok())
    }

    /// Runs the model for a request and those that are read at the same moment.
    async fn run_with_others(
        &self,
        inputs: Vec<Tensor>,
        part: &Arc<Part>,
    ) -> Result<Vec<Tensor>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.gathered.push(Job { inputs, reply, part: part.clone() });
        // What else has come is read first.
        tokio::task::yield_now().await;
        while answer.is_empty() {
            let jobs = self.gathered.take(|jobs, next| self.runner.batches.fits(jobs, next));
            if jobs.is_empty() {
                // Another thread is running it.
                break;
            }
            self.runner.answer(jobs);
        }
        answered(answer.await.ok())
    }
}

fn answered(answer: Option<Result<Vec<Tensor>, RunError>>) -> Result<Vec<Tensor>, Refusal> {
    match answer {
        Some(Ok(tensors)) => Ok(tensors),
        Some(Err(error)) => Err(failed(&error).into()),
        None => Err(ProtocolError::Failed("the thread that ran it ended".into()).into()),
    }
}
