//! What the server and the model say of themselves.

use serde_json::{Value, json};
use slsml_model::{Dim, Signature, TensorSpec};

/// The body of `GET /v2`.
pub(crate) fn server(extensions: &[&str]) -> Value {
    json!({ "name": "slsml", "version": env!("CARGO_PKG_VERSION"), "extensions": extensions })
}

/// The body of `GET /v2/models/NAME`. A dynamic dimension is -1.
pub(crate) fn model(name: &str, version: &str, signature: &Signature) -> Value {
    json!({
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxv1",
        "inputs": signature.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": signature.outputs.iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn tensor(spec: &TensorSpec) -> Value {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(length) => json!(length),
        Dim::Named(_) => json!(-1),
    };
    let shape: Vec<Value> = spec.shape.iter().map(dim).collect();
    json!({ "name": spec.name, "datatype": spec.datatype, "shape": shape })
}
