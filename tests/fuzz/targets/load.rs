//! A packaged model with right checksums and any content: loading ends in a model or an error,
//! within bounded memory and time. The corpus is packaged models as they are.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use slsml_model::Model;
use slsml_model::container::FORMAT_VERSION;
use xxhash_rust::xxh3::Xxh3;

/// The head: magic, version, lengths of header, plan and weights, two checksums
/// (`slsml_model::container`).
const HEAD: usize = 48;

fuzz_target!(
    init: {
        // A panic inside tract is Model's to catch; libfuzzer would take it for a crash.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |bytes: &[u8]| {
        if let Some(bytes) = mended(bytes) {
            let _model_or_error = Model::from_bytes(&bytes, Path::new("fuzzed"));
        }
    }
);

/// The bytes with lengths that fit and checksums that are right.
fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let header = (u32::from_le_bytes(head[12..16].try_into().ok()?) as usize).min(rest.len());
    let (header, rest) = rest.split_at(header);
    let plan = usize::try_from(u64::from_le_bytes(head[16..24].try_into().ok()?)).ok()?;
    let (plan, weights) = rest.split_at(plan.min(rest.len()));
    let mut whole = b"SLSMLPM\0".to_vec();
    whole.extend(FORMAT_VERSION.to_le_bytes());
    whole.extend((header.len() as u32).to_le_bytes());
    whole.extend((plan.len() as u64).to_le_bytes());
    whole.extend((weights.len() as u64).to_le_bytes());
    let mut front = Xxh3::new();
    front.update(&whole);
    front.update(header);
    front.update(plan);
    whole.extend(front.digest().to_le_bytes());
    let mut sum = Xxh3::new();
    sum.update(weights);
    whole.extend(sum.digest().to_le_bytes());
    whole.extend_from_slice(header);
    whole.extend_from_slice(plan);
    whole.extend_from_slice(weights);
    Some(whole)
}
