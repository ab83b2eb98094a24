//! One operator case in this process.

use std::io::Write;
use std::path::{Path, PathBuf};

use slsml_import::{Options, Shapes};
use slsml_model::{Data, Tensor};
use tract_onnx::prelude::Framework;

use crate::Error;
use crate::breadth::Outcome;
use crate::load::Kind;

/// ONNX's own tolerances for its cases.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    kind: Kind,
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    // Panics that packaging turns into refusals are told there.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = outcome(args.kind, &args.folder);
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&outcome)?)?)
}

/// The operators a model uses.
pub(crate) fn operators(model: &Path) -> Result<Vec<String>, Error> {
    let onnx = tract_onnx::onnx().proto_model_for_path(model)?;
    let nodes = onnx.graph.into_iter().flat_map(|graph| graph.node);
    let mut operators: Vec<String> = nodes.map(|node| node.op_type).collect();
    operators.sort();
    operators.dedup();
    Ok(operators)
}

type Run = Box<dyn Fn(Vec<Tensor>) -> Result<Vec<Tensor>, String>>;

fn outcome(kind: Kind, folder: &Path) -> Outcome {
    let model = folder.join("model.onnx");
    let path = model.display().to_string();
    let refused =
        |error: slsml_import::ImportError| Outcome::Refused(error.to_string().replace(&path, "it"));
    let run: Run = match kind {
        Kind::Plain => match slsml_import::plain(&model, &Shapes::default()) {
            Ok(plan) => Box::new(move |inputs| plan.run(inputs).map_err(|e| e.to_string())),
            Err(error) => return refused(error),
        },
        Kind::Packaged => match slsml_import::import(&model, &Options::default()) {
            Ok(packaged) => {
                Box::new(move |inputs| packaged.model.run(inputs).map_err(|e| e.to_string()))
            }
            Err(error) => return refused(error),
        },
    };
    let sets = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sets: Vec<PathBuf> =
        sets.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    sets.sort();
    for set in sets {
        let (inputs, expected) = match (tensors(&set, "input"), tensors(&set, "output")) {
            (Ok(inputs), Ok(expected)) => (inputs, expected),
            (Err(why), _) | (_, Err(why)) => {
                return Outcome::Refused(format!("no request can carry its data: {why}"));
            }
        };
        match run(inputs) {
            Err(why) => return Outcome::Refused(why),
            Ok(given) if given.len() < expected.len() => {
                return Outcome::Wrong("outputs are missing".into());
            }
            Ok(given) => {
                for (index, (expected, given)) in expected.iter().zip(&given).enumerate() {
                    if let Err(why) = alike(expected, given) {
                        return Outcome::Wrong(format!("output {index}: {why}"));
                    }
                }
            }
        }
    }
    Outcome::Passed
}

/// The tensors of a set, in order.
fn tensors(set: &Path, kind: &str) -> Result<Vec<Tensor>, String> {
    let mut tensors = Vec::new();
    while let Ok(file) = std::fs::File::open(set.join(format!("{kind}_{}.pb", tensors.len()))) {
        let read = || {
            let proto = tract_onnx::tensor::proto_from_reader(file)?;
            let provider = tract_onnx::data_resolver::MmapDataResolver;
            let tensor = tract_onnx::tensor::load_tensor(&provider, &proto, None)?;
            Tensor::from_tract(&tensor)
        };
        tensors.push(read().map_err(|error: tract_onnx::prelude::TractError| error.to_string())?);
    }
    Ok(tensors)
}

fn alike(expected: &Tensor, given: &Tensor) -> Result<(), String> {
    if expected.shape() != given.shape() {
        return Err(format!("shape {:?}, not {:?}", given.shape(), expected.shape()));
    }
    match (numbers(expected.data()), numbers(given.data())) {
        (Some(expected), Some(given)) => {
            for (expected, given) in expected.iter().zip(&given) {
                let same = expected == given || expected.is_nan() && given.is_nan();
                let near = (expected - given).abs() <= ABSOLUTE + RELATIVE * expected.abs();
                if !same && !near {
                    return Err(format!("{given}, not {expected}"));
                }
            }
            Ok(())
        }
        _ if expected.data() == given.data() => Ok(()),
        _ => Err("another text".into()),
    }
}

fn numbers(data: &Data) -> Option<Vec<f64>> {
    macro_rules! floats {
        ($all:expr) => {
            $all.iter().map(|value| f64::from(*value)).collect()
        };
    }
    Some(match data {
        Data::Bool(all) => floats!(all),
        Data::Uint8(all) => floats!(all),
        Data::Uint16(all) => floats!(all),
        Data::Uint32(all) => floats!(all),
        Data::Uint64(all) => all.iter().map(|value| *value as f64).collect(),
        Data::Int8(all) => floats!(all),
        Data::Int16(all) => floats!(all),
        Data::Int32(all) => floats!(all),
        Data::Int64(all) => all.iter().map(|value| *value as f64).collect(),
        Data::Fp16(all) => floats!(all),
        Data::Fp32(all) => floats!(all),
        Data::Fp64(all) => all.clone(),
        Data::Bytes(_) => return None,
    })
}
