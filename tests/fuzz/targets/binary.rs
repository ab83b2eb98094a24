//! Any bytes as an infer request whose tensors follow its JSON as bytes; the first two say how long the
//! JSON is.
#![no_main]

mod signature;

use libfuzzer_sys::fuzz_target;
use signature::{LIMITS, check, signature};
use slsml_inference::InferRequest;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, body)) = bytes.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length));
    if let Ok(request) = InferRequest::parse_binary(body, length, &signature(), &LIMITS) {
        check(&request);
    }
});
