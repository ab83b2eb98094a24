//! tract's part: from a decoded file to a decluttered graph, and what it takes and gives.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use slsml_model::{Datatype, Dim, Plan, Signature, TensorSpec};
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{ModelProto, ValueInfoProto, type_proto};
use tract_onnx::tract_core::internal::{bail, format_err};
use tract_onnx::tract_core::prelude::*;
use tract_onnx::tract_hir::internal::DimLike;
use tract_onnx::tract_hir::prelude::InferenceModelExt;

use crate::error::chain;
use crate::{ImportError, check, foreign, settle};

/// The graph as it is stored: decluttered, and settled as far as any processor allows.
pub(crate) fn to_settled(path: &Path, onnx: &ModelProto) -> Result<TypedModel, ImportError> {
    convert(path, onnx, settled)
}

/// The graph with all types and shapes, as the file describes it.
pub(crate) fn to_typed(path: &Path, onnx: &ModelProto) -> Result<TypedModel, ImportError> {
    convert(path, onnx, Ok)
}

/// [`to_settled`] from [`to_typed`].
pub(crate) fn settle(
    path: &Path,
    onnx: &ModelProto,
    typed: TypedModel,
) -> Result<TypedModel, ImportError> {
    catch_unwind(AssertUnwindSafe(|| settled(typed)))
        .unwrap_or_else(|_| Err(format_err!("tract panicked")))
        .map_err(|error| refusal(path, onnx, &error))
}

fn settled(typed: TypedModel) -> TractResult<TypedModel> {
    let mut typed = typed.into_decluttered()?;
    foreign::replace(&mut typed)?;
    // The file's free-form metadata, which nothing that runs reads.
    typed.properties.clear();
    settle::settle(&mut typed)?;
    Ok(typed)
}

/// The graph as plain tract runs it on this machine.
pub(crate) fn plain(path: &Path, onnx: &ModelProto) -> Result<Plan, ImportError> {
    convert(path, onnx, |typed| typed.into_optimized()?.into_runnable()).map(Plan::new)
}

/// The graph as the file describes it: slow to run, but nothing in it was rewritten.
pub(crate) fn reference(path: &Path, onnx: &ModelProto) -> Result<Plan, ImportError> {
    convert(path, onnx, TypedModel::into_runnable).map(Plan::new)
}

/// Analyses the file and goes on with `then`. What the file states about output shapes is
/// ignored: it may contradict the inputs, which decide.
fn convert<T>(
    path: &Path,
    onnx: &ModelProto,
    then: impl Fn(TypedModel) -> TractResult<T>,
) -> Result<T, ImportError> {
    let folder = path.parent().and_then(Path::to_str).filter(|folder| !folder.is_empty());
    let attempt = |ignore_value_info: bool| -> TractResult<T> {
        let parsed = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_value_info(ignore_value_info)
            .parse(onnx, Some(folder.unwrap_or(".")))?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            bail!("nothing produces the tensor `{name}`");
        }
        then(parsed.model.into_typed()?)
    };
    let guarded = |ignore| {
        catch_unwind(AssertUnwindSafe(|| attempt(ignore)))
            .unwrap_or_else(|_| Err(format_err!("tract panicked")))
    };
    // Stated intermediate shapes usually help the analysis and sometimes are wrong.
    guarded(false).or_else(|_| guarded(true)).map_err(|error| refusal(path, onnx, &error))
}

fn refusal(path: &Path, onnx: &ModelProto, error: &TractError) -> ImportError {
    let open = open_dims(onnx);
    let cause = chain(error);
    if open.is_empty() {
        return ImportError::Analysis {
            path: path.to_owned(),
            opset: check::opset(onnx, ""),
            cause,
        };
    }
    let mut flags: Vec<String> = Vec::new();
    for OpenDim { flag, .. } in &open {
        if !flags.contains(flag) {
            flags.push(flag.clone());
        }
    }
    ImportError::Dynamic {
        path: path.to_owned(),
        dims: open.iter().map(|dim| dim.text.clone()).collect::<Vec<_>>().join(", "),
        flags: flags.join(" "),
        cause,
    }
}

struct OpenDim {
    text: String,
    flag: String,
}

/// The inputs' dimensions that have no length.
fn open_dims(onnx: &ModelProto) -> Vec<OpenDim> {
    let mut open = Vec::new();
    for input in inputs(onnx) {
        let Some(type_proto::Value::TensorType(tensor)) =
            input.r#type.as_ref().and_then(|kind| kind.value.as_ref())
        else {
            continue;
        };
        let dims = tensor.shape.iter().flat_map(|shape| &shape.dim);
        let example = || {
            let dim = |value: &Option<Value>| match value {
                Some(Value::DimValue(length)) if *length > 0 => length.to_string(),
                _ => "N".into(),
            };
            dims.clone().map(|d| dim(&d.value)).collect::<Vec<_>>().join("x")
        };
        for (axis, dim) in dims.clone().enumerate() {
            match &dim.value {
                Some(Value::DimValue(length)) if *length > 0 => {}
                Some(Value::DimParam(name)) => open.push(OpenDim {
                    text: format!("`{name}` of input `{}`", input.name),
                    flag: format!("--dim {name}=N"),
                }),
                _ => open.push(OpenDim {
                    text: format!("dimension {axis} of input `{}`", input.name),
                    flag: format!("--shape {}={}", input.name, example()),
                }),
            }
        }
        if tensor.shape.is_none() {
            open.push(OpenDim {
                text: format!("the rank of input `{}`", input.name),
                flag: format!("--shape {}=NxN", input.name),
            });
        }
    }
    open
}

/// Graph inputs that are not initialisers with a default.
fn inputs(onnx: &ModelProto) -> impl Iterator<Item = &ValueInfoProto> {
    onnx.graph.iter().flat_map(|graph| {
        let initialised = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
        graph.input.iter().filter(move |input| !initialised(&input.name))
    })
}

/// What the graph takes and gives, under the names of the file.
pub(crate) fn signature(
    path: &Path,
    onnx: &ModelProto,
    typed: &TypedModel,
) -> Result<Signature, ImportError> {
    let spec = |name: &str, fact: &TypedFact| -> Result<TensorSpec, ImportError> {
        let datatype =
            Datatype::from_tract(fact.datum_type).ok_or_else(|| ImportError::Datatype {
                path: path.to_owned(),
                name: name.into(),
                datatype: format!("{:?}", fact.datum_type),
            })?;
        let dim = |dim: &TDim| match dim.to_usize() {
            Ok(length) => Dim::Fixed(length),
            Err(_) => Dim::Named(dim.to_string()),
        };
        Ok(TensorSpec { name: name.into(), datatype, shape: fact.shape.iter().map(dim).collect() })
    };
    let unfit = |error: TractError| ImportError::unstorable(path, &error);
    let outputs = onnx.graph.iter().flat_map(|graph| &graph.output);
    Ok(Signature {
        inputs: inputs(onnx)
            .enumerate()
            .map(|(ix, input)| spec(&input.name, typed.input_fact(ix).map_err(unfit)?))
            .collect::<Result<_, _>>()?,
        outputs: outputs
            .enumerate()
            .map(|(ix, output)| spec(&output.name, typed.output_fact(ix).map_err(unfit)?))
            .collect::<Result<_, _>>()?,
    })
}
