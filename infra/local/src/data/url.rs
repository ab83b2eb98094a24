//! Requests to function URLs: an HTTP request becomes an event, the answer becomes HTTP again.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html>

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fleet::{Fleet, Invocation};
use super::invoke;
use crate::lambda::urls;
use crate::{ACCOUNT, ids};

/// Answers a request to the URL `id`; `path` is what follows it.
pub(crate) async fn answer(
    fleet: &Arc<Fleet>,
    id: &str,
    path: &str,
    parts: &Parts,
    body: Bytes,
) -> Response<Bytes> {
    let Some((function, qualifier, auth_type)) = urls::find(&fleet.registry, id) else {
        return message(StatusCode::FORBIDDEN, "Forbidden");
    };
    if auth_type == "AWS_IAM" && !parts.headers.contains_key("authorization") {
        return message(StatusCode::FORBIDDEN, "Forbidden");
    }
    if body.len() > invoke::SYNC_LIMIT {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "Request must be smaller than 6 MB");
    }
    let request_id = ids::uuid();
    let payload = event(id, path, parts, &body, &request_id).to_string().into();
    let asked = Invocation { function, qualifier, payload, request_id, with_tail: false };
    match invoke::finish(fleet, asked).await {
        Err(error) if error.status == 429 => {
            message(StatusCode::TOO_MANY_REQUESTS, "Rate Exceeded.")
        }
        Err(error) => message(StatusCode::BAD_GATEWAY, &error.message),
        Ok(invoked) => {
            let mut response = match invoked.failed {
                true => message(StatusCode::BAD_GATEWAY, "Internal Server Error"),
                false => from_function(&invoked.payload),
            };
            if let Ok(version) = HeaderValue::from_str(&invoked.version) {
                response.headers_mut().insert("x-amz-executed-version", version);
            }
            response
        }
    }
}

fn message(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(json!({ "Message": text }).to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

/// The event of API Gateway's payload format 2.0.
fn event(id: &str, path: &str, parts: &Parts, body: &[u8], request_id: &str) -> Value {
    let path = if path.is_empty() { "/" } else { path };
    let now = ids::now_millis();
    let domain = format!("{id}.lambda-url.{}.on.aws", crate::REGION);
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let mut cookies = Vec::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if name == "cookie" {
            cookies.extend(value.split("; ").map(str::to_owned));
            continue;
        }
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all| *all = format!("{all},{value}"))
            .or_insert(value);
    }
    let user_agent = headers.get("user-agent").cloned().unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": id,
            "domainName": domain,
            "domainPrefix": id,
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": user_agent,
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": ids::timestamp(now),
            "timeEpoch": now,
        },
        "isBase64Encoded": false,
    });
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    if !query.is_empty() {
        let mut joined: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            joined
                .entry(key.into_owned())
                .and_modify(|all| *all = format!("{all},{value}"))
                .or_insert(value.into_owned());
        }
        event["queryStringParameters"] = json!(joined);
    }
    if !body.is_empty() {
        let content_type = headers.get("content-type").map(String::as_str).unwrap_or_default();
        match std::str::from_utf8(body) {
            Ok(text) if is_text(content_type) => event["body"] = json!(text),
            _ => {
                event["body"] = json!(STANDARD.encode(body));
                event["isBase64Encoded"] = json!(true);
            }
        }
    }
    event
}

fn is_text(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || matches!(kind, "application/json" | "application/xml" | "application/javascript")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    cookies: Vec<String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

/// What a function returned, as HTTP: an object with a status, or anything else as a JSON body.
fn from_function(payload: &Bytes) -> Response<Bytes> {
    let Ok(answer) = serde_json::from_slice::<Answer>(payload) else {
        let mut response = Response::new(payload.clone());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        return response;
    };
    let text = answer.body.unwrap_or_default();
    let body = match answer.is_base64_encoded {
        false => Bytes::from(text),
        true => match STANDARD.decode(&text) {
            Ok(bytes) => bytes.into(),
            Err(_) => return message(StatusCode::BAD_GATEWAY, "Internal Server Error"),
        },
    };
    let mut response = Response::new(body);
    let Ok(status) = StatusCode::from_u16(answer.status_code) else {
        return message(StatusCode::BAD_GATEWAY, "Internal Server Error");
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in answer.headers {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value))
            && name != "content-length"
        {
            headers.insert(name, value);
        }
    }
    for cookie in answer.cookies {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            headers.append("set-cookie", cookie);
        }
    }
    response
}
