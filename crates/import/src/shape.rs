//! Dimensions the user fixes before the graph is analysed.
//!
//! The override is written into the file's own description of its inputs, and what the file
//! claims about everything in between is dropped: exporters state output and intermediate shapes
//! that contradict a fixed input, and tract would believe them.

use std::path::Path;
use std::str::FromStr;

use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{ModelProto, TensorShapeProto, ValueInfoProto, type_proto};

use crate::ImportError;

/// All lengths of one input: `input=1x3x224x224`. A length left empty or `?` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeOverride {
    /// The input's name.
    pub input: String,
    /// The length of each dimension; `None` leaves it as it is.
    pub dims: Vec<Option<usize>>,
}

/// One named dimension: `batch=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimOverride {
    /// The dimension's name in the file.
    pub name: String,
    /// Its length.
    pub length: usize,
}

/// Everything the user fixed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    /// From `--shape`.
    pub shapes: Vec<ShapeOverride>,
    /// From `--dim`.
    pub dims: Vec<DimOverride>,
}

fn length(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a length of 1 or more")),
        Ok(length) => Ok(length),
    }
}

fn name_and_value<'a>(text: &'a str, example: &str) -> Result<(&'a str, &'a str), String> {
    match text.rsplit_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name, value)),
        _ => Err(format!("`{text}` is not of the form {example}")),
    }
}

impl FromStr for ShapeOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (input, dims) = name_and_value(text, "NAME=1x3x224x224")?;
        let dim = |text| if text == "?" { Ok(None) } else { length(text).map(Some) };
        let dims = dims.split('x').map(dim).collect::<Result<_, _>>()?;
        Ok(Self { input: input.into(), dims })
    }
}

impl FromStr for DimOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = name_and_value(text, "NAME=1")?;
        Ok(Self { name: name.into(), length: length(value)? })
    }
}

impl Shapes {
    /// Writes the overrides into the file's inputs.
    pub(crate) fn apply(&self, path: &Path, onnx: &mut ModelProto) -> Result<(), ImportError> {
        let Some(graph) = &mut onnx.graph else { return Ok(()) };
        for wanted in &self.shapes {
            let known = graph.input.iter().map(|input| format!("`{}`", input.name));
            let known = known.collect::<Vec<_>>().join(", ");
            let input = graph.input.iter_mut().find(|input| input.name == wanted.input);
            let input = input.ok_or_else(|| ImportError::UnknownInput {
                path: path.to_owned(),
                input: wanted.input.clone(),
                known,
            })?;
            fix_input(path, input, &wanted.dims)?;
        }
        for wanted in &self.dims {
            let mut known = Vec::new();
            let mut found = false;
            for dim in graph.input.iter_mut().filter_map(shape_mut).flat_map(|shape| &mut shape.dim)
            {
                match &dim.value {
                    Some(Value::DimParam(name)) if *name == wanted.name => {
                        dim.value = Some(Value::DimValue(wanted.length as i64));
                        found = true;
                    }
                    Some(Value::DimParam(name)) => known.push(format!("`{name}`")),
                    _ => {}
                }
            }
            if !found {
                known.dedup();
                return Err(ImportError::UnknownDim {
                    path: path.to_owned(),
                    dim: wanted.name.clone(),
                    known: if known.is_empty() { "no named ones".into() } else { known.join(", ") },
                });
            }
        }
        if !self.shapes.is_empty() || !self.dims.is_empty() {
            graph.value_info.clear();
        }
        Ok(())
    }
}

fn fix_input(
    path: &Path,
    input: &mut ValueInfoProto,
    dims: &[Option<usize>],
) -> Result<(), ImportError> {
    let name = input.name.clone();
    let Some(shape) = shape_mut(input) else { return Ok(()) };
    if shape.dim.is_empty() {
        shape.dim = vec![Default::default(); dims.len()];
    }
    if shape.dim.len() != dims.len() {
        return Err(ImportError::Rank {
            path: path.to_owned(),
            input: name,
            has: shape.dim.len(),
            given: dims.len(),
        });
    }
    for (axis, (dim, given)) in shape.dim.iter_mut().zip(dims).enumerate() {
        let Some(given) = *given else { continue };
        if let Some(Value::DimValue(fixed)) = dim.value
            && fixed > 0
            && fixed as usize != given
        {
            return Err(ImportError::FixedDim {
                path: path.to_owned(),
                input: name,
                axis,
                fixed: fixed as usize,
                given,
            });
        }
        dim.value = Some(Value::DimValue(given as i64));
    }
    Ok(())
}

fn shape_mut(input: &mut ValueInfoProto) -> Option<&mut TensorShapeProto> {
    let type_proto::Value::TensorType(tensor) = input.r#type.as_mut()?.value.as_mut()?;
    Some(tensor.shape.get_or_insert_with(TensorShapeProto::default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_dims_are_read_as_written() {
        let shape: ShapeOverride = "images:0=1x3x?x224".parse().unwrap();
        assert_eq!(shape.input, "images:0");
        assert_eq!(shape.dims, [Some(1), Some(3), None, Some(224)]);
        let dim: DimOverride = "batch=8".parse().unwrap();
        assert_eq!((dim.name.as_str(), dim.length), ("batch", 8));
    }

    #[test]
    fn malformed_shapes_say_what_is_wrong() {
        for text in ["images", "images=", "=1x2", "images=1x0", "images=1xx2", "images=-1", "i=axb"]
        {
            assert!(text.parse::<ShapeOverride>().is_err(), "{text}");
        }
        assert_eq!("b=0".parse::<DimOverride>().unwrap_err(), "`0` is not a length of 1 or more");
    }
}
