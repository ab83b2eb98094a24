//! Taking away what is not needed any more.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::{CloudRunError, ServiceTarget, service, status, traffic};

impl ServiceTarget {
    /// Revisions that have neither traffic nor a tag, the newest first. Cloud Run itself keeps a
    /// thousand.
    pub async fn unused(&self) -> Result<Vec<String>, CloudRunError> {
        let used = used(&service::existing(&self.google, &self.service).await?);
        let all = status::revisions(&self.google, &self.service).await?;
        let all = all.into_iter().map(|one| one.revision);
        Ok(all.filter(|revision| !used.contains(revision)).collect())
    }

    /// Deletes a revision; one that is gone already is no error.
    pub async fn delete_revision(&self, revision: &str) -> Result<(), CloudRunError> {
        let Some(found) = service::revision(&self.google, &self.service, revision).await? else {
            return Ok(());
        };
        let url = format!("{}/{revision}", self.google.revisions_url(&self.service));
        let Err(error) = self.delete("DeleteRevision", &url, &etag(&found)).await else {
            return Ok(());
        };
        match service::revision(&self.google, &self.service, revision).await? {
            Some(_) => Err(error),
            None => Ok(()),
        }
    }

    /// Deletes the service with all its revisions, if it is as it was when this began.
    pub async fn delete_service(&self) -> Result<(), CloudRunError> {
        let found = service::existing(&self.google, &self.service).await?;
        let url = self.google.run_url(&self.google.service_name(&self.service));
        let Err(error) = self.delete("DeleteService", &url, &etag(&found)).await else {
            return Ok(());
        };
        // An answer may have been lost, and the deletion have changed the etag.
        let now = service::get(&self.google, &self.service).await?;
        if now.is_none_or(|now| now["uid"] != found["uid"] || !now["deleteTime"].is_null()) {
            return Ok(());
        }
        Err(if error.is_conflict() { CloudRunError::moved(&self.service) } else { error })
    }

    async fn delete(
        &self,
        call: &'static str,
        url: &str,
        query: &[(&str, String)],
    ) -> Result<(), CloudRunError> {
        let operation = self.google.call(call, Method::DELETE, url, query, None).await?;
        self.google.finish(call, operation).await.map(drop)
    }
}

/// That something is as it was seen.
fn etag(found: &Value) -> Vec<(&'static str, String)> {
    found["etag"].as_str().map(|etag| ("etag", etag.to_owned())).into_iter().collect()
}

/// Whom a service cannot be without: who is served or wanted, and its latest ones.
fn used(service: &Value) -> BTreeSet<String> {
    let targets = ["traffic", "trafficStatuses"].into_iter().flat_map(|field| {
        traffic::list(service, field).filter_map(|target| target["revision"].as_str())
    });
    let latest = ["latestReadyRevision", "latestCreatedRevision"];
    let latest = latest.into_iter().filter_map(|field| service[field].as_str());
    targets.chain(latest).map(|name| traffic::short(name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_served_wanted_or_latest_is_used() {
        let service = json!({
            "traffic": [{ "revision": "s-1", "percent": 100 }, { "revision": "s-2", "tag": "x" }],
            "trafficStatuses": [{ "revision": "s-0", "percent": 100 }],
            "latestReadyRevision": "projects/p/locations/l/services/s/revisions/s-3",
            "latestCreatedRevision": "projects/p/locations/l/services/s/revisions/s-4",
        });
        let expected = ["s-0", "s-1", "s-2", "s-3", "s-4"].map(str::to_owned);
        assert_eq!(used(&service), BTreeSet::from(expected));
    }
}
