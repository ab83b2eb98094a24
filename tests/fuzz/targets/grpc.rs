//! Any bytes as gRPC's infer request.
#![no_main]

mod signature;

use libfuzzer_sys::fuzz_target;
use signature::{LIMITS, check, signature};

fuzz_target!(|message: &[u8]| {
    let message = message.to_vec().into();
    if let Ok(request) = slsml_server::decode_grpc(message, &signature(), &LIMITS) {
        check(&request);
    }
});
