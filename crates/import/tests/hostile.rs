//! Packaged models whose checksums are right and whose content is not: whatever it says, loading
//! ends in a model or an error.
//!
//! `SLSML_FUZZ_KEEP=FILE` keeps the last attack, `SLSML_FUZZ_ROUNDS=1000000 cargo test -p slsml-import --release --test hostile` goes on longer.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use slsml_import::{Options, Shapes, import};
use slsml_model::container::Sections;
use slsml_model::{LoadError, Model};

/// Marsaglia's xorshift: the same attacks in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

fn attack(plan: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(plan.len());
        match random.below(6) {
            0 => plan[at] ^= 1 << random.below(8),
            1 => plan[at] = random.below(256) as u8,
            // Numbers are stored seven bits a byte: this makes one huge.
            2 => drop(plan.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x7f])),
            3 => drop(plan.splice(at..at, [0xff; 9].into_iter().chain([0x01]))),
            4 => plan.truncate(at.max(1)),
            _ => {
                let end = (at + random.below(16)).min(plan.len());
                let piece = plan[at..end].to_vec();
                let to = random.below(plan.len());
                drop(plan.splice(to..to, piece));
            }
        }
    }
}

fn models() -> Vec<Vec<u8>> {
    // Tests run in their package's folder.
    let checkout = Path::new("../..");
    let files = [
        ("examples/digits/models/v2.onnx", None),
        ("tests/fixtures/two_inputs.onnx", None),
        ("tests/fixtures/dynamic_reshape.onnx", Some("x=2x8")),
    ];
    let packaged = files.map(|(file, shape)| {
        let shapes = shape.iter().map(|shape| shape.parse().unwrap()).collect();
        let shapes = Shapes { shapes, ..Shapes::default() };
        let path: PathBuf = checkout.join(file);
        import(&path, &Options { shapes, ..Options::default() }).unwrap().bytes
    });
    packaged.to_vec()
}

#[test]
fn whatever_the_operators_say_loading_ends_in_a_model_or_an_error() {
    let rounds = std::env::var("SLSML_FUZZ_ROUNDS").map_or(2_000, |rounds| rounds.parse().unwrap());
    // What tract makes of nonsense may be a panic, which is caught and is an error.
    std::panic::set_hook(Box::new(|_| {}));
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut loaded, mut refused) = (0, 0);
    for bytes in models() {
        let sections = Sections::of(&bytes).unwrap();
        assert!(sections.seal() == bytes, "sealing what was taken apart gives another file");
        for round in 0..rounds {
            let mut plan = sections.plan.to_vec();
            attack(&mut plan, &mut random);
            let attacked = Sections { plan: &plan, ..sections }.seal();
            if let Some(path) = std::env::var_os("SLSML_FUZZ_KEEP") {
                std::fs::write(path, &attacked).unwrap();
            }
            let began = Instant::now();
            match Model::from_bytes(&attacked, Path::new("hostile.slsml")) {
                Ok(_) => loaded += 1,
                Err(LoadError::Graph { .. }) => refused += 1,
                Err(other) => panic!("round {round}: {other}"),
            }
            assert!(began.elapsed() < Duration::from_secs(20), "round {round} takes its time");
        }
    }
    assert!(refused > loaded, "{loaded} loaded, {refused} refused: the attacks do not bite");
}

#[test]
fn weights_that_are_no_longer_there_are_an_error() {
    for bytes in models() {
        let sections = Sections::of(&bytes).unwrap();
        if let [weights @ .., _] = sections.weights {
            let attacked = Sections { weights, ..sections }.seal();
            let error = Model::from_bytes(&attacked, Path::new("short.slsml")).unwrap_err();
            assert!(matches!(error, LoadError::Graph { .. }), "{error}");
        }
    }
}
