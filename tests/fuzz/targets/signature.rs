//! A model that takes one input of each kind of element.

use slsml_inference::{InferRequest, Limits};
use slsml_model::{Datatype, Dim, Signature, TensorSpec};

/// Small enough that a request that is read costs little.
pub const LIMITS: Limits = Limits { body_bytes: 1 << 20, elements: 1 << 16 };

/// What a request that was read must be.
pub fn check(request: &InferRequest) {
    assert_eq!(request.inputs.len(), signature().inputs.len());
    for tensor in &request.inputs {
        assert_eq!(tensor.data().len(), tensor.shape().iter().product::<usize>());
    }
}

/// One input of each kind of element.
pub fn signature() -> Signature {
    let spec = |name: &str, datatype| TensorSpec {
        name: name.into(),
        datatype,
        shape: vec![Dim::Named("n".into()), Dim::Fixed(2)],
    };
    Signature {
        inputs: vec![
            spec("floats", Datatype::Fp32),
            spec("halves", Datatype::Fp16),
            spec("integers", Datatype::Int64),
            spec("bytes", Datatype::Uint8),
            spec("flags", Datatype::Bool),
            spec("texts", Datatype::Bytes),
        ],
        outputs: vec![spec("out", Datatype::Fp32)],
    }
}
