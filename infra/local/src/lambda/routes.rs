//! Lambda's REST paths and what stands behind them.
//!
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Operations.html>

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::data::{Fleet, invoke};
use crate::error::{AwsError, AwsResult};
use crate::lambda::code::DIRECT_ZIP_LIMIT;
use crate::lambda::functions::{self, CodeSource};
use crate::lambda::page::Page;
use crate::lambda::state::Code;
use crate::lambda::{aliases, concurrency, layers, names, urls, versions};
use crate::s3::Store;

/// What Lambda's calls work on.
#[derive(Clone, Debug)]
pub(crate) struct Lambda {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) store: Arc<Store>,
    pub(crate) endpoint: String,
}

struct Call<'a> {
    parts: &'a Parts,
    query: HashMap<String, String>,
    body: Bytes,
}

impl Call<'_> {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    fn page(&self) -> Page {
        Page {
            marker: self.query("Marker").map(str::to_owned),
            max_items: self.query("MaxItems").and_then(|text| text.parse().ok()),
        }
    }

    fn body<T: DeserializeOwned>(&self) -> AwsResult<T> {
        let body = if self.body.is_empty() { b"{}" } else { &self.body[..] };
        serde_json::from_slice(body).map_err(|error| {
            if error.is_data() {
                AwsError::validation(format!("1 validation error detected: {error}"))
            } else {
                AwsError::malformed(format!("Could not parse request body into json: {error}"))
            }
        })
    }
}

/// Answers one call.
pub(crate) async fn answer(lambda: &Lambda, parts: &Parts, body: Bytes) -> Response<Bytes> {
    match route(lambda, parts, body).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &AwsError) -> Response<Bytes> {
    let kind = if error.status < 500 { "User" } else { "Service" };
    let mut body = json!({ "Type": kind, "Message": error.message, "message": error.message });
    if let Some(reason) = error.reason {
        body["Reason"] = json!(reason);
    }
    let mut response = json_response(error.status, &body);
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(error.code));
    response
}

fn json_response(status: u16, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(&crate::ids::uuid()) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

fn no_content() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn decode(segment: &str) -> String {
    // A path is not a form: a plus sign is itself.
    let escaped = segment.replace('+', "%2B");
    let pair = format!("x={escaped}");
    form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

/// The code a request brings or points at, checked and kept.
async fn take_code(lambda: &Lambda, source: &CodeSource) -> AwsResult<Code> {
    let bytes: Bytes = match (&source.zip_file, &source.s3_bucket, &source.s3_key) {
        (Some(zip), None, None) => {
            let bytes =
                STANDARD.decode(zip).map_err(|_| AwsError::malformed("ZipFile is not base64"))?;
            if bytes.len() > DIRECT_ZIP_LIMIT {
                return Err(AwsError::too_large(format!(
                    "Request must be smaller than {DIRECT_ZIP_LIMIT} bytes for the zip file; upload \
                     larger ones to S3 first"
                )));
            }
            bytes.into()
        }
        (None, Some(bucket), Some(key)) => lambda.store.read(bucket, key).await?,
        _ if source.image_uri.is_some() => {
            return Err(AwsError::not_offered("functions from container images"));
        }
        _ => return Err(AwsError::invalid("Please provide either ZipFile or S3Bucket and S3Key.")),
    };
    let registry = lambda.fleet.registry.clone();
    // Unpacked here, once, and not while requests wait for it.
    tokio::task::spawn_blocking(move || {
        let code = registry.code.put(&bytes)?;
        registry.code.unpack(&code.sha256).map_err(AwsError::internal)?;
        Ok(code)
    })
    .await
    .map_err(AwsError::internal)?
}

async fn route(lambda: &Lambda, parts: &Parts, body: Bytes) -> AwsResult<Response<Bytes>> {
    let query = parts.uri.query().unwrap_or_default();
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let call = Call { parts, query, body };
    let path: Vec<String> =
        parts.uri.path().split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["2015-03-31", "functions"] => functions_route(lambda, &call).await,
        [
            "2015-03-31" | "2017-10-31" | "2019-09-30" | "2021-10-31",
            "functions",
            name,
            rest @ ..,
        ] => {
            let (name, qualifier) = names::split_function(name)?;
            let qualifier = call.query("Qualifier").map(str::to_owned).or(qualifier);
            function_route(lambda, &call, &name, qualifier.as_deref(), rest).await
        }
        ["2018-10-31", "layers", rest @ ..] => layers_route(lambda, &call, rest).await,
        ["2016-08-19", "account-settings"] => {
            Ok(json_response(200, &concurrency::account_settings(&lambda.fleet.registry)))
        }
        ["2017-03-31", "tags", arn] => {
            let (name, _) = names::split_function(arn)?;
            let state = lambda.fleet.registry.read();
            Ok(json_response(200, &json!({ "Tags": state.function(&name)?.tags })))
        }
        _ => Err(AwsError::not_offered(format!("{} {}", parts.method, parts.uri.path()))),
    }
}

async fn functions_route(lambda: &Lambda, call: &Call<'_>) -> AwsResult<Response<Bytes>> {
    let registry = &lambda.fleet.registry;
    match call.parts.method {
        Method::GET => {
            let all_versions = call.query("FunctionVersion") == Some("ALL");
            Ok(json_response(200, &functions::list(registry, all_versions, &call.page())))
        }
        Method::POST => {
            let asked: functions::Create = call.body()?;
            let code = take_code(lambda, &asked.code).await?;
            Ok(json_response(201, &functions::create(registry, asked, code)?))
        }
        _ => Err(AwsError::not_offered(format!("{} on functions", call.parts.method))),
    }
}

async fn function_route(
    lambda: &Lambda,
    call: &Call<'_>,
    name: &str,
    qualifier: Option<&str>,
    rest: &[&str],
) -> AwsResult<Response<Bytes>> {
    let registry = &lambda.fleet.registry;
    let endpoint = &lambda.endpoint;
    let ok = |body: Value| Ok(json_response(200, &body));
    let method = &call.parts.method;
    match (method, rest) {
        (&Method::GET, []) => ok(functions::get(registry, name, qualifier, endpoint)?),
        (&Method::DELETE, []) => {
            functions::delete(registry, name, qualifier).map(|()| no_content())
        }
        (&Method::GET, ["configuration"]) => {
            ok(functions::get_configuration(registry, name, qualifier)?)
        }
        (&Method::PUT, ["configuration"]) => {
            ok(functions::update_configuration(registry, name, call.body()?)?)
        }
        (&Method::PUT, ["code"]) => {
            registry.read().function(name)?;
            let asked: functions::UpdateCode = call.body()?;
            let code = take_code(lambda, &asked.code).await?;
            ok(functions::update_code(registry, name, asked, code)?)
        }
        (&Method::GET, ["versions"]) => ok(versions::list(registry, name, &call.page())?),
        (&Method::POST, ["versions"]) => {
            Ok(json_response(201, &versions::publish(registry, name, call.body()?)?))
        }
        (&Method::GET, ["aliases"]) => {
            ok(aliases::list(registry, name, call.query("FunctionVersion"), &call.page())?)
        }
        (&Method::POST, ["aliases"]) => {
            Ok(json_response(201, &aliases::create(registry, name, call.body()?)?))
        }
        (&Method::GET, ["aliases", alias]) => ok(aliases::get(registry, name, alias)?),
        (&Method::PUT, ["aliases", alias]) => {
            ok(aliases::update(registry, name, alias, call.body()?)?)
        }
        (&Method::DELETE, ["aliases", alias]) => {
            aliases::delete(registry, name, alias).map(|()| no_content())
        }
        (&Method::PUT, ["concurrency"]) => ok(concurrency::put(registry, name, &call.body()?)?),
        (&Method::GET, ["concurrency"]) => ok(concurrency::get(registry, name)?),
        (&Method::DELETE, ["concurrency"]) => {
            concurrency::delete(registry, name).map(|()| no_content())
        }
        (&Method::POST, ["url"]) => {
            let body = urls::create(registry, name, qualifier, call.body()?, endpoint)?;
            Ok(json_response(201, &body))
        }
        (&Method::PUT, ["url"]) => {
            ok(urls::update(registry, name, qualifier, call.body()?, endpoint)?)
        }
        (&Method::GET, ["url"]) => ok(urls::get(registry, name, qualifier, endpoint)?),
        (&Method::DELETE, ["url"]) => {
            urls::delete(registry, name, qualifier).map(|()| no_content())
        }
        (&Method::GET, ["urls"]) => ok(urls::list(registry, name, &call.page(), endpoint)?),
        (&Method::POST, ["invocations"]) => {
            let (name, qualifier) = (name.to_owned(), qualifier.map(str::to_owned));
            invoke::invoke(&lambda.fleet, name, qualifier, &call.parts.headers, call.body.clone())
                .await
        }
        _ => Err(AwsError::not_offered(format!("{method} {}", call.parts.uri.path()))),
    }
}

async fn layers_route(
    lambda: &Lambda,
    call: &Call<'_>,
    rest: &[&str],
) -> AwsResult<Response<Bytes>> {
    let registry = &lambda.fleet.registry;
    let endpoint = &lambda.endpoint;
    let ok = |body: Value| Ok(json_response(200, &body));
    match (&call.parts.method, rest) {
        (&Method::GET, []) => match call.query("Arn") {
            Some(arn) => ok(layers::get_by_arn(registry, arn, endpoint)?),
            None => ok(layers::list(registry, &call.page())),
        },
        (&Method::GET, [name, "versions"]) => {
            ok(layers::list_versions(registry, name, &call.page()))
        }
        (&Method::POST, [name, "versions"]) => {
            names::check_layer_name(name)?;
            let asked: layers::Publish = call.body()?;
            let code = take_code(lambda, &asked.content).await?;
            Ok(json_response(201, &layers::publish(registry, name, asked, code, endpoint)?))
        }
        (&Method::GET, [name, "versions", number]) => {
            ok(layers::get(registry, name, number, endpoint)?)
        }
        (&Method::DELETE, [name, "versions", number]) => {
            layers::delete(registry, name, number).map(|()| no_content())
        }
        (method, _) => Err(AwsError::not_offered(format!("{method} {}", call.parts.uri.path()))),
    }
}
