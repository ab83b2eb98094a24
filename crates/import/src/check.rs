//! What is refused before tract sees the graph, so that the refusal can name its cause.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};

use crate::{ImportError, Unsupported};

/// Refuses tensors stored outside the model's folder, through `..`, absolute paths or links.
pub(crate) fn external_data(path: &Path, onnx: &ModelProto) -> Result<(), ImportError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut outcome = Ok(());
    if let Some(graph) = &onnx.graph {
        each_tensor(graph, &mut |tensor| {
            if outcome.is_ok() {
                outcome = stays_inside(path, folder, tensor);
            }
        });
    }
    outcome
}

fn stays_inside(path: &Path, folder: &Path, tensor: &TensorProto) -> Result<(), ImportError> {
    let Some(entry) = tensor.external_data.iter().find(|entry| entry.key == "location") else {
        return Ok(());
    };
    let location = Path::new(&entry.value);
    let refused = || ImportError::ExternalData {
        path: path.to_owned(),
        tensor: tensor.name.clone(),
        location: entry.value.clone(),
    };
    let plain =
        location.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(refused());
    }
    let missing = |_| ImportError::ExternalDataMissing {
        path: path.to_owned(),
        tensor: tensor.name.clone(),
        location: entry.value.clone(),
    };
    let target = folder.join(location).canonicalize().map_err(missing)?;
    let folder = folder.canonicalize().map_err(missing)?;
    if target.starts_with(folder) { Ok(()) } else { Err(refused()) }
}

fn each_tensor(graph: &GraphProto, visit: &mut dyn FnMut(&TensorProto)) {
    graph.initializer.iter().for_each(&mut *visit);
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        attribute.t.iter().chain(&attribute.tensors).for_each(&mut *visit);
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            each_tensor(graph, visit);
        }
    }
}

/// Refuses operators tract has no builder for, naming the first.
pub(crate) fn operators(path: &Path, onnx: &ModelProto) -> Result<(), ImportError> {
    let unsupported = unsupported(onnx);
    let Some(first) = unsupported.first().cloned() else { return Ok(()) };
    Err(ImportError::Operator {
        path: path.to_owned(),
        node: first.node,
        operator: first.operator,
        domain: first.domain,
        opset: first.opset,
        more: match unsupported.len() {
            1 => String::new(),
            2 => " and one other node".to_owned(),
            n => format!(" and {} other nodes", n - 1),
        },
    })
}

/// The nodes whose operator tract has no builder for.
pub(crate) fn unsupported(onnx: &ModelProto) -> Vec<Unsupported> {
    let known = tract_onnx::onnx().op_register;
    let mut unknown = Vec::new();
    if let Some(graph) = &onnx.graph {
        each_node(graph, &mut |node| {
            if !known.0.contains_key(&node.op_type) {
                unknown.push(Unsupported {
                    node: node_name(node),
                    operator: node.op_type.clone(),
                    domain: domain(&node.domain).to_owned(),
                    opset: opset(onnx, &node.domain),
                });
            }
        });
    }
    unknown
}

/// How often each operator is used.
pub(crate) fn histogram(onnx: &ModelProto) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    if let Some(graph) = &onnx.graph {
        each_node(graph, &mut |node| {
            let name = match domain(&node.domain) {
                "ai.onnx" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            };
            *counts.entry(name).or_default() += 1;
        });
    }
    counts
}

/// The operator sets a file asks for.
pub(crate) fn opsets(onnx: &ModelProto) -> BTreeMap<String, i64> {
    let imports = onnx.opset_import.iter();
    imports.map(|import| (domain(&import.domain).to_owned(), import.version)).collect()
}

fn each_node(graph: &GraphProto, visit: &mut dyn FnMut(&NodeProto)) {
    for node in &graph.node {
        visit(node);
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                each_node(graph, visit);
            }
        }
    }
}

fn node_name(node: &NodeProto) -> String {
    let output = || node.output.first().cloned().unwrap_or_default();
    if node.name.is_empty() { output() } else { node.name.clone() }
}

fn domain(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// The version of a domain the file asks for; 0 if it names none.
pub(crate) fn opset(onnx: &ModelProto, domain: &str) -> i64 {
    let plain = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    onnx.opset_import
        .iter()
        .find(|import| import.domain == domain || plain(&import.domain) && plain(domain))
        .map_or(0, |import| import.version)
}
