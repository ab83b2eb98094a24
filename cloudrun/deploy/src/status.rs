//! What is deployed.

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
    let found = service::existing(google, name).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let latest = traffic::latest(&found).unwrap_or_default();
    let traffic = traffic::list(&found, "trafficStatuses").map(|one| TargetStatus {
        revision: traffic::revision(one).unwrap_or(&latest).to_owned(),
        percent: one["percent"].as_u64().unwrap_or(0) as u32,
        tag: traffic::tag(one).map(str::to_owned),
        address: one["uri"].as_str().map(str::to_owned),
    });
    let condition = &found["terminalCondition"];
    let state = match (found["reconciling"] == true, condition["state"].as_str()) {
        (true, _) => "reconciling",
        (false, Some("CONDITION_FAILED")) => "failed",
        _ => "ready",
    };
    let revisions = revisions(google, name).await?;
    Ok(ServiceStatus {
        service: name.into(),
        address: text(&found["uri"]),
        state,
        why: condition["message"].as_str().filter(|_| state == "failed").map(str::to_owned),
        traffic: traffic.collect(),
        revisions,
    })
}

/// A service's revisions, the newest first.
pub(crate) async fn revisions(
    google: &Google,
    service: &str,
) -> Result<Vec<RevisionStatus>, CloudRunError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    let each = |page: &Value| {
        let found = page["revisions"].as_array().into_iter().flatten();
        all.extend(found.map(|one| RevisionStatus {
            revision: traffic::short(one["name"].as_str().unwrap_or_default()).to_owned(),
            state: match readiness(one) {
                Readiness::Ready => "ready",
                Readiness::Failed => "failed",
                Readiness::Pending => "pending",
            },
            created: text(&one["createTime"]),
            image: text(&one["containers"][0]["image"]),
        }));
        Ok(())
    };
    let size = [("pageSize", "100".to_owned())];
    google.pages("ListRevisions", &google.revisions_url(service), &size, each).await?;
    all.sort_by(|a, b| (&b.created, &b.revision).cmp(&(&a.created, &a.revision)));
    Ok(all)
}
