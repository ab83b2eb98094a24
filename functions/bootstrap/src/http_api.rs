//! HTTP requests in payload format 2.0: function URLs and API Gateway's HTTP APIs.
//!
//! A body of numbers is megabytes. `lambda_http` keeps four copies of one: the event's text, the
//! parser's, its own request's and the handler's. Here it is copied once, out of the event's text,
//! and what is not needed of the request is not read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use slsml_inference::{Answer, Method};

/// What is needed of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpApi {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: String,
}

/// The parts of an event that it is made of, not read yet.
#[derive(Deserialize)]
pub(crate) struct Parts<'a> {
    /// Every wrapped HTTP request has one, of any payload format.
    #[serde(borrow, rename = "requestContext")]
    pub(crate) context: Option<&'a RawValue>,
    /// Only payload format 2.0 says the path so.
    #[serde(borrow, rename = "rawPath")]
    pub(crate) path: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow, rename = "isBase64Encoded")]
    is_base64: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Context {
    http: Http,
}

#[derive(Deserialize)]
struct Http {
    method: String,
}

impl Parts<'_> {
    /// The request, if it is of payload format 2.0 and its body is text.
    pub(crate) fn request(&self) -> Option<Result<HttpApi, serde_json::Error>> {
        let (context, path) = (self.context?, self.path?);
        let is_text = self.is_base64.is_none_or(|flag| flag.get() == "false");
        is_text.then(|| {
            let context: Context = serde_json::from_str(context.get())?;
            Ok(HttpApi {
                method: method(&context.http.method),
                path: serde_json::from_str(path.get())?,
                body: self.body.map_or(Ok(String::new()), |body| text(body.get()))?,
            })
        })
    }
}

pub(crate) fn method(name: &str) -> Method {
    match name {
        "GET" | "HEAD" => Method::Get,
        "POST" => Method::Post,
        _ => Method::Other,
    }
}

/// The text of a JSON string, with its quotes. Few characters of a body are escaped: what is between
/// them is copied at once.
fn text(json: &str) -> Result<String, serde_json::Error> {
    let Some(mut rest) = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) else {
        return serde_json::from_str(json);
    };
    let mut text = String::with_capacity(rest.len());
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        let (plain, escaped) = rest.split_at(at);
        let meant = match escaped.as_bytes().get(1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            // Rare, and some of them wrong.
            _ => return serde_json::from_str(json),
        };
        text.push_str(plain);
        text.push(meant);
        rest = &escaped[2..];
    }
    text.push_str(rest);
    Ok(text)
}

/// An answer as API Gateway and function URLs take it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    status_code: u16,
    headers: BTreeMap<&'static str, &'static str>,
    is_base64_encoded: bool,
    body: &'a str,
}

pub(crate) fn reply(answer: &Answer) -> Result<Box<RawValue>, String> {
    let body = std::str::from_utf8(&answer.body).map_err(|error| error.to_string())?;
    let reply = Reply {
        status_code: answer.status,
        headers: BTreeMap::from([("content-type", "application/json")]),
        is_base64_encoded: false,
        body,
    };
    to_raw_value(&reply).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn texts_are_read_as_serde_reads_them() {
        let texts = [
            "",
            "plain",
            r#"{"a":[1.5,2]}"#,
            "\"\"",
            "\\",
            "line\nbreak\ttab\rreturn/slash",
            "\u{8}\u{c}\u{1}",
            "umlaut ä, surrogates \u{1f600}\\n",
        ];
        for plain in texts {
            let json = serde_json::to_string(plain).unwrap();
            assert_eq!(text(&json).unwrap(), plain);
        }
        assert_eq!(text(r#""\u00e4\/\ud83d\ude00""#).unwrap(), "ä/\u{1f600}");
        for wrong in ["5", "[]", "null", r#""\ud83d""#] {
            assert_eq!(text(wrong).ok(), serde_json::from_str::<String>(wrong).ok(), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_what_its_event_says() {
        let event = r#"{"rawPath":"/v2/models/m/infer","isBase64Encoded":false,
            "requestContext":{"http":{"method":"POST"}},"body":"{\"id\":\"a\"}"}"#;
        let parts: Parts<'_> = serde_json::from_str(event).unwrap();
        let expected = HttpApi {
            method: Method::Post,
            path: "/v2/models/m/infer".into(),
            body: r#"{"id":"a"}"#.into(),
        };
        assert_eq!(parts.request().unwrap().unwrap(), expected);
    }

    #[test]
    fn other_formats_and_binary_bodies_are_left_to_others() {
        let events = [
            r#"{"rawPath":"/","isBase64Encoded":true,"requestContext":{}}"#,
            r#"{"path":"/","requestContext":{}}"#,
            r#"{"rawPath":"/"}"#,
        ];
        for event in events {
            let parts: Parts<'_> = serde_json::from_str(event).unwrap();
            assert!(parts.request().is_none(), "{event}");
        }
    }
}
