//! Who may send requests to a service: its IAM policy, by read, change and write.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::TRIES;
use crate::{CloudRunError, Google};

const INVOKER: &str = "roles/run.invoker";
const EVERYBODY: &str = "allUsers";

/// Whether everybody may send requests to a service: by its policy, or because it asks nobody.
pub(crate) async fn is_public(
    google: &Google,
    name: &str,
    service: &Value,
) -> Result<bool, CloudRunError> {
    Ok(asks_nobody(service) || lets_everybody_in(&policy(google, name).await?))
}

/// Whether the check of who sends requests is off.
pub(crate) fn asks_nobody(service: &Value) -> bool {
    service["invokerIamDisabled"] == true
}

async fn policy(google: &Google, service: &str) -> Result<Value, CloudRunError> {
    let url = format!("{}:getIamPolicy", google.run_url(&google.service_name(service)));
    let version = [("options.requestedPolicyVersion", "3".to_owned())];
    google.call("GetIamPolicy", Method::GET, &url, &version, None).await
}

fn lets_everybody_in(policy: &Value) -> bool {
    let mut bindings = policy["bindings"].as_array().into_iter().flatten();
    bindings.any(|binding| {
        binding["role"] == INVOKER
            && binding["condition"].is_null()
            && binding["members"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == EVERYBODY))
    })
}

/// Lets everybody send requests, or nobody in particular: the whole policy is read, changed and written
/// with its etag.
pub(crate) async fn set(google: &Google, service: &str, public: bool) -> Result<(), CloudRunError> {
    let url = format!("{}:setIamPolicy", google.run_url(&google.service_name(service)));
    for tried in 1.. {
        let body = json!({ "policy": changed(policy(google, service).await?, public) });
        match google.call("SetIamPolicy", Method::POST, &url, &[], Some(&body)).await {
            Err(error) if error.is_conflict() && tried < TRIES => {}
            other => return other.map(drop),
        }
    }
    Ok(())
}

/// A policy with everybody in it, or not; all else as it was.
fn changed(mut policy: Value, public: bool) -> Value {
    let mut bindings = policy["bindings"].as_array().cloned().unwrap_or_default();
    for binding in &mut bindings {
        if binding["role"] == INVOKER && binding["condition"].is_null() {
            let members = binding["members"].as_array().cloned().unwrap_or_default();
            let others = members.into_iter().filter(|member| member != EVERYBODY);
            binding["members"] = others.collect();
        }
    }
    if public {
        bindings.push(json!({ "role": INVOKER, "members": [EVERYBODY] }));
    }
    bindings.retain(|binding| binding["members"].as_array().is_some_and(|all| !all.is_empty()));
    policy["bindings"] = json!(bindings);
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_comes_and_goes_and_others_stay() {
        let theirs = json!({ "role": INVOKER, "members": ["user:a@example.com"] });
        let admin = json!({ "role": "roles/run.admin", "members": ["user:b@example.com"] });
        let before = json!({ "etag": "x", "bindings": [theirs, admin] });
        let open = changed(before.clone(), true);
        assert!(lets_everybody_in(&open) && !lets_everybody_in(&before));
        assert_eq!(changed(open, false), before);
        let conditional = json!({ "bindings": [{ "role": INVOKER, "members": [EVERYBODY], "condition": { "expression": "x" } }] });
        assert!(!lets_everybody_in(&conditional));
        assert_eq!(changed(conditional.clone(), false), conditional);
    }
}
