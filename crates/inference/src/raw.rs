//! Tensors as bytes: elements one after the other, little-endian; of BYTES each with its length
//! before it, as 32 bits.

use half::f16;
use slsml_model::{Data, Datatype};

use crate::ProtocolError;

fn bad(message: String) -> ProtocolError {
    ProtocolError::BadRequest(message)
}

/// How many bytes an element has; none where that differs.
fn width(datatype: Datatype) -> Option<usize> {
    Some(match datatype {
        Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => 1,
        Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 => 2,
        Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => 4,
        Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => 8,
        Datatype::Bytes => return None,
    })
}

/// So many elements of a type; there have to be as many bytes as they take, and no more.
pub fn read(bytes: &[u8], datatype: Datatype, volume: usize) -> Result<Data, ProtocolError> {
    let Some(width) = width(datatype) else { return texts(bytes, volume).map(Data::Bytes) };
    if volume.checked_mul(width) != Some(bytes.len()) {
        return Err(bad(format!(
            "it has {} bytes, {volume} elements of {datatype} have {}",
            bytes.len(),
            volume.saturating_mul(width)
        )));
    }
    Ok(match datatype {
        Datatype::Bool => Data::Bool(bools(bytes)?),
        Datatype::Uint8 => Data::Uint8(bytes.to_vec()),
        Datatype::Uint16 => Data::Uint16(each(bytes, u16::from_le_bytes)),
        Datatype::Uint32 => Data::Uint32(each(bytes, u32::from_le_bytes)),
        Datatype::Uint64 => Data::Uint64(each(bytes, u64::from_le_bytes)),
        Datatype::Int8 => Data::Int8(each(bytes, i8::from_le_bytes)),
        Datatype::Int16 => Data::Int16(each(bytes, i16::from_le_bytes)),
        Datatype::Int32 => Data::Int32(each(bytes, i32::from_le_bytes)),
        Datatype::Int64 => Data::Int64(each(bytes, i64::from_le_bytes)),
        Datatype::Fp16 => Data::Fp16(each(bytes, f16::from_le_bytes)),
        Datatype::Fp32 => Data::Fp32(each(bytes, f32::from_le_bytes)),
        Datatype::Fp64 => Data::Fp64(each(bytes, f64::from_le_bytes)),
        Datatype::Bytes => unreachable!("texts have no width"),
    })
}

fn each<T, const N: usize>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|chunk| from(*chunk)).collect()
}

fn bools(bytes: &[u8]) -> Result<Vec<bool>, ProtocolError> {
    let read = |byte: &u8| match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(bad(format!("a BOOL is 0 or 1, not {other}"))),
    };
    bytes.iter().map(read).collect()
}

fn texts(mut bytes: &[u8], volume: usize) -> Result<Vec<String>, ProtocolError> {
    // Each takes four bytes at least, so a lying shape reserves nothing large.
    let mut texts = Vec::with_capacity(volume.min(bytes.len() / 4));
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if texts.len() == volume || rest.len() < length {
            break;
        }
        let (text, rest) = rest.split_at(length);
        let text = std::str::from_utf8(text)
            .map_err(|_| bad(format!("element {} of BYTES is not UTF-8", texts.len())))?;
        texts.push(text.to_owned());
        bytes = rest;
    }
    match (texts.len() == volume, bytes.len()) {
        (true, 0) => Ok(texts),
        (true, more) => Err(bad(format!("{more} bytes follow its {volume} elements of BYTES"))),
        (false, _) => Err(bad(format!(
            "it ends within element {} of its {volume} elements of BYTES",
            texts.len()
        ))),
    }
}

/// Appends a tensor's elements.
pub fn write(data: &Data, to: &mut Vec<u8>) {
    fn all<T: Copy, const N: usize>(values: &[T], to: &mut Vec<u8>, bytes: fn(T) -> [u8; N]) {
        to.reserve(values.len() * N);
        values.iter().for_each(|value| to.extend_from_slice(&bytes(*value)));
    }
    match data {
        Data::Bool(values) => all(values, to, |value| [u8::from(value)]),
        Data::Uint8(values) => to.extend_from_slice(values),
        Data::Uint16(values) => all(values, to, u16::to_le_bytes),
        Data::Uint32(values) => all(values, to, u32::to_le_bytes),
        Data::Uint64(values) => all(values, to, u64::to_le_bytes),
        Data::Int8(values) => all(values, to, i8::to_le_bytes),
        Data::Int16(values) => all(values, to, i16::to_le_bytes),
        Data::Int32(values) => all(values, to, i32::to_le_bytes),
        Data::Int64(values) => all(values, to, i64::to_le_bytes),
        Data::Fp16(values) => all(values, to, f16::to_le_bytes),
        Data::Fp32(values) => all(values, to, f32::to_le_bytes),
        Data::Fp64(values) => all(values, to, f64::to_le_bytes),
        Data::Bytes(values) => {
            for value in values {
                // A tensor's text that is longer than this cannot have been made here.
                let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
                to.extend_from_slice(&length.to_le_bytes());
                to.extend_from_slice(&value.as_bytes()[..length as usize]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn again(data: &Data) -> Data {
        let mut bytes = Vec::new();
        write(data, &mut bytes);
        read(&bytes, data.datatype(), data.len()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            floats in proptest::collection::vec(proptest::num::f32::NORMAL, 0..20),
            longs in proptest::collection::vec(proptest::num::i64::ANY, 0..20),
            bools in proptest::collection::vec(proptest::bool::ANY, 0..20),
            texts in proptest::collection::vec(".{0,9}", 0..9),
        ) {
            for data in [Data::Fp32(floats), Data::Int64(longs), Data::Bool(bools), Data::Bytes(texts)] {
                prop_assert_eq!(again(&data), data);
            }
        }

        #[test]
        fn hostile_bytes_are_refused_or_read(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64), volume in 0usize..20,
        ) {
            for datatype in [Datatype::Bytes, Datatype::Bool, Datatype::Fp16, Datatype::Uint32] {
                if let Ok(data) = read(&bytes, datatype, volume) {
                    prop_assert_eq!(data.len(), volume);
                }
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let table: [(&[u8], Datatype, usize, &str); 7] = [
            (&[0; 7], Datatype::Fp32, 2, "it has 7 bytes, 2 elements of FP32 have 8"),
            (&[0; 9], Datatype::Fp32, 2, "it has 9 bytes"),
            (&[0; 8], Datatype::Fp64, usize::MAX, "it has 8 bytes"),
            (&[2], Datatype::Bool, 1, "0 or 1, not 2"),
            (&[9, 0, 0, 0, 1], Datatype::Bytes, 1, "ends within element 0"),
            (&[0, 0, 0, 0, 1], Datatype::Bytes, 1, "1 bytes follow"),
            (&[1, 0, 0, 0, 0xff], Datatype::Bytes, 1, "not UTF-8"),
        ];
        for (bytes, datatype, volume, says) in table {
            let error = read(bytes, datatype, volume).unwrap_err().to_string();
            assert!(error.contains(says), "{error}, not {says}");
        }
    }
}
