//! What the server and the model say of themselves.

use serde_json::{Value, json};
use slsml_model::{Dim, Signature, TensorSpec};

/// What the server calls itself.
pub const SERVER_NAME: &str = "slsml";

/// What a model was made for, in Triton's terms.
pub const PLATFORM: &str = "onnx_onnxv1";

/// A dimension's length as metadata say it: -1 where it is free.
pub fn length(dim: &Dim) -> i64 {
    match dim {
        Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
        Dim::Named(_) => -1,
    }
}

/// The body of `GET /v2`.
pub(crate) fn server(extensions: &[&str]) -> Value {
    json!({ "name": SERVER_NAME, "version": env!("CARGO_PKG_VERSION"), "extensions": extensions })
}

/// The body of `GET /v2/models/NAME`. A dynamic dimension is -1.
pub(crate) fn model(name: &str, version: &str, signature: &Signature) -> Value {
    json!({
        "name": name,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": signature.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": signature.outputs.iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn tensor(spec: &TensorSpec) -> Value {
    let shape: Vec<i64> = spec.shape.iter().map(length).collect();
    json!({ "name": spec.name, "datatype": spec.datatype, "shape": shape })
}
