//! An infer request that every peer gets, byte for byte.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slsml_model::{Data, Datatype, Dim, Signature, Tensor};

use crate::Error;

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    inputs: Vec<Input>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: Vec<Value>,
}

/// Inputs that fit a signature: floats from 0 to 1 with four digits, small integers that any
/// vocabulary has. Dimensions without a length get 1.
pub(crate) fn generate(signature: &Signature) -> Result<Vec<u8>, Error> {
    generate_rows(signature, 1)
}

/// The same with so many rows, all alike, where the first dimension is free.
pub(crate) fn generate_rows(signature: &Signature, rows: usize) -> Result<Vec<u8>, Error> {
    let mut state = 1u32;
    let mut random = move || {
        // Numerical Recipes' linear congruential generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let mut inputs = Vec::new();
    for spec in &signature.inputs {
        let length = |(at, dim): (usize, &Dim)| match dim {
            Dim::Fixed(length) => *length,
            Dim::Named(_) if at == 0 => rows,
            Dim::Named(_) => 1,
        };
        let shape: Vec<usize> = spec.shape.iter().enumerate().map(length).collect();
        let mut value = || match spec.datatype {
            Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => {
                json!(f64::from(random() % 10_000) / 1e4)
            }
            Datatype::Bool => json!(random() % 2 == 1),
            Datatype::Bytes => json!("text"),
            _ => json!(random() % 2),
        };
        inputs.push(Input {
            name: spec.name.clone(),
            datatype: spec.datatype.to_string(),
            data: repeated(shape.iter().product(), rows, &mut value),
            shape,
        });
    }
    Ok(serde_json::to_vec(&Request { inputs })?)
}

/// So many values, of which each of several rows has the same if the values are theirs.
fn repeated(length: usize, rows: usize, value: impl FnMut() -> Value) -> Vec<Value> {
    let row = if length.is_multiple_of(rows) { length / rows } else { length };
    let row: Vec<Value> = std::iter::repeat_with(value).take(row).collect();
    row.iter().cycle().take(length).cloned().collect()
}

/// The inputs of a request, in its order.
pub(crate) fn tensors(request: &[u8]) -> Result<Vec<(String, Tensor)>, Error> {
    let Request { inputs } = serde_json::from_slice(request)?;
    inputs
        .into_iter()
        .map(|input| {
            let float = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
            let int = |value: &Value| value.as_i64().unwrap_or_default();
            let values = input.data.iter();
            let data = match input.datatype.as_str() {
                "FP16" => {
                    Data::Fp16(values.map(|value| half::f16::from_f64(float(value))).collect())
                }
                "FP32" => Data::Fp32(values.map(|value| float(value) as f32).collect()),
                "FP64" => Data::Fp64(values.map(float).collect()),
                "INT64" => Data::Int64(values.map(int).collect()),
                "INT32" => Data::Int32(values.map(|value| int(value) as i32).collect()),
                "INT16" => Data::Int16(values.map(|value| int(value) as i16).collect()),
                "INT8" => Data::Int8(values.map(|value| int(value) as i8).collect()),
                "UINT64" => Data::Uint64(values.map(|value| int(value) as u64).collect()),
                "UINT32" => Data::Uint32(values.map(|value| int(value) as u32).collect()),
                "UINT16" => Data::Uint16(values.map(|value| int(value) as u16).collect()),
                "UINT8" => Data::Uint8(values.map(|value| int(value) as u8).collect()),
                "BOOL" => {
                    Data::Bool(values.map(|value| value.as_bool().unwrap_or_default()).collect())
                }
                "BYTES" => Data::Bytes(
                    values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect(),
                ),
                other => return Err(format!("the benchmark has no {other} inputs yet").into()),
            };
            Ok((input.name, Tensor::new(input.shape, data)?))
        })
        .collect()
}

/// The request in the event a function URL sends.
pub(crate) fn event(request: &[u8]) -> Result<Vec<u8>, Error> {
    let path = "/v2/models/bench/infer";
    Ok(serde_json::to_vec(&json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "bench.lambda-url.local"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "bench",
            "domainName": "bench.lambda-url.local",
            "domainPrefix": "bench",
            "http": {
                "method": "POST",
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "slsml-bench",
            },
            "requestId": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1_767_225_600_000_u64,
        },
        "body": std::str::from_utf8(request)?,
        "isBase64Encoded": false,
    }))?)
}

/// The outputs in a function URL's answer, or why there are none.
pub(crate) fn outputs(answer: &[u8]) -> Result<Vec<Value>, Error> {
    let answer: Value = serde_json::from_slice(answer)?;
    let body = answer["body"].as_str().unwrap_or_default();
    if answer["statusCode"] != 200 {
        return Err(format!("answered {}: {body:.300}", answer["statusCode"]).into());
    }
    match serde_json::from_str::<Value>(body)?["outputs"].take() {
        Value::Array(outputs) if !outputs.is_empty() => Ok(outputs),
        other => Err(format!("an answer without outputs: {other}").into()),
    }
}

/// The largest difference between two answers, relative to 1 or the larger value.
pub(crate) fn difference(ours: &[Value], theirs: &[Value]) -> Result<f64, Error> {
    let numbers = |output: &Value| -> Vec<f64> {
        let data = output["data"].as_array().into_iter().flatten();
        data.filter_map(Value::as_f64).collect()
    };
    let mut largest = 0f64;
    for theirs in theirs {
        let name = &theirs["name"];
        let ours = ours.iter().find(|ours| ours["name"] == *name);
        let ours = numbers(ours.ok_or_else(|| format!("our answer lacks the output {name}"))?);
        let theirs = numbers(theirs);
        if ours.len() != theirs.len() {
            return Err(format!("{name}: {} values, not {}", ours.len(), theirs.len()).into());
        }
        for (a, b) in ours.iter().zip(&theirs) {
            largest = largest.max((a - b).abs() / a.abs().max(b.abs()).max(1.0));
        }
    }
    Ok(largest)
}
