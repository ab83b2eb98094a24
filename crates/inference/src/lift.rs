//! The bulk of a request is flat arrays of numbers. They are lifted out of its text and read here, at
//! three times the speed of a general parser, which then reads the little that is left. Whatever is
//! unusual is left to the general parser altogether.

use slsml_model::{Data, Datatype, Dim, Signature};

use crate::Limits;
use crate::numbers::Element;

/// A number with more digits is left to the general parser; so many always fit 64 bits.
const MOST_DIGITS: usize = 18;

/// Powers of ten that are exact, as far as a number of [`MOST_DIGITS`] needs them.
const POWERS: [f64; MOST_DIGITS + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18,
];

const KEY: &[u8] = b"\"data\"";

/// The request with each array under a key `data` replaced by its place among the arrays, if all
/// inputs of the signature have one type and every array holds only numbers that fit it.
pub(crate) fn lift(
    body: &[u8],
    signature: &Signature,
    limits: &Limits,
) -> Option<(Vec<u8>, Vec<Option<Data>>)> {
    let datatype = signature.inputs.first()?.datatype;
    if signature.inputs.iter().any(|input| input.datatype != datatype) {
        return None;
    }
    let reserve = most_elements(signature).min(limits.elements);
    let (mut rest, mut arrays) = (Vec::new(), Vec::new());
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = body[at..].windows(KEY.len()).position(|bytes| bytes == KEY) {
        let key = at + found;
        // Part of a longer string: a quote inside it is written `\"`.
        if key > 0 && body[key - 1] == b'\\' {
            return None;
        }
        at = after_space(body, key + KEY.len());
        if body.get(at) != Some(&b':') {
            continue; // a text, as the name of an input
        }
        let value = after_space(body, at + 1);
        if body.get(value) != Some(&b'[') {
            return None;
        }
        let mut text = Text { bytes: body, at: value + 1 };
        let data = text.data(datatype, reserve, limits.elements)?;
        rest.extend_from_slice(&body[copied..value]);
        rest.extend_from_slice(arrays.len().to_string().as_bytes());
        arrays.push(Some(data));
        at = text.at;
        copied = at;
    }
    rest.extend_from_slice(&body[copied..]);
    (!arrays.is_empty()).then_some((rest, arrays))
}

/// How many elements the largest input has, named dimensions one long.
fn most_elements(signature: &Signature) -> usize {
    let length = |dim: &Dim| match dim {
        Dim::Fixed(length) => *length,
        Dim::Named(_) => 1,
    };
    let elements = signature
        .inputs
        .iter()
        .map(|input| input.shape.iter().map(length).fold(1, usize::saturating_mul));
    elements.max().unwrap_or(1)
}

fn after_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// A number as JSON has them.
enum Number {
    Natural(u64),
    Negative(i64),
    Float(f64),
}

/// A place in a text.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    /// An array of a datatype, after its opening bracket.
    fn data(&mut self, datatype: Datatype, reserve: usize, most: usize) -> Option<Data> {
        Some(match datatype {
            Datatype::Uint8 => Data::Uint8(self.array(reserve, most)?),
            Datatype::Uint16 => Data::Uint16(self.array(reserve, most)?),
            Datatype::Uint32 => Data::Uint32(self.array(reserve, most)?),
            Datatype::Uint64 => Data::Uint64(self.array(reserve, most)?),
            Datatype::Int8 => Data::Int8(self.array(reserve, most)?),
            Datatype::Int16 => Data::Int16(self.array(reserve, most)?),
            Datatype::Int32 => Data::Int32(self.array(reserve, most)?),
            Datatype::Int64 => Data::Int64(self.array(reserve, most)?),
            Datatype::Fp32 => Data::Fp32(self.array(reserve, most)?),
            Datatype::Fp64 => Data::Fp64(self.array(reserve, most)?),
            Datatype::Fp16 | Datatype::Bool | Datatype::Bytes => return None,
        })
    }

    fn array<T: Element>(&mut self, reserve: usize, most: usize) -> Option<Vec<T>> {
        // Two bytes are the least an element takes.
        let mut all = Vec::with_capacity(reserve.min((self.bytes.len() - self.at) / 2 + 1));
        loop {
            self.at = after_space(self.bytes, self.at);
            let element = match self.number()? {
                Number::Natural(value) => T::from_u64(value),
                Number::Negative(value) => T::from_i64(value),
                Number::Float(value) => T::from_float(value),
            };
            if all.len() == most {
                return None;
            }
            all.push(element?);
            self.at = after_space(self.bytes, self.at);
            self.at += 1;
            match self.bytes.get(self.at - 1)? {
                b',' => {}
                b']' => return Some(all),
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<Number> {
        let start = self.at;
        let is_negative = self.bytes.get(self.at) == Some(&b'-');
        self.at += usize::from(is_negative);
        let mut digits = 0;
        let whole = self.digits(&mut digits)?;
        if whole > 1 && self.bytes[self.at - whole] == b'0' {
            return None;
        }
        let mut decimals = None;
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            decimals = Some(self.digits(&mut digits)?);
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            return self.with_exponent(start);
        }
        if whole + decimals.unwrap_or_default() > MOST_DIGITS {
            return None;
        }
        let sign = if is_negative { -1.0 } else { 1.0 };
        Some(match decimals {
            Some(decimals) => Number::Float(sign * (digits as f64) / POWERS[decimals]),
            None if !is_negative => Number::Natural(digits),
            // A zero has a sign among floats only.
            None if digits == 0 => Number::Float(-0.0),
            None => Number::Negative(-i64::try_from(digits).ok()?),
        })
    }

    /// How many digits come next; at least one. Their value is meaningful if they are few.
    fn digits(&mut self, value: &mut u64) -> Option<usize> {
        let start = self.at;
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            *value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        (self.at > start).then(|| self.at - start)
    }

    /// A number that began at `start` and whose exponent comes next.
    fn with_exponent(&mut self, start: usize) -> Option<Number> {
        self.at += 1;
        self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
        self.digits(&mut 0)?;
        let text = std::str::from_utf8(self.bytes.get(start..self.at)?).ok()?;
        text.parse().ok().map(Number::Float)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(text: &str) -> Option<Vec<f64>> {
        let mut text = Text { bytes: text.as_bytes(), at: 0 };
        let numbers = text.array(0, 100)?;
        assert_eq!(text.at, text.bytes.len(), "the array's end");
        Some(numbers)
    }

    #[test]
    fn numbers_are_read_as_rust_reads_them() {
        let texts = [
            "0",
            "-0",
            "0.0",
            "-0.0",
            "1",
            "-1",
            "12.5",
            "0.1",
            "0.3",
            "123456.789e3",
            "1e5",
            "1E+5",
            "1e-5",
            "-2.5e-3",
            "0.000000000000001",
            "3.4028234e38",
            "1e-320",
            "999999999999999999",
        ];
        for text in texts {
            let expected: f64 = text.parse().unwrap_or(f64::NAN);
            let read = floats(&format!("{text}]")).map(|numbers| numbers[0].to_bits());
            assert_eq!(read, Some(expected.to_bits()), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_of_json_is_left_alone() {
        let texts = [
            "",
            "]",
            ",",
            "1,]",
            ",1]",
            "01]",
            "-]",
            "1.]",
            ".5]",
            "+1]",
            "1e]",
            "1e+]",
            "0x1]",
            "NaN]",
            "null]",
            "1 2]",
            "[1]]",
            "\"1\"]",
            "1",
            "1e999]",
            "1234567890123456789]",
        ];
        for text in texts {
            assert_eq!(floats(text), None, "{text}");
        }
    }

    #[test]
    fn space_may_stand_around_numbers() {
        assert_eq!(floats(" 1 ,\n\t2.5\r, -3 ]"), Some(vec![1.0, 2.5, -3.0]));
    }
}
