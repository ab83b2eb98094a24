//! IAM as far as creating a function needs a role, and STS's GetCallerIdentity.

use serde_json::{Value, json};

use crate::error::{AwsError, AwsResult};
use crate::lambda::registry::Registry;
use crate::lambda::state::Role;
use crate::{ACCESS_KEY, ACCOUNT, ids};

pub(crate) const IAM_NAMESPACE: &str = "https://iam.amazonaws.com/doc/2010-05-08/";
pub(crate) const STS_NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The role every local cloud begins with.
const FIRST_ROLE: &str = "slsml-local";

const TRUST_LAMBDA: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;

pub(crate) fn sts(action: &str) -> AwsResult<Value> {
    match action {
        "GetCallerIdentity" => Ok(json!({
            "Arn": format!("arn:aws:iam::{ACCOUNT}:user/{ACCESS_KEY}"),
            "UserId": "AIDASLSMLLOCAL",
            "Account": ACCOUNT,
        })),
        other => Err(AwsError::not_offered(format!("STS's {other}"))),
    }
}

/// Makes sure that the first role exists.
pub(crate) fn prepare(registry: &Registry) -> AwsResult<()> {
    if registry.read().roles.contains_key(FIRST_ROLE) {
        return Ok(());
    }
    registry.change(|state| {
        state.roles.insert(FIRST_ROLE.into(), role("/", TRUST_LAMBDA, "Made by slsml local"));
        Ok(())
    })
}

fn role(path: &str, trust: &str, description: &str) -> Role {
    Role {
        id: format!("AROA{}", ids::short_id(17).to_uppercase()),
        path: path.into(),
        assume_role_policy: trust.into(),
        description: description.into(),
        created: ids::now_millis(),
    }
}

fn arn(name: &str, role: &Role) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role{}{name}", role.path)
}

fn to_wire(name: &str, role: &Role) -> Value {
    let trust: String =
        form_urlencoded::byte_serialize(role.assume_role_policy.as_bytes()).collect();
    json!({
        "Path": role.path,
        "RoleName": name,
        "RoleId": role.id,
        "Arn": arn(name, role),
        "CreateDate": ids::iso8601(role.created / 1000),
        "AssumeRolePolicyDocument": trust.replace('+', "%20"),
        "Description": role.description,
        "MaxSessionDuration": 3600,
    })
}

pub(crate) fn iam(registry: &Registry, action: &str, request: &Value) -> AwsResult<Value> {
    let field = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
    let name = field("RoleName");
    let unknown =
        || AwsError::no_such_entity(format!("The role with name {name} cannot be found."));
    match action {
        "CreateRole" => {
            let path = if field("Path").is_empty() { "/" } else { field("Path") };
            let trust = field("AssumeRolePolicyDocument");
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@-_".contains(&byte);
            if name.is_empty() || name.len() > 64 || !name.bytes().all(word) {
                return Err(AwsError {
                    code: "ValidationError",
                    ..AwsError::validation("The role name is invalid.")
                });
            }
            if serde_json::from_str::<Value>(trust).is_err() {
                let error = AwsError::validation("This policy contains invalid Json");
                return Err(AwsError { code: "MalformedPolicyDocument", ..error });
            }
            registry.change(|state| {
                if state.roles.contains_key(name) {
                    return Err(AwsError::already_exists(format!(
                        "Role with name {name} already exists."
                    )));
                }
                let role = role(path, trust, field("Description"));
                let wire = to_wire(name, &role);
                state.roles.insert(name.into(), role);
                Ok(json!({ "Role": wire }))
            })
        }
        "GetRole" => {
            let state = registry.read();
            let role = state.roles.get(name).ok_or_else(unknown)?;
            Ok(json!({ "Role": to_wire(name, role) }))
        }
        "ListRoles" => {
            let state = registry.read();
            let roles: Vec<Value> =
                state.roles.iter().map(|(name, role)| to_wire(name, role)).collect();
            Ok(json!({ "Roles": roles, "IsTruncated": false }))
        }
        "DeleteRole" => {
            registry.change(|state| state.roles.remove(name).map(|_| json!({})).ok_or_else(unknown))
        }
        other => Err(AwsError::not_offered(format!("IAM's {other}"))),
    }
}
