//! What is deployed.

use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use crate::service::{self, Readiness, readiness};
use crate::{CloudRunError, Google, traffic};

/// A service, its targets and revisions.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub service: String,
    /// Where it answers.
    pub address: String,
    /// Whether it is as it is wanted: `ready`, `reconciling` or `failed`.
    pub state: &'static str,
    /// Why it is not.
    pub why: Option<String>,
    /// Who has which share of the traffic, and addresses of its own.
    pub traffic: Vec<TargetStatus>,
    /// The newest first.
    pub revisions: Vec<RevisionStatus>,
}

/// A traffic target.
#[derive(Clone, Debug, Serialize)]
pub struct TargetStatus {
    /// The revision.
    pub revision: String,
    /// Its share.
    pub percent: u32,
    /// The tag.
    pub tag: Option<String>,
    /// Where the tag answers.
    pub address: Option<String>,
}

/// A revision.
#[derive(Clone, Debug, Serialize)]
pub struct RevisionStatus {
    /// Its name.
    pub revision: String,
    /// `ready`, `pending` or `failed`.
    pub state: &'static str,
    /// When it was created.
    pub created: String,
    /// What it runs.
    pub image: String,
}

/// Reads what is deployed.
pub async fn status(google: &Google, name: &str) -> Result<ServiceStatus, CloudRunError> {
    let found = service::get(google, name).await?;
    let found = found.ok_or_else(|| CloudRunError::NoService { service: name.into() })?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let statuses = found["trafficStatuses"].as_array().cloned().unwrap_or_default();
    let latest = traffic::latest(&found).unwrap_or_default();
    let some = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let traffic = statuses.iter().map(|one| TargetStatus {
        revision: some(&one["revision"]).unwrap_or_else(|| latest.clone()),
        percent: one["percent"].as_u64().unwrap_or(0) as u32,
        tag: some(&one["tag"]),
        address: some(&one["uri"]),
    });
    let condition = &found["terminalCondition"];
    let state = match (found["reconciling"] == true, condition["state"].as_str()) {
        (true, _) => "reconciling",
        (false, Some("CONDITION_FAILED")) => "failed",
        _ => "ready",
    };
    let url = format!("{}/revisions", google.run_url(&google.service_name(name)));
    let page = [("pageSize", "50".to_owned())];
    let revisions = google.call("ListRevisions", Method::GET, &url, &page, None).await?;
    let revisions = revisions["revisions"].as_array().into_iter().flatten().map(|one| {
        let name = text(&one["name"]);
        RevisionStatus {
            revision: name.rsplit('/').next().unwrap_or_default().to_owned(),
            state: match readiness(one) {
                Readiness::Ready => "ready",
                Readiness::Failed => "failed",
                Readiness::Pending => "pending",
            },
            created: text(&one["createTime"]),
            image: text(&one["containers"][0]["image"]),
        }
    });
    Ok(ServiceStatus {
        service: name.into(),
        address: text(&found["uri"]),
        state,
        why: condition["message"].as_str().filter(|_| state == "failed").map(str::to_owned),
        traffic: traffic.collect(),
        revisions: revisions.collect(),
    })
}
