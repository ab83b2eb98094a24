//! Calls of Google's APIs: who asks, what is tried again, what a refusal says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use http::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use slsml_release::ports::causes;

use crate::CloudRunError;

/// Everything slsml asks for is behind this scope; what is allowed is said by IAM.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// How often a write that came too late is tried anew, on what is there then.
pub(crate) const TRIES: u32 = 4;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(60);

/// How often an operation is looked at, at first and at most.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AT_MOST: Duration = Duration::from_secs(2);

/// How long an operation may take: Google gives a container four minutes to listen.
const OPERATION: Duration = Duration::from_secs(360);

/// What goes with a call.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    None,
    Json(&'a Value),
    Bytes(&'a [u8]),
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The project's id.
    pub project: String,
    /// As `europe-west1`.
    pub region: String,
    /// Instead of Google's own addresses; no credentials are looked for then.
    pub endpoint: Option<String>,
}

/// A project and a region, and who asks.
#[derive(Clone, Debug)]
pub struct Google {
    http: Client,
    run: String,
    monitoring: String,
    logging: String,
    storage: String,
    credentials: Option<Arc<AccessTokenCredentials>>,
    project: String,
    region: String,
}

impl Google {
    /// Finds credentials as Google's libraries do (Application Default Credentials). Nothing is sent
    /// yet.
    pub fn connect(connect: Connect) -> Result<Google, CloudRunError> {
        let why = |error: &(dyn std::error::Error + 'static)| CloudRunError::NoCredentials {
            why: causes(error),
        };
        let credentials = match connect.endpoint {
            Some(_) => None,
            None => Some(Arc::new(default_credentials().map_err(|error| why(&error))?)),
        };
        let http = Client::builder()
            .timeout(CALL)
            .user_agent(concat!("slsml/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| why(&error))?;
        let at = |google: &str| connect.endpoint.clone().unwrap_or_else(|| google.into());
        Ok(Google {
            http,
            run: at("https://run.googleapis.com"),
            monitoring: at("https://monitoring.googleapis.com"),
            logging: at("https://logging.googleapis.com"),
            storage: at("https://storage.googleapis.com"),
            credentials,
            project: connect.project,
            region: connect.region,
        })
    }

    /// The project's id.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// `projects/P/locations/L`.
    fn parent(&self) -> String {
        format!("projects/{}/locations/{}", self.project, self.region)
    }

    /// `projects/P/locations/L/services/S`.
    pub(crate) fn service_name(&self, service: &str) -> String {
        format!("{}/services/{service}", self.parent())
    }

    /// Cloud Run's address of the services, or of a resource by its name.
    pub(crate) fn run_url(&self, name: &str) -> String {
        format!("{}/v2/{name}", self.run)
    }

    /// Cloud Run's address of a service's revisions.
    pub(crate) fn revisions_url(&self, service: &str) -> String {
        format!("{}/revisions", self.run_url(&self.service_name(service)))
    }

    pub(crate) fn services_url(&self) -> String {
        self.run_url(&format!("{}/services", self.parent()))
    }

    pub(crate) fn time_series_url(&self) -> String {
        format!("{}/v3/projects/{}/timeSeries", self.monitoring, self.project)
    }

    /// Cloud Logging's address of a resource, or of a call.
    pub(crate) fn logging_url(&self, name: &str) -> String {
        format!("{}/v2/{name}", self.logging)
    }

    /// Cloud Storage's address of a resource: names of objects may have slashes.
    pub(crate) fn storage_url(&self, api: &str, names: &[&str]) -> Result<String, CloudRunError> {
        let unusable = |why: String| CloudRunError::NoCredentials { why };
        let mut url = reqwest::Url::parse(&format!("{}{api}", self.storage))
            .map_err(|error| unusable(error.to_string()))?;
        url.path_segments_mut()
            .map_err(|()| unusable("Cloud Storage's address has no path".into()))?
            .extend(names);
        Ok(url.into())
    }

    /// The bearer token of whoever asks.
    async fn token(&self) -> Result<String, CloudRunError> {
        match &self.credentials {
            None => Ok("slsml-local".into()),
            Some(credentials) => {
                let token = credentials.access_token().await;
                let token =
                    token.map_err(|error| CloudRunError::NoCredentials { why: causes(&error) })?;
                Ok(token.token)
            }
        }
    }

    /// An identity token for requests to a service that is not public, if there is one to be had. Service
    /// accounts must say whom it is for, and people cannot.
    pub(crate) async fn identity_token(&self, audience: &str) -> Option<String> {
        if self.credentials.is_none() {
            return Some("slsml-local".into());
        }
        let whom = format!("--audiences={audience}");
        for more in [Some(&*whom), None] {
            let mut gcloud = tokio::process::Command::new("gcloud");
            gcloud.args(["auth", "print-identity-token"]).args(more);
            let output = gcloud.output().await.ok()?;
            let token = String::from_utf8(output.stdout).ok()?;
            if output.status.success() && !token.trim().is_empty() {
                return Some(token.trim().to_owned());
            }
        }
        None
    }

    /// The client, for requests to services.
    pub(crate) fn http(&self) -> &Client {
        &self.http
    }

    /// All pages of a list, one after another.
    pub(crate) async fn pages(
        &self,
        call: &'static str,
        url: &str,
        query: &[(&str, String)],
        mut each: impl FnMut(&Value) -> Result<(), CloudRunError>,
    ) -> Result<(), CloudRunError> {
        let mut next = None;
        loop {
            let mut query = query.to_vec();
            query.extend(next.map(|token| ("pageToken", token)));
            let page = self.call(call, Method::GET, url, &query, None).await?;
            each(&page)?;
            next =
                page["nextPageToken"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// One call with JSON, and its answer.
    pub(crate) async fn call(
        &self,
        call: &'static str,
        method: Method,
        url: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Value, CloudRunError> {
        let payload = body.map_or(Payload::None, Payload::Json);
        let is_over = method == Method::DELETE;
        let answer = self.exchange(call, method, url, query, payload).await?;
        if is_over && answer.bytes.is_empty() {
            return Ok(Value::Null);
        }
        // What is no JSON is not Google's, and nothing may be concluded from it.
        serde_json::from_slice(&answer.bytes)
            .map_err(|_| CloudRunError::Incomplete { call, field: "JSON" })
    }

    /// One call. What passes is tried again; a write that carries an etag cannot be done twice.
    pub(crate) async fn exchange(
        &self,
        call: &'static str,
        method: Method,
        url: &str,
        query: &[(&str, String)],
        payload: Payload<'_>,
    ) -> Result<Answer, CloudRunError> {
        let unreachable = |error: reqwest::Error| {
            // Without the address: the call's name says more.
            CloudRunError::Unreachable { call, cause: causes(&error.without_url()) }
        };
        let once = || async {
            let token = self.token().await?;
            let mut request =
                self.http.request(method.clone(), url).bearer_auth(token).query(query);
            request = match payload {
                Payload::None => request,
                Payload::Json(body) => request.json(body),
                Payload::Bytes(bytes) => {
                    request.header("content-type", "application/json").body(bytes.to_vec())
                }
            };
            let response = request.send().await.map_err(unreachable)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let bytes = response.bytes().await.map_err(unreachable)?;
            match status.is_success() {
                true => Ok(Answer { headers, bytes }),
                false => Err(refused(call, status, &bytes)),
            }
        };
        let policy = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(4))
            .with_max_times(4);
        once.retry(policy).when(is_passing).await
    }

    /// Waits for an operation's end; what it ended with.
    pub(crate) async fn finish(
        &self,
        call: &'static str,
        operation: Value,
    ) -> Result<Value, CloudRunError> {
        let (mut operation, mut pause, began) = (operation, LOOK, Instant::now());
        while operation["done"] != true {
            if began.elapsed() > OPERATION {
                let seconds = OPERATION.as_secs();
                return Err(CloudRunError::TooLong { what: call.into(), seconds });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LOOK_AT_MOST);
            let name = operation["name"]
                .as_str()
                .ok_or(CloudRunError::Incomplete { call, field: "the operation's name" })?;
            let url = self.run_url(name);
            operation = self.call("GetOperation", Method::GET, &url, &[], None).await?;
        }
        match operation["error"].as_object() {
            Some(error) => {
                let reason = error.get("message").and_then(Value::as_str);
                let reason = reason.unwrap_or("Google gives no reason").into();
                Err(CloudRunError::Failed { what: call.into(), reason })
            }
            None => Ok(operation["response"].take()),
        }
    }
}

fn default_credentials() -> Result<AccessTokenCredentials, google_cloud_auth::build_errors::Error> {
    Builder::default().with_scopes([SCOPE]).build_access_token_credentials()
}

/// A token of the Application Default Credentials, if there are some.
pub(crate) async fn access_token() -> Option<String> {
    let token = default_credentials().ok()?.access_token().await.ok()?;
    Some(token.token)
}

fn is_passing(error: &CloudRunError) -> bool {
    match error {
        CloudRunError::Unreachable { .. } => true,
        CloudRunError::Refused { status, .. } => *status == 429 || *status >= 500 && *status != 501,
        _ => false,
    }
}

/// A refusal as Google writes it. <https://cloud.google.com/apis/design/errors>
fn refused(call: &'static str, status: StatusCode, bytes: &[u8]) -> CloudRunError {
    let value: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let error = &value["error"];
    let text = || String::from_utf8_lossy(bytes).chars().take(300).collect::<String>();
    // Why permission is denied: for want of a role, or because an API is not enabled.
    let mut details = error["details"].as_array().into_iter().flatten();
    let reason = details.find_map(|detail| detail["reason"].as_str());
    let reason = reason.filter(|_| status == StatusCode::FORBIDDEN);
    let code = reason.or(error["status"].as_str()).unwrap_or(status.as_str()).to_owned();
    CloudRunError::Refused {
        call,
        status: status.as_u16(),
        code,
        message: error["message"].as_str().map_or_else(text, str::to_owned),
    }
}
