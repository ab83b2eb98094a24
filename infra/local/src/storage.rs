//! Cloud Storage, as far as journals need it: buckets and objects with generations, written on
//! conditions. <https://cloud.google.com/storage/docs/json_api/v1>

use std::collections::{BTreeMap, HashMap};

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cloudrun::answer_json;
use crate::home::Home;
use crate::ids;
use crate::kept::Kept;

/// How many objects a page of a list has.
const PAGE: usize = 1000;

/// Buckets by name, and their objects by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Object>>,
    /// The generation that was given last.
    generation: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Object {
    generation: u64,
    content_type: String,
    /// Base64.
    content: String,
}

impl State {
    fn objects(&self, bucket: &str) -> Result<&BTreeMap<String, Object>, Refused> {
        self.buckets.get(bucket).map_or_else(no_bucket, Ok)
    }
}

/// Everything that is stored.
#[derive(Debug)]
pub(crate) struct Storage(Kept<State>);

struct Refused {
    status: u16,
    reason: &'static str,
    message: String,
}

type Answered = Result<Response<Bytes>, Refused>;

fn refuse<T>(status: u16, reason: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { status, reason, message: message.into() })
}

/// Whether a path is Cloud Storage's.
pub(crate) fn is_for(path: &str) -> bool {
    path.starts_with("/storage/v1/b") || path.starts_with("/upload/storage/v1/b/")
}

struct Call<'a> {
    parts: &'a Parts,
    query: HashMap<String, String>,
    body: &'a Bytes,
}

impl Storage {
    pub(crate) fn open(home: &Home) -> std::io::Result<Storage> {
        Kept::open(home, "storage.json").map(Storage)
    }

    /// Answers a request for a path that [`is_for`] Cloud Storage.
    pub(crate) fn answer(&self, parts: &Parts, body: &Bytes) -> Response<Bytes> {
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let call = Call { parts, query: query.into_owned().collect(), body };
        self.route(&call).unwrap_or_else(|refused| {
            let Refused { status, reason, message } = refused;
            if call.query.get("alt").is_some_and(|alt| alt == "media") {
                return answer(status, "text/html; charset=UTF-8", message.into());
            }
            let error = json!({
                "code": status,
                "message": message,
                "errors": [{ "message": message, "domain": "global", "reason": reason }],
            });
            answer_json(status, &json!({ "error": error }))
        })
    }

    fn route(&self, call: &Call<'_>) -> Answered {
        if !call.parts.headers.contains_key("authorization") {
            return refuse(401, "required", "Anonymous caller does not have storage access.");
        }
        let path = call.parts.uri.path();
        let (upload, path) = match path.strip_prefix("/upload") {
            Some(rest) => (true, rest),
            None => (false, path),
        };
        let segments: Vec<String> = path
            .split('/')
            .skip(4)
            .map(|one| percent_decode_str(one).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match (&call.parts.method, upload, segments.as_slice()) {
            (&Method::POST, false, []) => self.create_bucket(call),
            (&Method::GET, false, [bucket]) => self.bucket(bucket),
            (&Method::GET, false, [bucket, "o"]) => self.list(call, bucket),
            (&Method::POST, true, [bucket, "o"]) => self.insert(call, bucket),
            (&Method::GET, false, [bucket, "o", name]) => self.get(call, bucket, name),
            (&Method::DELETE, false, [bucket, "o", name]) => self.delete(call, bucket, name),
            (method, ..) => {
                let message = format!("slsml local does not offer {method} {path}");
                refuse(501, "notImplemented", message)
            }
        }
    }

    fn create_bucket(&self, call: &Call<'_>) -> Answered {
        let body: Value = serde_json::from_slice(call.body).unwrap_or_default();
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if !(3..=63).contains(&name.len()) || !name.bytes().all(fits) {
            return refuse(400, "invalid", format!("Invalid bucket name: '{name}'"));
        }
        self.change(|state| match state.buckets.contains_key(&name) {
            true => refuse(409, "conflict", "Your previous request to create the named bucket succeeded and you already own it."),
            false => {
                state.buckets.insert(name.clone(), BTreeMap::new());
                Ok(answer_json(200, &bucket_resource(&name)))
            }
        })
    }

    fn bucket(&self, bucket: &str) -> Answered {
        self.0.read().objects(bucket)?;
        Ok(answer_json(200, &bucket_resource(bucket)))
    }

    fn list(&self, call: &Call<'_>, bucket: &str) -> Answered {
        let state = self.0.read();
        let objects = state.objects(bucket)?;
        let prefix = call.query.get("prefix").map_or("", String::as_str);
        let after = call.query.get("pageToken").map_or("", String::as_str);
        let found =
            objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        let mut page: Vec<_> = found.take(PAGE + 1).collect();
        let more = page.len() > PAGE;
        page.truncate(PAGE);
        let items: Vec<Value> =
            page.iter().map(|(name, one)| resource(bucket, name, one)).collect();
        let mut value = json!({ "kind": "storage#objects", "items": items });
        if let Some((last, _)) = page.last().filter(|_| more) {
            value["nextPageToken"] = json!(last);
        }
        Ok(answer_json(200, &value))
    }

    fn insert(&self, call: &Call<'_>, bucket: &str) -> Answered {
        if call.query.get("uploadType").is_none_or(|kind| kind != "media") {
            return refuse(501, "notImplemented", "slsml local offers uploadType=media only");
        }
        let Some(name) = call.query.get("name").filter(|name| !name.is_empty()) else {
            return refuse(400, "required", "Required parameter: name");
        };
        let content_type = call.parts.headers.get("content-type");
        let content_type = content_type.and_then(|kind| kind.to_str().ok());
        self.change(|state| {
            let generation = ids::now_millis().saturating_mul(1000).max(state.generation + 1);
            let objects = state.buckets.get_mut(bucket).map_or_else(no_bucket, Ok)?;
            call.check(objects.get(name))?;
            let object = Object {
                generation,
                content_type: content_type.unwrap_or("application/octet-stream").into(),
                content: STANDARD.encode(call.body),
            };
            let answer = answer_json(200, &resource(bucket, name, &object));
            objects.insert(name.clone(), object);
            state.generation = generation;
            Ok(answer)
        })
    }

    fn get(&self, call: &Call<'_>, bucket: &str, name: &str) -> Answered {
        let state = self.0.read();
        let objects = state.objects(bucket)?;
        let Some(object) = objects.get(name) else { return no_object(bucket, name) };
        if call.query.get("alt").is_none_or(|alt| alt != "media") {
            return Ok(answer_json(200, &resource(bucket, name, object)));
        }
        let content = STANDARD.decode(&object.content).unwrap_or_default();
        let mut response = answer(200, &object.content_type, content.into());
        response.headers_mut().insert("x-goog-generation", HeaderValue::from(object.generation));
        Ok(response)
    }

    fn delete(&self, call: &Call<'_>, bucket: &str, name: &str) -> Answered {
        self.change(|state| {
            let objects = state.buckets.get_mut(bucket).map_or_else(no_bucket, Ok)?;
            call.check(objects.get(name))?;
            match objects.remove(name) {
                Some(_) => Ok(answer(204, "application/json", Bytes::new())),
                None => no_object(bucket, name),
            }
        })
    }

    fn change<T>(&self, edit: impl FnOnce(&mut State) -> Result<T, Refused>) -> Result<T, Refused> {
        self.0.change(edit, |message| Refused { status: 500, reason: "backendError", message })
    }
}

impl Call<'_> {
    /// The generation that must be there: 0 for none.
    fn check(&self, there: Option<&Object>) -> Result<(), Refused> {
        let Some(wanted) = self.query.get("ifGenerationMatch") else { return Ok(()) };
        let there = there.map_or(0, |object| object.generation);
        match wanted.parse::<u64>() {
            Ok(wanted) if wanted == there => Ok(()),
            Ok(_) => refuse(
                412,
                "conditionNotMet",
                "At least one of the pre-conditions you specified did not hold.",
            ),
            Err(_) => refuse(400, "invalidParameter", format!("Invalid value: {wanted}")),
        }
    }
}

fn no_bucket<T>() -> Result<T, Refused> {
    refuse(404, "notFound", "The specified bucket does not exist.")
}

fn no_object<T>(bucket: &str, name: &str) -> Result<T, Refused> {
    refuse(404, "notFound", format!("No such object: {bucket}/{name}"))
}

fn bucket_resource(name: &str) -> Value {
    json!({ "kind": "storage#bucket", "id": name, "name": name, "location": "US", "storageClass": "STANDARD" })
}

fn resource(bucket: &str, name: &str, object: &Object) -> Value {
    let generation = object.generation.to_string();
    json!({
        "kind": "storage#object",
        "id": format!("{bucket}/{name}/{generation}"),
        "name": name,
        "bucket": bucket,
        "generation": generation,
        "metageneration": "1",
        "contentType": object.content_type,
        "size": (object.content.trim_end_matches('=').len() * 3 / 4).to_string(),
        "timeCreated": ids::iso8601(object.generation / 1_000_000),
        "updated": ids::iso8601(object.generation / 1_000_000),
    })
}

fn answer(status: u16, kind: &str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(kind) = HeaderValue::from_str(kind) {
        response.headers_mut().insert("content-type", kind);
    }
    response
}
