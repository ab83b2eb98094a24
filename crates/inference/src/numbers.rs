//! A tensor's `data` in JSON: flat or nested arrays, row-major, read straight into typed elements.

use std::fmt;

use half::f16;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use slsml_model::{Data, Datatype};

use crate::ProtocolError;

/// The elements in `raw`, of the type asked for: flat, or nested as `shape` is. `expected` is the
/// shape's product; nothing is reserved beyond it.
pub(crate) fn read(
    raw: &RawValue,
    datatype: Datatype,
    shape: &[usize],
    expected: usize,
) -> Result<Data, ProtocolError> {
    // Two bytes are the least an element takes, so a lying shape reserves nothing large.
    let reserve = expected.min(raw.get().len() / 2 + 1);
    Elements { datatype, shape, expected, reserve }
        .deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
        .map_err(|error| ProtocolError::BadRequest(plain(&error)))
}

/// The elements of a tensor, of a known type and shape.
struct Elements<'a> {
    datatype: Datatype,
    shape: &'a [usize],
    /// The shape's product; one element more is an error.
    expected: usize,
    /// For how many to reserve memory beforehand.
    reserve: usize,
}

impl Elements<'_> {
    fn all<'de, T: Element, D: Deserializer<'de>>(&self, json: D) -> Result<Vec<T>, D::Error> {
        let mut elements = Vec::with_capacity(self.reserve);
        let (expected, shape) = (self.expected, self.shape);
        Nested { into: &mut elements, expected, shape, level: 0 }.deserialize(json)?;
        Ok(elements)
    }
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Data, D::Error> {
        Ok(match self.datatype {
            Datatype::Bool => Data::Bool(self.all(json)?),
            Datatype::Uint8 => Data::Uint8(self.all(json)?),
            Datatype::Uint16 => Data::Uint16(self.all(json)?),
            Datatype::Uint32 => Data::Uint32(self.all(json)?),
            Datatype::Uint64 => Data::Uint64(self.all(json)?),
            Datatype::Int8 => Data::Int8(self.all(json)?),
            Datatype::Int16 => Data::Int16(self.all(json)?),
            Datatype::Int32 => Data::Int32(self.all(json)?),
            Datatype::Int64 => Data::Int64(self.all(json)?),
            Datatype::Fp16 => {
                let wide: Vec<f32> = self.all(json)?;
                let narrow: Vec<f16> = wide.into_iter().map(f16::from_f32).collect();
                if !narrow.iter().all(|value| value.is_finite()) {
                    return Err(D::Error::custom("a number is too large for FP16"));
                }
                Data::Fp16(narrow)
            }
            Datatype::Fp32 => Data::Fp32(self.all(json)?),
            Datatype::Fp64 => Data::Fp64(self.all(json)?),
            Datatype::Bytes => Data::Bytes(self.all(json)?),
        })
    }
}

/// serde's message without its position, which counts from inside the value.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

/// An element type and how it may be written in JSON.
pub(crate) trait Element: Sized {
    const NAME: &'static str;
    /// Whether every digit of a double counts.
    const IS_DOUBLE: bool = false;
    fn from_u64(_: u64) -> Option<Self> {
        None
    }
    fn from_i64(_: i64) -> Option<Self> {
        None
    }
    fn from_float(_: f64) -> Option<Self> {
        None
    }
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    fn from_text(_: &str) -> Option<Self> {
        None
    }
}

macro_rules! integers {
    ($($kind:ty, $name:literal;)*) => {$(
        impl Element for $kind {
            const NAME: &'static str = $name;
            fn from_u64(value: u64) -> Option<Self> {
                value.try_into().ok()
            }
            fn from_i64(value: i64) -> Option<Self> {
                value.try_into().ok()
            }
        }
    )*};
}

integers! {
    u8, "UINT8"; u16, "UINT16"; u32, "UINT32"; u64, "UINT64";
    i8, "INT8"; i16, "INT16"; i32, "INT32"; i64, "INT64";
}

/// A number too large for its type is refused; it would silently become infinite.
fn finite<T: Into<f64> + Copy>(value: T) -> Option<T> {
    value.into().is_finite().then_some(value)
}

macro_rules! floats {
    ($($kind:ty, $name:literal;)*) => {$(
        impl Element for $kind {
            const NAME: &'static str = $name;
            const IS_DOUBLE: bool = size_of::<$kind>() == size_of::<f64>();
            fn from_u64(value: u64) -> Option<Self> {
                finite(value as $kind)
            }
            fn from_i64(value: i64) -> Option<Self> {
                finite(value as $kind)
            }
            fn from_float(value: f64) -> Option<Self> {
                finite(value as $kind)
            }
        }
    )*};
}

floats! { f32, "FP32"; f64, "FP64"; }

impl Element for bool {
    const NAME: &'static str = "BOOL";
    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Element for String {
    const NAME: &'static str = "BYTES";
    fn from_text(value: &str) -> Option<Self> {
        Some(value.to_owned())
    }
}

/// An array at one level of nesting.
struct Nested<'a, T> {
    into: &'a mut Vec<T>,
    expected: usize,
    shape: &'a [usize],
    level: usize,
}

impl<'de, T: Element> DeserializeSeed<'de> for Nested<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de, T: Element> Visitor<'de> for Nested<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {} elements", T::NAME)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { into, expected, shape, level } = self;
        let (mut leaves, mut arrays) = (0usize, 0usize);
        while let Some(item) = items.next_element_seed(Item { into, expected, shape, level })? {
            let Some(element) = item else {
                arrays += 1;
                continue;
            };
            if into.len() == expected {
                let message = format!("more elements than the {expected} its shape asks for");
                return Err(A::Error::custom(message));
            }
            into.push(element);
            leaves += 1;
        }
        let flat = level == 0 && arrays == 0;
        let leaf_level = leaves == 0 || level + 1 == shape.len();
        let fits = leaf_level && shape.get(level) == Some(&(leaves + arrays));
        if flat || fits && (leaves == 0 || arrays == 0) {
            return Ok(());
        }
        Err(A::Error::custom(format!("its nesting does not follow the shape {shape:?}")))
    }
}

/// One element, or a nested array whose elements were pushed already.
struct Item<'a, T> {
    into: &'a mut Vec<T>,
    expected: usize,
    shape: &'a [usize],
    level: usize,
}

impl<'de, T: Element> DeserializeSeed<'de> for Item<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<T>, D::Error> {
        json.deserialize_any(self)
    }
}

fn fitting<T: Element, E: Error>(
    value: Option<T>,
    given: impl fmt::Display,
) -> Result<Option<T>, E> {
    match value {
        Some(value) => Ok(Some(value)),
        None => Err(E::custom(format!("{given} is not a {}", T::NAME))),
    }
}

impl<'de, T: Element> Visitor<'de> for Item<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "elements of type {}", T::NAME)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<T>, E> {
        fitting(T::from_u64(value), value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<T>, E> {
        fitting(T::from_i64(value), value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<T>, E> {
        fitting(T::from_float(value), value)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<T>, E> {
        fitting(T::from_bool(value), value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Option<T>, E> {
        fitting(T::from_text(value), format_args!("{value:?}"))
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        fitting(None, "null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Option<T>, A::Error> {
        let Self { into, expected, shape, level } = self;
        if level + 1 >= shape.len() {
            return Err(A::Error::custom(format!("nested deeper than its shape {shape:?}")));
        }
        Nested { into, expected, shape, level: level + 1 }.visit_seq(items)?;
        Ok(None)
    }
}
