//! Any bytes as an infer request: a request or an error, never a panic, and never elements that do
//! not fit their shape.
#![no_main]

mod signature;

use libfuzzer_sys::fuzz_target;
use signature::{LIMITS, check, signature};
use slsml_inference::InferRequest;

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = InferRequest::parse(body, &signature(), &LIMITS) {
        check(&request);
    }
});
