//! Reading infer requests: whatever comes in, the answer is a request that fits or a refusal.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use slsml_inference::{InferRequest, Limits, ProtocolError};
use slsml_model::{Data, Datatype, Dim, Signature, TensorSpec};

fn spec(name: &str, datatype: Datatype, shape: Vec<Dim>) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape }
}

fn signature() -> Signature {
    let batch = || Dim::Named("batch".into());
    Signature {
        inputs: vec![
            spec("x", Datatype::Fp32, vec![batch(), Dim::Fixed(2)]),
            spec("n", Datatype::Int64, vec![batch()]),
        ],
        outputs: vec![
            spec("y", Datatype::Fp32, vec![batch()]),
            spec("z", Datatype::Bool, vec![batch()]),
        ],
    }
}

fn parse(body: &Value) -> Result<InferRequest, ProtocolError> {
    InferRequest::parse(body.to_string().as_bytes(), &signature(), &Limits::default())
}

fn request(x: Value, n: Value) -> Value {
    let rows = n.as_array().unwrap().len();
    json!({ "inputs": [
        { "name": "n", "shape": [rows], "datatype": "INT64", "data": n },
        { "name": "x", "shape": [rows, 2], "datatype": "FP32", "data": x },
    ]})
}

fn refusal(body: &Value) -> String {
    parse(body).unwrap_err().to_string()
}

#[test]
fn inputs_are_ordered_as_the_signature_is_and_outputs_as_they_are_asked_for() {
    let mut body = request(json!([1, 2.5, 3, -4]), json!([7, 8]));
    body["id"] = json!("me");
    body["outputs"] = json!([{ "name": "z" }, { "name": "y" }]);
    let read = parse(&body).unwrap();
    assert_eq!(read.id.as_deref(), Some("me"));
    assert_eq!(read.inputs[0].data(), &Data::Fp32(vec![1.0, 2.5, 3.0, -4.0]));
    assert_eq!(read.inputs[1].data(), &Data::Int64(vec![7, 8]));
    assert_eq!(indices(&read), [1, 0]);
    assert_eq!(indices(&parse(&request(json!([1, 2]), json!([7]))).unwrap()), [0, 1]);
}

#[test]
fn a_named_dimension_is_one_length_within_a_request() {
    let mut body = request(json!([1, 2, 3, 4]), json!([7, 8]));
    body["inputs"][0]["shape"] = json!([1]);
    body["inputs"][0]["data"] = json!([7]);
    assert!(refusal(&body).contains("`batch` is 2 in this request already"), "{}", refusal(&body));
}

#[test]
fn inputs_and_outputs_go_by_their_names() {
    let good = || request(json!([1, 2]), json!([7]));
    let mut twice = good();
    let again = twice["inputs"][1].clone();
    twice["inputs"].as_array_mut().unwrap().push(again);
    assert_eq!(refusal(&twice), "input `x` is given twice");
    let mut unknown = good();
    unknown["inputs"][0]["name"] = json!("m");
    assert_eq!(refusal(&unknown), "input `n` is missing; the model takes `x`, `n`");
    let mut extra = good();
    extra["inputs"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "o", "shape": [1], "datatype": "BOOL" }));
    assert_eq!(refusal(&extra), "no input `o`; the model takes `x`, `n`");
    let mut output = good();
    output["outputs"] = json!([{ "name": "w" }]);
    assert_eq!(refusal(&output), "no output `w`; the model gives `y`, `z`");
    output["outputs"] = json!([{ "name": "y" }, { "name": "y" }]);
    assert_eq!(refusal(&output), "output `y` is asked for twice");
}

#[test]
fn elements_are_of_their_type_or_refused() {
    let table = [
        (json!([1.5]), "1.5 is not a INT64"),
        (json!([true]), "true is not a INT64"),
        (json!(["1"]), "\"1\" is not a INT64"),
        (json!([18_446_744_073_709_551_615u64]), "is not a INT64"),
        (json!([null]), "null is not a INT64"),
        (json!([{}]), "elements of type INT64"),
        (json!({}), "an array of INT64 elements"),
    ];
    for (n, expected) in table {
        let mut body = request(json!([1, 2]), json!([0]));
        body["inputs"][0]["data"] = n;
        assert!(refusal(&body).contains(expected), "{}", refusal(&body));
    }
}

#[test]
fn a_number_too_large_for_its_type_is_refused_not_made_infinite() {
    let message = refusal(&request(json!([1e39, 0]), json!([1])));
    assert!(message.contains("is not a FP32"), "{message}");
}

#[test]
fn a_refusal_does_not_echo_a_large_request() {
    let mut body = request(json!([1, 2]), json!([7]));
    body["inputs"][0]["name"] = json!("m".repeat(1_000_000));
    body["inputs"][1]["datatype"] = json!("D".repeat(1_000_000));
    assert!(parse(&body).unwrap_err().body().len() < 1_000);
}

#[test]
fn a_body_above_the_limit_is_too_large() {
    let limits = Limits { body_bytes: 10, ..Limits::default() };
    let error = InferRequest::parse(b"{\"inputs\": []}", &signature(), &limits).unwrap_err();
    assert_eq!(
        (error.status(), error.to_string()),
        (413, "the body has 14 bytes, the limit is 10".into())
    );
}

proptest! {
    #[test]
    fn flat_and_nested_data_say_the_same(rows in proptest::collection::vec((any::<i32>(), any::<i32>()), 1..20)) {
        let flat: Vec<i32> = rows.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let nested: Vec<[i32; 2]> = rows.iter().map(|(a, b)| [*a, *b]).collect();
        let n: Vec<i64> = rows.iter().map(|(a, _)| i64::from(*a)).collect();
        let one = parse(&request(json!(flat), json!(n))).unwrap();
        prop_assert_eq!(one, parse(&request(json!(nested), json!(n))).unwrap());
    }

    #[test]
    fn an_array_of_one_type_is_read_as_its_nested_form_is(
        numbers in proptest::collection::vec(any::<f32>().prop_filter("JSON", |x| x.is_finite()), 1..40),
        space in "[ \n]{0,2}",
    ) {
        let shape = vec![Dim::Fixed(1), Dim::Named("n".into())];
        let inputs = vec![spec("data", Datatype::Fp32, shape)];
        let signature = Signature { inputs, outputs: vec![] };
        let body = |data: Value| {
            let shape = [1, numbers.len()];
            let input = json!({ "name": "data", "shape": shape, "datatype": "FP32", "data": data });
            json!({ "id": "\"data\":[1]", "inputs": [input] }).to_string().replace(',', &format!(",{space}"))
        };
        let parse = |body: String| {
            InferRequest::parse(body.as_bytes(), &signature, &Limits::default()).unwrap()
        };
        let flat = parse(body(json!(numbers)));
        prop_assert_eq!(flat.inputs[0].data(), &slsml_model::Data::Fp32(numbers.clone()));
        prop_assert_eq!(flat, parse(body(json!([numbers]))));
    }

    #[test]
    fn no_body_whatsoever_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = InferRequest::parse(&bytes, &signature(), &Limits::default());
    }

    #[test]
    fn no_damage_to_a_good_body_makes_it_panic(at in 0usize..200, with in any::<u8>()) {
        let mut bytes = request(json!([[1, 2.5], [3, -4]]), json!([7, 8])).to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = with;
        let _ = InferRequest::parse(&bytes, &signature(), &Limits::default());
    }
}

fn indices(request: &InferRequest) -> Vec<usize> {
    request.outputs.iter().map(|wanted| wanted.index).collect()
}

/// A request whose x is bytes, and where its JSON ends.
fn binary(x: &[f32], size: usize, more: &[u8]) -> (Vec<u8>, usize) {
    let head = json!({
        "parameters": { "binary_data_output": true },
        "outputs": [{ "name": "z" }, { "name": "y", "parameters": { "binary_data": false } }],
        "inputs": [
            { "name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": { "binary_data_size": size } },
            { "name": "n", "shape": [1], "datatype": "INT64", "data": [7] },
        ],
    });
    let mut body = head.to_string().into_bytes();
    let length = body.len();
    x.iter().for_each(|value| body.extend_from_slice(&value.to_le_bytes()));
    body.extend_from_slice(more);
    (body, length)
}

fn parse_binary((body, length): (Vec<u8>, usize)) -> Result<InferRequest, ProtocolError> {
    InferRequest::parse_binary(&body, length, &signature(), &Limits::default())
}

#[test]
fn parameters_may_be_null() {
    let mut body = request(json!([1, 2]), json!([7]));
    body["parameters"] = Value::Null;
    body["inputs"][0]["parameters"] = Value::Null;
    body["outputs"] = json!([{ "name": "z", "parameters": null }]);
    assert_eq!(indices(&parse(&body).unwrap()), [1]);
}

#[test]
fn elements_may_follow_the_json_as_bytes() {
    let read = parse_binary(binary(&[1.5, -2.0], 8, &[])).unwrap();
    assert_eq!(read.inputs[0].data(), &Data::Fp32(vec![1.5, -2.0]));
    assert_eq!(read.inputs[1].data(), &Data::Int64(vec![7]));
    let wanted: Vec<(usize, bool)> =
        read.outputs.iter().map(|wanted| (wanted.index, wanted.binary)).collect();
    assert_eq!(wanted, [(1, true), (0, false)]);
}

#[test]
fn bytes_that_do_not_fit_are_refused_with_the_reason() {
    let (body, length) = binary(&[1.0, 2.0], 8, &[]);
    let table = [
        (binary(&[1.0, 2.0], 8, &[0]), "1 bytes follow the last input's"),
        (binary(&[1.0], 8, &[]), "binary_data_size of 8, 4 bytes are left"),
        (binary(&[1.0], 4, &[]), "it has 4 bytes, 2 elements of FP32 have 8"),
        (binary(&[1.0, 2.0], usize::MAX, &[]), "8 bytes are left"),
        ((body.clone(), body.len() + 1), "Inference-Header-Content-Length is"),
        ((body.clone(), length - 1), "not an infer request"),
        ((body.clone(), 0), "not an infer request"),
    ];
    for (request, says) in table {
        let error = parse_binary(request).unwrap_err().to_string();
        assert!(error.contains(says), "{error}, not {says}");
    }
    let error = InferRequest::parse(&body[..length], &signature(), &Limits::default());
    assert!(error.unwrap_err().to_string().contains("Inference-Header-Content-Length is missing"));
}

proptest! {
    #[test]
    fn hostile_bytes_after_the_json_never_panic(
        more in proptest::collection::vec(proptest::num::u8::ANY, 0..40), size in 0usize..40, cut in 0usize..400,
    ) {
        let (body, length) = binary(&[], size, &more);
        let _refused_or_read = parse_binary((body.clone(), length));
        let _refused_or_read = parse_binary((body, cut));
    }
}
