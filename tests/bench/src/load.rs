//! One cold process that loads a model, and then runs it: packaged, or as plain tract does.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use slsml_import::{DimOverride, ShapeOverride, Shapes};
use slsml_model::{Model, RunError, Tensor};

use crate::figures::median_ms;
use crate::{Error, request};

/// Runs before those that count.
const WARM_UP: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A packaged model, through the code that serves it.
    Packaged,
    /// An ONNX file, as tract's own documentation loads it.
    Plain,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    pub(crate) kind: Kind,
    pub(crate) model: PathBuf,
    /// An infer request with the model's inputs
    pub(crate) request: PathBuf,
    #[arg(long, default_value_t = 30)]
    pub(crate) runs: usize,
    #[arg(long)]
    pub(crate) shape: Vec<ShapeOverride>,
    #[arg(long)]
    pub(crate) dim: Vec<DimOverride>,
}

/// Milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) ready_ms: f64,
    /// The median of the runs.
    pub(crate) warm_ms: f64,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let inputs = request::tensors(&std::fs::read(&args.request)?)?;
    let loaded = match args.kind {
        Kind::Packaged => packaged(args, inputs)?,
        Kind::Plain => plain(args, inputs)?,
    };
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&loaded)?)?)
}

fn packaged(args: &Args, inputs: Vec<(String, Tensor)>) -> Result<Loaded, Error> {
    let began = Instant::now();
    // As the served binary does.
    let model = Model::load_to_serve(&args.model)?;
    let ready = began.elapsed();
    timed(ready, args.runs, &inputs, |inputs| model.run(inputs))
}

fn plain(args: &Args, inputs: Vec<(String, Tensor)>) -> Result<Loaded, Error> {
    let shapes = Shapes { shapes: args.shape.clone(), dims: args.dim.clone() };
    let began = Instant::now();
    let model = slsml_import::plain(&args.model, &shapes)?;
    let ready = began.elapsed();
    timed(ready, args.runs, &inputs, |inputs| model.run(inputs))
}

/// Runs a model that took `ready` to load, and times the runs after the first few.
fn timed(
    ready: Duration,
    runs: usize,
    inputs: &[(String, Tensor)],
    run: impl Fn(Vec<Tensor>) -> Result<Vec<Tensor>, RunError>,
) -> Result<Loaded, Error> {
    let warm = (0..WARM_UP + runs)
        .map(|_| {
            let inputs = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
            let began = Instant::now();
            run(inputs)?;
            Ok(began.elapsed())
        })
        .collect::<Result<Vec<Duration>, Error>>()?;
    Ok(Loaded { ready_ms: median_ms(&[ready]), warm_ms: median_ms(&warm[WARM_UP..]) })
}
