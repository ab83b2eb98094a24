//! AWS's query protocol: form fields in, XML out. IAM, STS and older CloudWatch clients speak it.

use serde_json::{Map, Value};

use crate::error::AwsError;
use crate::ids;

/// The fields of a form as a tree: `A.member.1.B=x` is `{"A": [{"B": "x"}]}`. Leaves are text.
pub(crate) fn parse(body: &[u8]) -> Value {
    let mut root = Value::Object(Map::new());
    for (key, value) in form_urlencoded::parse(body) {
        let mut at = &mut root;
        for part in key.split('.').take(16) {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = match at {
                Value::Object(map) => map.entry(part.to_owned()).or_insert(Value::Null),
                other => other,
            };
        }
        *at = Value::String(value.into_owned());
    }
    lists(root)
}

/// `{"member": {"1": a, "2": b}}` becomes `[a, b]`.
fn lists(value: Value) -> Value {
    let Value::Object(mut map) = value else { return value };
    if map.len() == 1
        && let Some(Value::Object(members)) = map.remove("member")
    {
        let mut members: Vec<(u32, Value)> = members
            .into_iter()
            .filter_map(|(index, member)| Some((index.parse().ok()?, lists(member))))
            .collect();
        members.sort_by_key(|(index, _)| *index);
        return Value::Array(members.into_iter().map(|(_, member)| member).collect());
    }
    map.into_iter().map(|(key, value)| (key, lists(value))).collect()
}

/// The answer to an action.
pub(crate) fn answer(action: &str, namespace: &str, result: &Value) -> String {
    let mut xml = format!("<{action}Response xmlns=\"{namespace}\"><{action}Result>");
    children(result, &mut xml);
    xml.push_str(&format!("</{action}Result><ResponseMetadata><RequestId>"));
    xml.push_str(&ids::uuid());
    xml.push_str(&format!("</RequestId></ResponseMetadata></{action}Response>"));
    xml
}

/// A refusal.
pub(crate) fn refusal(error: &AwsError, namespace: &str) -> String {
    let kind = if error.status < 500 { "Sender" } else { "Receiver" };
    let mut xml = format!("<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{kind}</Type><Code>");
    escape(error.code, &mut xml);
    xml.push_str("</Code><Message>");
    escape(&error.message, &mut xml);
    xml.push_str(&format!(
        "</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        ids::uuid()
    ));
    xml
}

fn children(value: &Value, xml: &mut String) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                element(key, value, xml);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| element("member", value, xml)),
        Value::String(text) => escape(text, xml),
        other => xml.push_str(&other.to_string()),
    }
}

fn element(name: &str, value: &Value, xml: &mut String) {
    // Times are numbers of seconds in the tree, and text here.
    let value = match value {
        Value::Array(all) if name == "Timestamps" => {
            let iso = |time: &Value| Value::String(ids::iso8601(time.as_u64().unwrap_or_default()));
            &Value::Array(all.iter().map(iso).collect())
        }
        other => other,
    };
    xml.push_str(&format!("<{name}>"));
    children(value, xml);
    xml.push_str(&format!("</{name}>"));
}

fn escape(text: &str, xml: &mut String) {
    for symbol in text.chars() {
        match symbol {
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '&' => xml.push_str("&amp;"),
            '"' => xml.push_str("&quot;"),
            other => xml.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbered_members_become_a_list_in_their_order() {
        let body = b"Action=Put&D.member.10.N=j&D.member.2.N=b&D.member.2.V.member.1=7&E.F=g";
        let tree = parse(body);
        assert_eq!(
            tree,
            json!({ "Action": "Put", "D": [{ "N": "b", "V": ["7"] }, { "N": "j" }], "E": { "F": "g" } })
        );
    }

    #[test]
    fn answers_are_escaped_and_nested() {
        let xml = answer("Get", "urn:x", &json!({ "A": [{ "B": "<&>" }], "Timestamps": [0] }));
        assert!(xml.starts_with(
            "<GetResponse xmlns=\"urn:x\"><GetResult><A><member><B>&lt;&amp;&gt;</B>"
        ));
        assert!(xml.contains("<Timestamps><member>1970-01-01T00:00:00Z</member></Timestamps>"));
    }
}
