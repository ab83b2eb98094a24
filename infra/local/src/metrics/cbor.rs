//! The RPC v2 CBOR protocol's bodies as JSON trees and back. Times are tagged numbers there and
//! plain numbers of seconds in the tree.

use ciborium::Value as Cbor;
use serde_json::{Map, Number, Value};

/// The tag of a time in seconds since the Unix epoch.
const EPOCH: u64 = 1;

/// A body as a tree; none if it is not CBOR or holds what JSON cannot.
pub(crate) fn decode(body: &[u8]) -> Option<Value> {
    if body.is_empty() {
        return Some(Value::Object(Map::new()));
    }
    // The limit on nesting is far above any request and far below the stack.
    to_json(ciborium::de::from_reader_with_recursion_limit(body, 64).ok()?)
}

fn to_json(cbor: Cbor) -> Option<Value> {
    Some(match cbor {
        Cbor::Null => Value::Null,
        Cbor::Bool(bool) => Value::Bool(bool),
        Cbor::Text(text) => Value::String(text),
        Cbor::Integer(integer) => Value::Number(i64::try_from(integer).ok()?.into()),
        Cbor::Float(float) => Value::Number(Number::from_f64(float)?),
        Cbor::Tag(EPOCH, inner) => to_json(*inner)?,
        Cbor::Array(all) => Value::Array(all.into_iter().map(to_json).collect::<Option<_>>()?),
        Cbor::Map(pairs) => {
            let pair = |(key, value): (Cbor, Cbor)| Some((key.into_text().ok()?, to_json(value)?));
            Value::Object(pairs.into_iter().map(pair).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// A tree as a body.
pub(crate) fn encode(tree: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory cannot fail, and every tree has a form in CBOR.
    let written = ciborium::into_writer(&to_cbor("", tree), &mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

fn to_cbor(name: &str, tree: &Value) -> Cbor {
    match tree {
        Value::Null => Cbor::Null,
        Value::Bool(bool) => Cbor::Bool(*bool),
        Value::String(text) => Cbor::Text(text.clone()),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Cbor::Integer(integer.into()),
            None => Cbor::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Array(all) if name == "Timestamps" => {
            let time = |value: &Value| Cbor::Tag(EPOCH, Box::new(to_cbor("", value)));
            Cbor::Array(all.iter().map(time).collect())
        }
        // Metric values are doubles even where they are whole.
        Value::Array(all) if name == "Values" => Cbor::Array(
            all.iter().map(|value| Cbor::Float(value.as_f64().unwrap_or(f64::NAN))).collect(),
        ),
        Value::Array(all) => Cbor::Array(all.iter().map(|value| to_cbor("", value)).collect()),
        Value::Object(map) => {
            let pair =
                |(key, value): (&String, &Value)| (Cbor::Text(key.clone()), to_cbor(key, value));
            Cbor::Map(map.iter().map(pair).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trees_survive_the_way_through_cbor() {
        let tree = json!({ "Id": "a", "Values": [1.0, 2.5], "Timestamps": [5, 6], "More": [{ "x": true }] });
        assert_eq!(decode(&encode(&tree)).unwrap(), tree);
    }

    #[test]
    fn broken_bodies_are_refused() {
        for body in [&b"\xa1"[..], b"\xff", b"\xa1\x01\x02", &[0x81; 1000]] {
            assert_eq!(decode(body), None);
        }
    }
}
