//! Who may send requests to a service: its IAM policy, by read, change and write.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::TRIES;
use crate::service::ServiceSpec;
use crate::{CloudRunError, Google};

const INVOKER: &str = "roles/run.invoker";
const EVERYBODY: &str = "allUsers";

/// Whether others may send requests than a specification says; of a service that is there.
pub(crate) async fn differs(
    google: &Google,
    spec: &ServiceSpec,
    service: &Value,
) -> Result<bool, CloudRunError> {
    if spec.public.is_none() && spec.invokers.is_empty() {
        return Ok(false);
    }
    let policy = policy(google, &spec.name).await?;
    // Where nobody is asked everybody may, whatever the policy says.
    let public = spec.public.filter(|public| !(*public && asks_nobody(service)));
    let is_open = asks_nobody(service) && public == Some(false);
    Ok(is_open || changed(policy.clone(), public, &spec.invokers) != policy)
}

/// Whether the check of who sends requests is off.
pub(crate) fn asks_nobody(service: &Value) -> bool {
    service["invokerIamDisabled"] == true
}

async fn policy(google: &Google, service: &str) -> Result<Value, CloudRunError> {
    let url = format!("{}:getIamPolicy", google.run_url(&google.service_name(service)));
    let version = [("options.requestedPolicyVersion", "3".to_owned())];
    let policy = google.call("GetIamPolicy", Method::GET, &url, &version, None).await?;
    // It is written as a whole, and without an etag over whatever is there.
    match policy["etag"].is_string() {
        true => Ok(policy),
        false => Err(CloudRunError::Incomplete { call: "GetIamPolicy", field: "etag" }),
    }
}

/// Lets those send requests whom a specification names: the whole policy is read, changed and written with
/// its etag.
pub(crate) async fn set(google: &Google, spec: &ServiceSpec) -> Result<(), CloudRunError> {
    let url = format!("{}:setIamPolicy", google.run_url(&google.service_name(&spec.name)));
    for tried in 1.. {
        let policy = policy(google, &spec.name).await?;
        let body = json!({ "policy": changed(policy, spec.public, &spec.invokers) });
        match google.call("SetIamPolicy", Method::POST, &url, &[], Some(&body)).await {
            Err(error) if error.is_conflict() && tried < TRIES => {}
            other => return other.map(drop),
        }
    }
    Ok(())
}

/// A policy with those in it who are named; with everybody, or not, if that is said; all else as it was.
fn changed(mut policy: Value, public: Option<bool>, invokers: &[String]) -> Value {
    let mut bindings = policy["bindings"].as_array().cloned().unwrap_or_default();
    let lets_in = |binding: &Value| binding["role"] == INVOKER && binding["condition"].is_null();
    let members = |binding: &Value| binding["members"].as_array().cloned().unwrap_or_default();
    if public == Some(false) {
        for binding in bindings.iter_mut().filter(|binding| lets_in(binding)) {
            let others = members(binding).into_iter().filter(|member| member != EVERYBODY);
            binding["members"] = others.collect();
        }
        bindings.retain(|binding| !members(binding).is_empty());
    }
    let everybody = (public == Some(true)).then_some(EVERYBODY);
    let named = invokers.iter().map(String::as_str).chain(everybody);
    let has = |name: &str| {
        bindings.iter().any(|binding| lets_in(binding) && members(binding).contains(&json!(name)))
    };
    let missing: Vec<&str> = named.filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        bindings.push(json!({ "role": INVOKER, "members": missing }));
    }
    if !(bindings.is_empty() && policy["bindings"].is_null()) {
        policy["bindings"] = json!(bindings);
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(policy: &Value, public: Option<bool>) -> Value {
        changed(policy.clone(), public, &[])
    }

    #[test]
    fn everybody_comes_and_goes_and_others_stay() {
        let theirs = json!({ "role": INVOKER, "members": ["user:a@example.com"] });
        let admin = json!({ "role": "roles/run.admin", "members": ["user:b@example.com"] });
        let before = json!({ "etag": "x", "bindings": [theirs, admin] });
        let open = public(&before, Some(true));
        assert_ne!(open, before);
        assert_eq!(public(&open, Some(true)), open, "once is enough");
        assert_eq!(public(&open, None), open);
        assert_eq!(public(&open, Some(false)), before);
        let conditional = json!({ "bindings": [{ "role": INVOKER, "members": [EVERYBODY], "condition": { "expression": "x" } }] });
        assert_ne!(public(&conditional, Some(true)), conditional);
        assert_eq!(public(&conditional, Some(false)), conditional);
        let nobody = json!({ "etag": "x" });
        assert_eq!(public(&nobody, Some(false)), nobody);
    }

    #[test]
    fn who_is_named_is_let_in_once() {
        let caller = "serviceAccount:c@p.iam.gserviceaccount.com";
        let named = [caller.to_owned(), "user:a@example.com".to_owned()];
        let theirs = json!({ "role": INVOKER, "members": ["user:a@example.com"] });
        let before = json!({ "etag": "x", "bindings": [theirs] });
        let after = changed(before, None, &named);
        let added = json!({ "role": INVOKER, "members": [caller] });
        assert_eq!(after["bindings"], json!([theirs, added]));
        assert_eq!(changed(after.clone(), None, &named), after);
    }
}
