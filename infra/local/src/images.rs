//! A registry for container images.
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>
//!
//! It takes what Artifact Registry takes: a blob goes in one piece. Blobs lie in one folder for all
//! repositories; a repository has those that were pushed or mounted there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::home::Home;
use crate::ids;

/// The largest manifest.
const MANIFEST_LIMIT: usize = 4 << 20;

/// The largest layer.
const BLOB_LIMIT: u64 = 10 << 30;

/// Repositories and their blobs.
#[derive(Debug)]
pub(crate) struct Images {
    folder: PathBuf,
    /// Tags are looked up and set one at a time.
    tags: tokio::sync::Mutex<()>,
}

/// What a path asks for.
#[derive(Debug, PartialEq)]
enum Asked<'a> {
    Version,
    Blob { repository: &'a str, digest: &'a str },
    Uploads { repository: &'a str },
    Upload { repository: &'a str, id: &'a str },
    Manifest { repository: &'a str, reference: &'a str },
    Tags { repository: &'a str },
}

/// Whether a path is the registry's.
pub(crate) fn is_for(path: &str) -> bool {
    asked(path).is_some()
}

fn asked(path: &str) -> Option<Asked<'_>> {
    let path = path.strip_prefix("/v2")?;
    if path.is_empty() || path == "/" {
        return Some(Asked::Version);
    }
    let path = path.strip_prefix('/')?;
    if let Some(repository) = path.strip_suffix("/tags/list") {
        return Some(Asked::Tags { repository });
    }
    let (rest, last) = path.rsplit_once('/')?;
    if let Some(repository) = rest.strip_suffix("/blobs/uploads") {
        return Some(match last {
            "" => Asked::Uploads { repository },
            id => Asked::Upload { repository, id },
        });
    }
    if let Some(repository) = path.strip_suffix("/blobs/uploads") {
        return Some(Asked::Uploads { repository });
    }
    if let Some(repository) = rest.strip_suffix("/blobs") {
        return Some(Asked::Blob { repository, digest: last });
    }
    let repository = rest.strip_suffix("/manifests")?;
    Some(Asked::Manifest { repository, reference: last })
}

/// A refusal: status, code and message.
type Refusal = (StatusCode, &'static str, String);

fn refuse<T>(
    status: StatusCode,
    code: &'static str,
    message: impl Into<String>,
) -> Result<T, Refusal> {
    Err((status, code, message.into()))
}

fn failed(error: std::io::Error) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", error.to_string())
}

impl Images {
    pub(crate) fn open(home: &Home) -> std::io::Result<Images> {
        let folder = home.join("images");
        std::fs::create_dir_all(folder.join("blobs"))?;
        // What was being sent when it ended is not there.
        let uploads = folder.join("uploads");
        if uploads.exists() {
            std::fs::remove_dir_all(&uploads)?;
        }
        std::fs::create_dir_all(uploads)?;
        Ok(Images { folder, tags: tokio::sync::Mutex::default() })
    }

    pub(crate) fn blob(&self, digest: &str) -> Option<PathBuf> {
        Some(self.folder.join("blobs").join(hex(digest)?))
    }

    /// A manifest's bytes.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        let here = self.repository(repository).ok()?;
        let digest = self.resolve(&here, reference)?;
        let known = self.has(&here, "_manifests", &digest);
        std::fs::read(self.blob(&digest).filter(|_| known)?).ok()
    }

    fn repository(&self, name: &str) -> Result<PathBuf, Refusal> {
        match is_name(name) {
            // Below a name there may be another: what belongs to it is in folders that are none.
            true => Ok(self.folder.join("repositories").join(name)),
            false => refuse(StatusCode::BAD_REQUEST, "NAME_INVALID", "no name of a repository"),
        }
    }

    fn has(&self, repository: &Path, kind: &str, digest: &str) -> bool {
        hex(digest).is_some_and(|hex| repository.join(kind).join(hex).exists())
    }

    fn link(&self, repository: &Path, digest: &str) -> Result<(), Refusal> {
        let Some(hex) = hex(digest) else { return digest_invalid() };
        let folder = repository.join("_blobs");
        std::fs::create_dir_all(&folder).map_err(failed)?;
        std::fs::write(folder.join(hex), b"").map_err(failed)
    }

    /// What a reference, a tag or a digest, stands for.
    fn resolve(&self, repository: &Path, reference: &str) -> Option<String> {
        if hex(reference).is_some() {
            return Some(reference.into());
        }
        is_tag(reference)
            .then(|| std::fs::read_to_string(repository.join("_tags").join(reference)).ok())?
    }
}

fn digest_invalid<T>() -> Result<T, Refusal> {
    refuse(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "not what its digest says")
}

/// The digits of a SHA-256 digest.
fn hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hex.len() == 64 && hex.bytes().all(is_hex)).then_some(hex)
}

fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let ends = |byte: Option<u8>| {
            byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let inner =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        ends(part.bytes().next()) && ends(part.bytes().last()) && part.bytes().all(inner)
    };
    name.len() <= 255 && name.split('/').all(part)
}

fn is_tag(tag: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=128).contains(&tag.len()) && tag.bytes().all(inner) && !tag.starts_with(['.', '-'])
}

/// Answers a request for a path that [`is_for`] the registry.
pub(crate) async fn answer(images: &Images, request: Request<Incoming>) -> Response<Bytes> {
    match call(images, request).await {
        Ok(response) => response,
        Err((status, code, message)) => {
            let body = json!({ "errors": [{ "code": code, "message": message }] });
            json_answer(status, &body)
        }
    }
}

async fn call(images: &Images, request: Request<Incoming>) -> Result<Response<Bytes>, Refusal> {
    let (parts, body) = request.into_parts();
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let Some(asked) = asked(parts.uri.path()) else {
        return refuse(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such address");
    };
    match (parts.method.clone(), asked) {
        (Method::GET | Method::HEAD, Asked::Version) => Ok(json_answer(StatusCode::OK, &json!({}))),
        (Method::GET | Method::HEAD, Asked::Blob { repository, digest }) => {
            let here = images.repository(repository)?;
            let path = images.blob(digest).filter(|_| images.has(&here, "_blobs", digest));
            let Some(path) = path else {
                return refuse(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob");
            };
            content(&path, &parts.method, digest, "application/octet-stream")
        }
        (Method::POST, Asked::Uploads { repository }) => {
            let here = images.repository(repository)?;
            if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) {
                let from = images.repository(from)?;
                if images.has(&from, "_blobs", digest) {
                    images.link(&here, digest)?;
                    return Ok(created(&format!("/v2/{repository}/blobs/{digest}"), digest));
                }
            }
            let id = ids::uuid();
            if let Some(digest) = query.get("digest") {
                return finish(images, repository, &id, digest, body).await;
            }
            std::fs::write(images.folder.join("uploads").join(&id), b"").map_err(failed)?;
            Ok(accepted(repository, &id, 0))
        }
        (Method::PATCH, Asked::Upload { repository, id }) => {
            let path = upload(images, id)?;
            if std::fs::metadata(&path).map_err(failed)?.len() > 0 {
                let message = "a blob goes in one piece: chunks are not taken";
                return refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message);
            }
            let size = receive(&path, body).await?;
            Ok(accepted(repository, id, size))
        }
        (Method::PUT, Asked::Upload { repository, id }) => {
            upload(images, id)?;
            let Some(digest) = query.get("digest") else { return digest_invalid() };
            finish(images, repository, id, digest, body).await
        }
        (Method::DELETE, Asked::Upload { id, .. }) => {
            std::fs::remove_file(upload(images, id)?).map_err(failed)?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (Method::GET | Method::HEAD, Asked::Manifest { repository, reference }) => {
            let here = images.repository(repository)?;
            let known = images.resolve(&here, reference);
            let known = known.filter(|digest| images.has(&here, "_manifests", digest));
            let (Some(digest), Some(path)) =
                (&known, known.as_ref().and_then(|digest| images.blob(digest)))
            else {
                return refuse(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "no such manifest");
            };
            let kind = here.join("_manifests").join(hex(digest).unwrap_or_default());
            let kind = std::fs::read_to_string(kind).map_err(failed)?;
            content(&path, &parts.method, digest, &kind)
        }
        (Method::PUT, Asked::Manifest { repository, reference }) => {
            let kind = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok());
            let kind = kind.unwrap_or_default().to_owned();
            put_manifest(images, repository, reference, &kind, body).await
        }
        (Method::GET, Asked::Tags { repository }) => {
            let here = images.repository(repository)?;
            if !here.join("_manifests").exists() {
                return refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no such repository");
            }
            let entries = std::fs::read_dir(here.join("_tags")).into_iter().flatten().flatten();
            let mut tags: Vec<String> =
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            tags.sort();
            Ok(json_answer(StatusCode::OK, &json!({ "name": repository, "tags": tags })))
        }
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "not offered here"),
    }
}

/// Where an upload that was begun is.
fn upload(images: &Images, id: &str) -> Result<PathBuf, Refusal> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let path = images.folder.join("uploads").join(id);
    match plain && path.exists() {
        true => Ok(path),
        false => refuse(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
    }
}

/// Appends a body to a file; its size then.
async fn receive(path: &Path, mut body: Incoming) -> Result<u64, Refusal> {
    let file = tokio::fs::File::options().create(true).append(true).open(path).await;
    let mut file = file.map_err(failed)?;
    let mut size = file.metadata().await.map_err(failed)?.len();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failed(std::io::Error::other(error)))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len() as u64;
        if size > BLOB_LIMIT {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "larger than 10 GiB");
        }
        file.write_all(&data).await.map_err(failed)?;
    }
    file.sync_data().await.map_err(failed)?;
    Ok(size)
}

/// The end of an upload: what came is kept if it is what its digest says.
async fn finish(
    images: &Images,
    repository: &str,
    id: &str,
    digest: &str,
    body: Incoming,
) -> Result<Response<Bytes>, Refusal> {
    let here = images.repository(repository)?;
    let Some(blob) = images.blob(digest) else { return digest_invalid() };
    let path = images.folder.join("uploads").join(id);
    receive(&path, body).await?;
    let hashed = path.clone();
    let found = tokio::task::spawn_blocking(move || sha256(&hashed)).await;
    let found = found.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)?;
    if Some(found.as_str()) != hex(digest) {
        std::fs::remove_file(&path).map_err(failed)?;
        return digest_invalid();
    }
    std::fs::rename(&path, &blob).map_err(failed)?;
    images.link(&here, digest)?;
    Ok(created(&format!("/v2/{repository}/blobs/{digest}"), digest))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    Ok(digits(&hasher.finalize()))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A manifest is taken if everything it names is there.
async fn put_manifest(
    images: &Images,
    repository: &str,
    reference: &str,
    kind: &str,
    body: Incoming,
) -> Result<Response<Bytes>, Refusal> {
    let here = images.repository(repository)?;
    let bytes = match Limited::new(body, MANIFEST_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "above 4 MiB"),
    };
    let invalid = |why: &str| (StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why.to_owned());
    let manifest: Value =
        serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
    let digest = format!("sha256:{}", digits(&Sha256::digest(&bytes)));
    if reference.contains(':') && reference != digest {
        return digest_invalid();
    }
    if !reference.contains(':') && !is_tag(reference) {
        return refuse(StatusCode::BAD_REQUEST, "TAG_INVALID", "no tag");
    }
    let list = |key: &str| manifest.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let blobs = list("layers").into_iter().chain(manifest.get("config").cloned());
    let named = blobs.map(|one| ("_blobs", one));
    let named = named.chain(list("manifests").into_iter().map(|one| ("_manifests", one)));
    let named: Vec<(&str, Value)> = named.collect();
    if named.is_empty() {
        return Err(invalid("it names nothing"));
    }
    for (kind, one) in named {
        let digest = one.get("digest").and_then(Value::as_str).unwrap_or_default();
        if !images.has(&here, kind, digest) {
            let message = format!("{digest} is not there");
            return refuse(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", message);
        }
    }
    let _one_at_a_time = images.tags.lock().await;
    // Whoever reads it meanwhile, or after a kill, finds what was there or what is there then.
    let keep = |path: PathBuf, content: &[u8]| {
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let fresh = images.folder.join("uploads").join(ids::uuid());
        std::fs::write(&fresh, content)?;
        std::fs::rename(fresh, path)
    };
    let hex = digest.trim_start_matches("sha256:");
    keep(images.folder.join("blobs").join(hex), &bytes).map_err(failed)?;
    keep(here.join("_manifests").join(hex), kind.as_bytes()).map_err(failed)?;
    if !reference.contains(':') {
        keep(here.join("_tags").join(reference), digest.as_bytes()).map_err(failed)?;
    }
    Ok(created(&format!("/v2/{repository}/manifests/{reference}"), &digest))
}

fn content(
    path: &Path,
    method: &Method,
    digest: &str,
    kind: &str,
) -> Result<Response<Bytes>, Refusal> {
    let size = std::fs::metadata(path).map_err(failed)?.len();
    let bytes = match *method {
        Method::HEAD => Bytes::new(),
        _ => std::fs::read(path).map_err(failed)?.into(),
    };
    let mut response = Response::new(bytes);
    let headers = response.headers_mut();
    headers.insert("content-length", HeaderValue::from(size));
    let text = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    headers.insert("content-type", text(kind));
    headers.insert("docker-content-digest", text(digest));
    Ok(response)
}

fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

fn located(status: StatusCode, location: &str) -> Response<Bytes> {
    let mut response = empty(status);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert("location", location);
    }
    response
}

fn created(location: &str, digest: &str) -> Response<Bytes> {
    let mut response = located(StatusCode::CREATED, location);
    if let Ok(digest) = HeaderValue::from_str(digest) {
        response.headers_mut().insert("docker-content-digest", digest);
    }
    response
}

fn accepted(repository: &str, id: &str, size: u64) -> Response<Bytes> {
    let location = format!("/v2/{repository}/blobs/uploads/{id}");
    let mut response = located(StatusCode::ACCEPTED, &location);
    let range = format!("0-{}", size.saturating_sub(1));
    if let Ok(range) = HeaderValue::from_str(&range) {
        response.headers_mut().insert("range", range);
    }
    response
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let version = HeaderValue::from_static("registry/2.0");
    headers.insert("docker-distribution-api-version", version);
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let table = [
            ("/v2/", Some(Asked::Version)),
            ("/v2/a/b/tags/list", Some(Asked::Tags { repository: "a/b" })),
            ("/v2/a/blobs/uploads/", Some(Asked::Uploads { repository: "a" })),
            ("/v2/a/blobs/uploads/1-2", Some(Asked::Upload { repository: "a", id: "1-2" })),
            ("/v2/a/blobs/sha256:1", Some(Asked::Blob { repository: "a", digest: "sha256:1" })),
            ("/v2/a/manifests/v1", Some(Asked::Manifest { repository: "a", reference: "v1" })),
            ("/v2/projects/p/locations/l/services", None),
            ("/v2/projects/p/locations/l/services/s", None),
            ("/2015-03-31/functions", None),
        ];
        for (path, expected) in table {
            assert_eq!(asked(path), expected, "{path}");
        }
    }

    #[test]
    fn names_do_not_lead_out_of_their_folder() {
        assert!(is_name("project/models/digits-2"));
        for wrong in ["", "..", "a/../b", "/a", "a/", "A", "a//b", "_blobs", "a/_tags", "-a"] {
            assert!(!is_name(wrong), "{wrong}");
        }
        assert!(hex(&format!("sha256:{}", "0".repeat(64))).is_some());
        for wrong in ["sha256:../..", "sha512:00", &format!("sha256:{}", "G".repeat(64))] {
            assert!(hex(wrong).is_none(), "{wrong}");
        }
    }
}
