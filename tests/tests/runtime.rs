//! The real `bootstrap` on a local Lambda: every kind of event, bad requests, a broken model.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{FunctionCode, FunctionUrlAuthType, LogType, Runtime};
use serde_json::{Value, json};
use slsml_e2e::digits::{Case, cases};
use slsml_e2e::slsml::{LocalLambda, programs};
use slsml_e2e::traffic::client;

const ROLE: &str = "arn:aws:iam::000000000000:role/slsml-local";

struct Deployed {
    cloud: LocalLambda,
    lambda: aws_sdk_lambda::Client,
}

struct Answer {
    payload: Value,
    error: Option<String>,
    log: String,
}

impl Deployed {
    fn new() -> Deployed {
        Deployed::on(LocalLambda::start().unwrap())
    }

    fn on(cloud: LocalLambda) -> Deployed {
        let artifact = cloud.package("v1").unwrap();
        // The first request is the test's own, and finds a cold function.
        let (code, value) = cloud.deploy(&artifact, &["--warm-up", "0"]).unwrap();
        assert_eq!(code, 0, "{value}");
        let lambda = client(&cloud.endpoint);
        Deployed { cloud, lambda }
    }

    async fn invoke(&self, payload: &str) -> Answer {
        let answer =
            self.lambda.invoke().function_name("digits").qualifier("live").log_type(LogType::Tail);
        let answer = answer.payload(Blob::new(payload)).send().await.unwrap();
        let payload = answer.payload().unwrap().as_ref();
        let log = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            answer.log_result().unwrap(),
        );
        Answer {
            payload: serde_json::from_slice(payload).unwrap(),
            error: answer.function_error().map(str::to_owned),
            log: String::from_utf8(log.unwrap()).unwrap(),
        }
    }

    async fn url(&self) -> String {
        let made =
            self.lambda.create_function_url_config().function_name("digits").qualifier("live");
        let made = made.auth_type(FunctionUrlAuthType::None).send().await.unwrap();
        made.function_url().to_owned()
    }
}

fn case() -> Case {
    cases().unwrap().swap_remove(3)
}

/// API Gateway's payload format 2.0, which function URLs share.
fn v2(method: &str, path: &str, body: &str) -> Value {
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "",
        "headers": { "content-type": "application/json", "host": "x" }, "isBase64Encoded": false, "body": body,
        "requestContext": {
            "accountId": "1", "apiId": "a", "domainName": "x", "domainPrefix": "x", "requestId": "r",
            "routeKey": "$default", "stage": "$default", "time": "t", "timeEpoch": 0,
            "http": { "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "t" },
        },
    })
}

/// API Gateway's payload format 1.0.
fn v1(method: &str, path: &str, body: &str) -> Value {
    json!({
        "resource": "/{proxy+}", "path": path, "httpMethod": method, "headers": { "Host": "x" },
        "multiValueHeaders": { "Host": ["x"] }, "queryStringParameters": null,
        "multiValueQueryStringParameters": null, "pathParameters": null, "stageVariables": null,
        "body": body, "isBase64Encoded": false,
        "requestContext": {
            "accountId": "1", "apiId": "a", "resourceId": "r", "stage": "prod", "requestId": "r",
            "httpMethod": method, "path": path, "protocol": "HTTP/1.1", "resourcePath": "/{proxy+}",
            "identity": { "sourceIp": "127.0.0.1" },
        },
    })
}

/// A load balancer's event.
fn alb(method: &str, path: &str, body: &str) -> Value {
    json!({
        "requestContext": { "elb": { "targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/t/1" } },
        "httpMethod": method, "path": path, "queryStringParameters": {}, "headers": { "host": "x" },
        "body": body, "isBase64Encoded": false,
    })
}

/// An HTTP client. slsml's own wants a provider of cryptography, and cargo builds reqwest once.
fn http() -> reqwest::Client {
    let _once = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

#[tokio::test]
async fn every_kind_of_event_is_answered() {
    let deployed = Deployed::new();
    let case = case();
    let infer = "/v2/models/digits/infer";
    let body = case.request.to_string();
    for (kind, event) in [
        ("v2", v2("POST", infer, &body)),
        ("v1", v1("POST", infer, &body)),
        ("alb", alb("POST", infer, &body)),
    ] {
        let answer = deployed.invoke(&event.to_string()).await;
        assert_eq!(answer.error, None, "{kind}: {}", answer.payload);
        assert_eq!(answer.payload["statusCode"], 200, "{kind}: {}", answer.payload);
        let inner: Value = serde_json::from_str(answer.payload["body"].as_str().unwrap()).unwrap();
        assert!(case.is_answered_by("v1", &inner), "{kind}: {inner}");
    }
    let mut encoded = v2("POST", infer, "");
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &body);
    (encoded["body"], encoded["isBase64Encoded"]) = (base64.into(), true.into());
    assert_eq!(deployed.invoke(&encoded.to_string()).await.payload["statusCode"], 200);
    let bare = deployed.invoke(&body).await;
    assert!(case.is_answered_by("v1", &bare.payload), "{}", bare.payload);
}

#[tokio::test]
async fn the_protocol_is_served_at_the_function_url() {
    let deployed = Deployed::new();
    let url = deployed.url().await;
    let http = http();
    let get = async |path: &str| {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(get("v2/health/live").await, (200, json!({ "live": true })));
    assert_eq!(get("v2/health/ready").await, (200, json!({ "ready": true })));
    assert_eq!(get("v2").await.1["name"], "slsml");
    let (status, model) = get("v2/models/digits").await;
    assert_eq!((status, &model["platform"]), (200, &"onnx_onnxv1".into()));
    assert_eq!(
        model["inputs"],
        json!([{ "name": "image", "datatype": "FP32", "shape": [-1, 64] }])
    );
    assert_eq!(model["versions"], json!(["1"]), "the function's version is the model's");
    assert_eq!(get("v2/models/digits/versions/1/ready").await.0, 200);
    assert_eq!(get("v2/models/digits/versions/7").await.0, 404);
    assert_eq!(get("v2/models/letters").await.0, 404);
    assert_eq!(get("nothing").await.0, 404);
    assert_eq!(get("v2/models/digits/infer").await.0, 405);
    let case = case();
    let answer =
        http.post(format!("{url}v2/models/digits/infer")).json(&case.request).send().await.unwrap();
    assert_eq!(answer.headers()["x-amz-executed-version"], "1");
    assert!(case.is_answered_by("v1", &answer.json().await.unwrap()));
}

#[tokio::test]
async fn a_bad_request_is_answered_with_its_fault_and_harms_nobody() {
    let deployed = Deployed::new();
    let url = format!("{}v2/models/digits/infer", deployed.url().await);
    let http = http();
    let input = |shape: Value, datatype: &str, data: Value| {
        json!({ "inputs": [{ "name": "image", "shape": shape, "datatype": datatype, "data": data }] }).to_string()
    };
    let pixels = json!(vec![0; 64]);
    let deep = format!("{{\"inputs\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let deep_data = format!(
        "{{\"inputs\": [{{\"name\": \"image\", \"shape\": [1, 64], \"datatype\": \"FP32\", \"data\": {}1{}}}]}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let table = [
        (String::new(), "the body is empty"),
        ("   ".into(), "the body is empty"),
        ("no json".into(), "not an infer request"),
        ("[]".into(), "not an infer request"),
        ("{}".into(), "missing field `inputs`"),
        (deep, "not an infer request"),
        (deep_data, "nested deeper than its shape"),
        (json!({ "inputs": [] }).to_string(), "input `image` is missing"),
        (input(json!([1, 63]), "FP32", pixels.clone()), "the model takes image FP32[batch,64]"),
        (input(json!([64]), "FP32", pixels.clone()), "the model takes image FP32[batch,64]"),
        (input(json!([-1, 64]), "FP32", pixels.clone()), "the model takes image FP32[batch,64]"),
        (input(json!([0, 64]), "FP32", json!([])), "lengths of 1 or more"),
        (input(json!([9_000_000_000u64, 64]), "FP32", json!([])), "more elements than the limit"),
        (
            input(json!([1, 64]), "INT64", pixels.clone()),
            "has datatype INT64, the model takes FP32",
        ),
        (input(json!([1, 64]), "FLOAT", pixels.clone()), "unknown datatype `FLOAT`"),
        (input(json!([1, 64]), "FP32", json!([1, 2])), "has 2 elements"),
        (input(json!([1, 64]), "FP32", json!(vec![0; 65])), "more elements than the 64"),
        (input(json!([1, 64]), "FP32", json!(["x"])), "\"x\" is not a FP32"),
        (input(json!([1, 64]), "FP32", json!([null])), "null is not a FP32"),
        (
            input(json!([2, 64]), "FP32", json!([vec![0; 65], vec![0; 63]])),
            "does not follow the shape",
        ),
    ];
    for (body, expected) in table {
        let shown: String = body.chars().take(120).collect();
        let answer = http
            .post(&url)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{shown}");
        let error = answer.json::<Value>().await.unwrap()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(expected), "{shown}: {error}");
    }
    let too_large = http.post(&url).body(vec![b' '; 7 << 20]).send().await.unwrap();
    assert_eq!(too_large.status(), 413);
    let case = case();
    let after = http.post(&url).json(&case.request).send().await.unwrap();
    assert!(case.is_answered_by("v1", &after.json().await.unwrap()));
}

#[tokio::test]
async fn each_request_logs_its_outcome_as_a_metric() {
    let deployed = Deployed::new();
    let outcome = |log: &str| -> Value {
        let line = log.lines().find(|line| line.contains("CloudWatchMetrics")).unwrap();
        serde_json::from_str(line).unwrap()
    };
    let cold = outcome(&deployed.invoke(&case().request.to_string()).await.log);
    assert_eq!(
        (&cold["status"], &cold["start"], &cold["ColdStarts"]),
        (&200.into(), &"cold".into(), &1.into())
    );
    assert!(cold["Latency"].as_f64().unwrap() > 0.0);
    let warm = deployed.invoke("{\"inputs\": []}").await;
    assert_eq!(warm.error, None, "a request at fault is answered, not failed");
    assert!(warm.payload["error"].as_str().unwrap().contains("`image` is missing"));
    let warm = outcome(&warm.log);
    assert_eq!(
        (&warm["status"], &warm["start"], &warm["ClientErrors"]),
        (&400.into(), &"warm".into(), &1.into())
    );
}

#[tokio::test]
async fn a_failing_run_fails_its_request_alone() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = cloud.package("v3").unwrap();
    assert_eq!(cloud.deploy(&artifact, &[]).unwrap().0, 0);
    let deployed = Deployed { lambda: client(&cloud.endpoint), cloud };
    let all = cases().unwrap();
    let failing = all.iter().find(|case| case.fails_on("v3")).unwrap();
    let working = all.iter().find(|case| !case.fails_on("v3")).unwrap();
    let before = deployed.invoke(&working.request.to_string()).await;
    assert!(working.is_answered_by("v3", &before.payload));
    let failed = deployed.invoke(&failing.request.to_string()).await;
    assert_eq!(failed.payload["errorType"], "ModelFailed", "{}", failed.payload);
    let event = v2("POST", "/v2/models/digits/infer", &failing.request.to_string());
    let failed = deployed.invoke(&event.to_string()).await;
    assert_eq!((failed.error, &failed.payload["statusCode"]), (None, &500.into()));
    let after = deployed.invoke(&working.request.to_string()).await;
    assert!(working.is_answered_by("v3", &after.payload));
    assert!(!after.log.contains("Init Duration"), "the process was replaced: {}", after.log);
    drop(deployed.cloud);
}

#[tokio::test]
async fn an_unreadable_model_is_an_init_error_that_names_file_and_cause() {
    let cloud = LocalLambda::start().unwrap();
    let lambda = client(&cloud.endpoint);
    let bootstrap = std::fs::read(programs().unwrap().join("bootstrap")).unwrap();
    let manifest = br#"{"name":"m","model_sha256":"","slsml_version":"0"}"#;
    let with = |model: Option<&'static [u8]>| {
        let entry = |path, bytes, executable| slsml_package::Entry {
            path,
            bytes,
            executable,
            method: slsml_package::Method::Deflated,
            zipped: None,
        };
        let mut entries = vec![entry("bootstrap", &bootstrap[..], true)];
        if let Some(model) = model {
            entries.extend([
                entry("manifest.json", manifest, false),
                entry("model.slsml", model, false),
            ]);
        }
        slsml_package::zip(&entries, None).unwrap()
    };
    let table: HashMap<&str, (Option<&'static [u8]>, [&str; 2])> = HashMap::from([
        ("foreign", (Some(&b"not a model"[..]), ["model.slsml", "not a packaged model"])),
        ("empty", (Some(&b""[..]), ["model.slsml", "not a packaged model"])),
        ("cut", (Some(&b"SLSMLPM\0\x01\0\0\0"[..]), ["model.slsml", "truncated"])),
        (
            "newer",
            (
                Some(
                    &[
                        b'S', b'L', b'S', b'M', b'L', b'P', b'M', 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    ][..],
                ),
                ["format 99", "package the model again"],
            ),
        ),
        ("bare", (None, ["manifest.json", "package the model again"])),
    ]);
    for (name, (model, words)) in table {
        let code = FunctionCode::builder().zip_file(Blob::new(with(model))).build();
        let create = lambda
            .create_function()
            .function_name(name)
            .role(ROLE)
            .runtime(Runtime::Providedal2023);
        create.handler("bootstrap").code(code).send().await.unwrap();
        let answer = loop {
            match lambda.invoke().function_name(name).log_type(LogType::Tail).send().await {
                Ok(answer) => break answer,
                // Pending for a moment.
                Err(error) => assert!(format!("{error:?}").contains("Pending"), "{error:?}"),
            }
        };
        assert_eq!(answer.function_error(), Some("Unhandled"));
        let error: Value = serde_json::from_slice(answer.payload().unwrap().as_ref()).unwrap();
        assert_eq!(error["errorType"], "ModelUnreadable", "{name}: {error}");
        for word in words {
            assert!(error["errorMessage"].as_str().unwrap().contains(word), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_web_page_cannot_use_the_local_lambda() {
    let deployed = Deployed::new();
    let functions = format!("{}/2015-03-31/functions", deployed.cloud.endpoint);
    let signature =
        "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/lambda/aws4_request, Signature=0";
    let http = http();
    let status = async |url: &str, name: &str, value: &str| {
        let request = http.get(url).header("authorization", signature).header(name, value);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(&functions, "x-plain", "client").await, 200);
    assert_eq!(status(&functions, "origin", "https://example.com").await, 403);
    assert_eq!(status(&functions, "sec-fetch-site", "cross-site").await, 403);
    assert_eq!(status(&functions, "host", "rebound.example.com").await, 403);
    let unsigned = format!("{functions}?X-Amz-Credential=k/20260101/us-east-1/lambda/aws4_request");
    let refused = http.post(unsigned).body("{}").send().await.unwrap();
    assert!(!refused.status().is_success(), "{refused:?}");
    let url = format!("{}v2/health/live", deployed.url().await);
    assert_eq!(
        status(&url, "origin", "https://example.com").await,
        200,
        "function URLs are for pages too"
    );
}

#[tokio::test]
async fn a_process_that_nobody_needs_is_stopped() {
    let deployed = Deployed::on(LocalLambda::start_with(&["--idle-s", "1"]).unwrap());
    assert!(
        case().is_answered_by("v1", &deployed.invoke(&case().request.to_string()).await.payload)
    );
    assert_eq!(deployed.cloud.processes(), 1);
    let began = Instant::now();
    while deployed.cloud.processes() > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "the process lives on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        case().is_answered_by("v1", &deployed.invoke(&case().request.to_string()).await.payload)
    );
}
