//! Any bytes as an infer request: a request or an error, never a panic, and never elements that do
//! not fit their shape.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slsml_inference::{InferRequest, Limits};
use slsml_model::{Datatype, Dim, Signature, TensorSpec};

fuzz_target!(|body: &[u8]| {
    let signature = signature();
    let limits = Limits { body_bytes: 1 << 20, elements: 1 << 16 };
    if let Ok(request) = InferRequest::parse(body, &signature, &limits) {
        assert_eq!(request.inputs.len(), signature.inputs.len());
        for tensor in &request.inputs {
            assert_eq!(tensor.data().len(), tensor.shape().iter().product::<usize>());
        }
    }
});

/// One input of each kind of element.
fn signature() -> Signature {
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
