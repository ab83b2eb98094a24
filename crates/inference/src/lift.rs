//! The bulk of a request is flat arrays of numbers. They are lifted out of its text and read here,
//! faster than by a general parser, which then reads the little that is left. Whatever is
//! unusual is left to the general parser altogether.

use slsml_model::{Data, Datatype, Signature, TensorSpec};

use crate::Limits;
use crate::numbers::Element;

/// A longer number is left to the general parser; so many digits always fit 64 bits.
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
    let largest = signature.inputs.iter().map(TensorSpec::least_elements).max();
    let reserve = largest.unwrap_or_default().min(limits.elements);
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
        let after = value + 1;
        let (data, length) = data(datatype, &body[after..], reserve, limits.elements)?;
        rest.extend_from_slice(&body[copied..value]);
        rest.extend_from_slice(arrays.len().to_string().as_bytes());
        arrays.push(Some(data));
        at = after + length;
        copied = at;
    }
    rest.extend_from_slice(&body[copied..]);
    (!arrays.is_empty()).then_some((rest, arrays))
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

/// An array of a datatype, after its opening bracket, and where it ends.
fn data(datatype: Datatype, text: &[u8], reserve: usize, most: usize) -> Option<(Data, usize)> {
    fn read<T: Element>(
        kind: fn(Vec<T>) -> Data,
        text: &[u8],
        reserve: usize,
        most: usize,
    ) -> Option<(Data, usize)> {
        array(text, reserve, most).map(|(elements, end)| (kind(elements), end))
    }
    match datatype {
        Datatype::Uint8 => read(Data::Uint8, text, reserve, most),
        Datatype::Uint16 => read(Data::Uint16, text, reserve, most),
        Datatype::Uint32 => read(Data::Uint32, text, reserve, most),
        Datatype::Uint64 => read(Data::Uint64, text, reserve, most),
        Datatype::Int8 => read(Data::Int8, text, reserve, most),
        Datatype::Int16 => read(Data::Int16, text, reserve, most),
        Datatype::Int32 => read(Data::Int32, text, reserve, most),
        Datatype::Int64 => read(Data::Int64, text, reserve, most),
        Datatype::Fp32 => read(Data::Fp32, text, reserve, most),
        Datatype::Fp64 => read(Data::Fp64, text, reserve, most),
        Datatype::Fp16 | Datatype::Bool | Datatype::Bytes => None,
    }
}

/// The elements up to the closing bracket, no more than `most`, and where it ends.
fn array<T: Element>(text: &[u8], reserve: usize, most: usize) -> Option<(Vec<T>, usize)> {
    // Two bytes are the least an element takes.
    let mut all = Vec::with_capacity(reserve.min(text.len() / 2 + 1));
    let mut at = 0;
    loop {
        let (number, end) = number::<T>(text, after_space(text, at))?;
        let element = match number {
            Number::Natural(value) => T::from_u64(value),
            Number::Negative(value) => T::from_i64(value),
            Number::Float(value) => T::from_float(value),
        };
        if all.len() == most {
            return None;
        }
        all.push(element?);
        let end = after_space(text, end);
        at = end + 1;
        match text.get(end)? {
            b',' => {}
            b']' => return Some((all, at)),
            _ => return None,
        }
    }
}

/// Up to this, whole numbers are exact as floats, and so is their quotient by an exact power of ten.
const EXACT: u64 = 1 << 53;

/// A number, and where it ends.
#[inline(always)]
fn number<T: Element>(text: &[u8], start: usize) -> Option<(Number, usize)> {
    let is_negative = text.get(start) == Some(&b'-');
    let whole = start + usize::from(is_negative);
    let (mut value, point) = digits(text, whole, 0)?;
    if text[whole] == b'0' && point > whole + 1 {
        return None;
    }
    let (mut decimals, mut end) = (None, point);
    if text.get(point) == Some(&b'.') {
        (value, end) = digits(text, point + 1, value)?;
        decimals = Some(end - point - 1);
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        return with_exponent(text, start, end);
    }
    if T::IS_DOUBLE && decimals.is_some() && value > EXACT {
        return float(text, start, end);
    }
    if end - whole > MOST_DIGITS {
        return None;
    }
    let sign = if is_negative { -1.0 } else { 1.0 };
    let number = match decimals {
        Some(decimals) => Number::Float(sign * (value as f64) / POWERS[decimals]),
        None if !is_negative => Number::Natural(value),
        // A zero has a sign among floats only.
        None if value == 0 => Number::Float(-0.0),
        None => Number::Negative(-i64::try_from(value).ok()?),
    };
    Some((number, end))
}

/// The digits that come next, at least one, after those in `value`; and where they end. The value is
/// meaningful if they are few.
#[inline(always)]
fn digits(text: &[u8], start: usize, mut value: u64) -> Option<(u64, usize)> {
    let mut at = start;
    while let Some(digit) =
        text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
    {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (at > start).then_some((value, at))
}

/// A number from `start` whose exponent begins at `mark`.
#[cold]
fn with_exponent(text: &[u8], start: usize, mark: usize) -> Option<(Number, usize)> {
    let sign = usize::from(matches!(text.get(mark + 1), Some(b'+' | b'-')));
    let (_, end) = digits(text, mark + 1 + sign, 0)?;
    float(text, start, end)
}

/// A number as the standard library reads it.
fn float(text: &[u8], start: usize, end: usize) -> Option<(Number, usize)> {
    let number = std::str::from_utf8(&text[start..end]).ok()?;
    number.parse().ok().map(|number| (Number::Float(number), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(text: &str) -> Option<Vec<f64>> {
        let (numbers, end) = array(text.as_bytes(), 0, 100)?;
        assert_eq!(end, text.len(), "the array's end");
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
            "-3.9326297813416478",
            "0.12345679104328156",
            "12345678901234567.8",
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
