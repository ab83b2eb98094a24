//! Names and ARNs.

use crate::error::{AwsError, AwsResult};
use crate::{ACCOUNT, REGION};

/// The unpublished version.
pub(crate) const LATEST: &str = "$LATEST";

pub(crate) fn function_arn(function: &str, qualifier: Option<&str>) -> String {
    let arn = format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}");
    match qualifier {
        Some(qualifier) => format!("{arn}:{qualifier}"),
        None => arn,
    }
}

pub(crate) fn layer_arn(layer: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT}:layer:{layer}")
}

pub(crate) fn log_group(function: &str) -> String {
    format!("/aws/lambda/{function}")
}

/// A function's name and the qualifier that may be part of it: a name, a partial or a full ARN.
pub(crate) fn split_function(text: &str) -> AwsResult<(String, Option<String>)> {
    let rest = match text.split_once(":function:") {
        Some((_, rest)) => rest,
        None => text,
    };
    let (name, qualifier) = match rest.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier.to_owned())),
        None => (rest, None),
    };
    check_function_name(name)?;
    Ok((name.to_owned(), qualifier))
}

pub(crate) fn check_function_name(name: &str) -> AwsResult<()> {
    if is_word(name, 64) {
        return Ok(());
    }
    Err(AwsError::validation(format!(
        "1 validation error detected: Value '{name}' at 'functionName' failed to satisfy \
         constraint: up to 64 letters, digits, hyphens and underscores"
    )))
}

/// An alias name has letters, digits, hyphens and underscores, and is not a number.
pub(crate) fn check_alias_name(name: &str) -> AwsResult<()> {
    if is_word(name, 128) && !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    Err(AwsError::validation(format!(
        "1 validation error detected: Value '{name}' at 'name' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"
    )))
}

pub(crate) fn check_layer_name(name: &str) -> AwsResult<()> {
    if is_word(name, 140) {
        return Ok(());
    }
    Err(AwsError::validation(format!(
        "1 validation error detected: Value '{name}' at 'layerName' failed to satisfy constraint: \
         up to 140 letters, digits, hyphens and underscores"
    )))
}

fn is_word(text: &str, longest: usize) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=longest).contains(&text.len()) && text.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_plainly_or_by_arn() {
        let split = |text| split_function(text).unwrap();
        assert_eq!(split("digits"), ("digits".into(), None));
        assert_eq!(split("digits:live"), ("digits".into(), Some("live".into())));
        let arn = function_arn("digits", Some("3"));
        assert_eq!(split(&arn), ("digits".into(), Some("3".into())));
        assert_eq!(split(&format!("{ACCOUNT}:function:digits")), ("digits".into(), None));
        assert!(split_function("no spaces").is_err());
        assert!(split_function("").is_err());
    }

    #[test]
    fn alias_names_are_words_but_not_numbers() {
        for good in ["live", "v2", "2-canary", "_"] {
            assert!(check_alias_name(good).is_ok(), "{good}");
        }
        for bad in ["", "42", "a b", "a.b", LATEST] {
            assert!(check_alias_name(bad).is_err(), "{bad}");
        }
    }
}
