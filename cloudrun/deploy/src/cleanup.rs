//! Taking away what is not needed any more.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::{CloudRunError, Google, service};

/// Revisions that have neither traffic nor a tag, the newest first. Cloud Run itself keeps a thousand.
pub async fn unused(google: &Google, name: &str) -> Result<Vec<String>, CloudRunError> {
    let found = service::get(google, name).await?;
    let found = found.ok_or_else(|| CloudRunError::NoService { service: name.into() })?;
    let used = used(&found);
    let mut unused = all_revisions(google, name).await?;
    unused.retain(|(_, revision)| !used.contains(revision));
    unused.sort_unstable_by(|a, b| b.cmp(a));
    Ok(unused.into_iter().map(|(_, revision)| revision).collect())
}

/// Whom a service cannot be without: who is served or wanted, and its latest ones.
fn used(service: &Value) -> BTreeSet<String> {
    let targets = ["traffic", "trafficStatuses"].into_iter().flat_map(|field| {
        let all = service[field].as_array().into_iter().flatten();
        all.filter_map(|target| target["revision"].as_str())
    });
    let latest = ["latestReadyRevision", "latestCreatedRevision"];
    let latest = latest.into_iter().filter_map(|field| service[field].as_str());
    targets.chain(latest).map(|name| short(name).to_owned()).collect()
}

fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// When each was created, and its name.
async fn all_revisions(
    google: &Google,
    service: &str,
) -> Result<Vec<(String, String)>, CloudRunError> {
    let url = format!("{}/revisions", google.run_url(&google.service_name(service)));
    let mut query = vec![("pageSize", "100".to_owned())];
    let mut all = Vec::new();
    loop {
        let page = google.call("ListRevisions", Method::GET, &url, &query, None).await?;
        for one in page["revisions"].as_array().into_iter().flatten() {
            let text = |field: &str| one[field].as_str().unwrap_or_default();
            all.push((text("createTime").to_owned(), short(text("name")).to_owned()));
        }
        let Some(token) = page["nextPageToken"].as_str().filter(|token| !token.is_empty()) else {
            return Ok(all);
        };
        query.truncate(1);
        query.push(("pageToken", token.to_owned()));
    }
}

/// Deletes a revision; one that is gone already is no error.
pub async fn delete_revision(
    google: &Google,
    service: &str,
    revision: &str,
) -> Result<(), CloudRunError> {
    let url = google.run_url(&format!("{}/revisions/{revision}", google.service_name(service)));
    match google.call("DeleteRevision", Method::DELETE, &url, &[], None).await {
        Ok(operation) => google.finish("DeleteRevision", operation).await.map(drop),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes a service with all its revisions, if it is as it was when this began.
pub async fn delete_service(google: &Google, name: &str) -> Result<(), CloudRunError> {
    let found = service::get(google, name).await?;
    let found = found.ok_or_else(|| CloudRunError::NoService { service: name.into() })?;
    let url = google.run_url(&google.service_name(name));
    let etag = found["etag"].as_str().map(|etag| ("etag", etag.to_owned()));
    let query: Vec<_> = etag.into_iter().collect();
    match google.call("DeleteService", Method::DELETE, &url, &query, None).await {
        Ok(operation) => google.finish("DeleteService", operation).await.map(drop),
        Err(error) if error.is_conflict() => {
            Err(CloudRunError::Moved { what: format!("the service {name}") })
        }
        Err(error) => Err(error),
    }
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
