//! A packaged model with right checksums and any content: loading ends in a model or an error,
//! within bounded memory and time. The corpus is packaged models as they are.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use slsml_model::Model;
use slsml_model::container::Sections;

fuzz_target!(
    init: {
        // A panic inside tract is Model's to catch; libfuzzer would take it for a crash.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |bytes: &[u8]| {
        if let Some(sections) = Sections::of(bytes) {
            let _model_or_error = Model::from_bytes(&sections.seal(), Path::new("fuzzed"));
        }
    }
);
