//! Inputs made up from a signature, the same on every machine.

use half::f16;
use slsml_model::{Data, Datatype, Dim, Signature, Tensor, TensorSpec};

/// More elements than this are not made up for one input.
const MAX_ELEMENTS: usize = 1 << 24;

/// Lengths tried for dimensions that have none.
const LENGTHS: [usize; 2] = [1, 3];

/// Samples that fit a signature: floats around zero and floats from 0 to 1, small integers, and
/// two lengths of the dimensions that have none.
pub(crate) fn generate(signature: &Signature) -> Vec<Vec<Tensor>> {
    let open = signature.inputs.iter().flat_map(|spec| &spec.shape);
    let is_open = open.clone().any(|dim| matches!(dim, Dim::Named(_)));
    let lengths = if is_open { &LENGTHS[..] } else { &LENGTHS[..1] };
    let mut random = Random(1);
    let mut samples = Vec::new();
    for (length, lowest) in lengths.iter().flat_map(|length| [(*length, -1.0), (*length, 0.0)]) {
        let inputs = signature.inputs.iter().map(|spec| tensor(spec, length, lowest, &mut random));
        samples.extend(inputs.collect::<Option<Vec<Tensor>>>());
    }
    samples
}

fn tensor(spec: &TensorSpec, length: usize, lowest: f64, random: &mut Random) -> Option<Tensor> {
    let dim = |dim: &Dim| if let Dim::Fixed(length) = dim { *length } else { length };
    let shape: Vec<usize> = spec.shape.iter().map(dim).collect();
    let volume = shape.iter().try_fold(1usize, |all, length| all.checked_mul(*length));
    let volume = volume.filter(|volume| *volume <= MAX_ELEMENTS)?;
    let mut float = || lowest + random.unit() * (1.0 - lowest);
    let floats: Vec<f64> = (0..volume).map(|_| float()).collect();
    // 0 or 1: an index into anything, a class, a flag.
    let mut small = || u8::from(random.unit() < 0.5);
    macro_rules! ints {
        ($variant:ident, $ty:ty) => {
            Data::$variant((0..volume).map(|_| <$ty>::from(small())).collect())
        };
    }
    let data = match spec.datatype {
        Datatype::Bool => Data::Bool((0..volume).map(|_| small() == 1).collect()),
        Datatype::Uint8 => ints!(Uint8, u8),
        Datatype::Uint16 => ints!(Uint16, u16),
        Datatype::Uint32 => ints!(Uint32, u32),
        Datatype::Uint64 => ints!(Uint64, u64),
        Datatype::Int8 => Data::Int8((0..volume).map(|_| small() as i8).collect()),
        Datatype::Int16 => ints!(Int16, i16),
        Datatype::Int32 => ints!(Int32, i32),
        Datatype::Int64 => ints!(Int64, i64),
        Datatype::Fp16 => Data::Fp16(floats.iter().map(|value| f16::from_f64(*value)).collect()),
        Datatype::Fp32 => Data::Fp32(floats.iter().map(|value| *value as f32).collect()),
        Datatype::Fp64 => Data::Fp64(floats),
        Datatype::Bytes => Data::Bytes(vec!["text".into(); volume]),
    };
    Tensor::new(shape, data).ok()
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
