//! Reserved concurrency and what the account has of it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{AwsError, AwsResult};
use crate::lambda::code::{DIRECT_ZIP_LIMIT, UNZIPPED_LIMIT};
use crate::lambda::functions::ranged;
use crate::lambda::registry::Registry;

/// What must stay available to functions without a reservation.
const UNRESERVED_MINIMUM: u32 = 100;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Put {
    reserved_concurrent_executions: i64,
}

pub(crate) fn put(registry: &Registry, name: &str, asked: &Put) -> AwsResult<Value> {
    let account = registry.account_concurrency;
    let reserved = ranged(
        asked.reserved_concurrent_executions,
        "reservedConcurrentExecutions",
        0,
        i64::from(u32::MAX),
    )?;
    registry.change(|state| {
        state.function(name)?;
        let others: u32 = state
            .functions
            .values()
            .filter(|other| other.name != name)
            .filter_map(|other| other.reserved_concurrency)
            .sum();
        if u64::from(others) + u64::from(reserved) + u64::from(UNRESERVED_MINIMUM)
            > u64::from(account)
        {
            return Err(AwsError::invalid(format!(
                "Specified ReservedConcurrentExecutions for function decreases account's \
                 UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_MINIMUM}]."
            )));
        }
        state.function_mut(name)?.reserved_concurrency = Some(reserved);
        Ok(json!({ "ReservedConcurrentExecutions": reserved }))
    })
}

pub(crate) fn get(registry: &Registry, name: &str) -> AwsResult<Value> {
    let state = registry.read();
    Ok(match state.function(name)?.reserved_concurrency {
        Some(reserved) => json!({ "ReservedConcurrentExecutions": reserved }),
        None => json!({}),
    })
}

pub(crate) fn delete(registry: &Registry, name: &str) -> AwsResult<()> {
    registry.change(|state| {
        state.function_mut(name)?.reserved_concurrency = None;
        Ok(())
    })
}

pub(crate) fn account_settings(registry: &Registry) -> Value {
    let state = registry.read();
    let account = registry.account_concurrency;
    let reserved: u32 = state.functions.values().filter_map(|f| f.reserved_concurrency).sum();
    let code: u64 = state
        .functions
        .values()
        .map(|f| f.latest.code.size + f.versions.values().map(|v| v.code.size).sum::<u64>())
        .sum();
    json!({
        "AccountLimit": {
            "TotalCodeSize": 80_530_636_800u64,
            "CodeSizeUnzipped": UNZIPPED_LIMIT,
            "CodeSizeZipped": DIRECT_ZIP_LIMIT,
            "ConcurrentExecutions": account,
            "UnreservedConcurrentExecutions": account.saturating_sub(reserved),
        },
        "AccountUsage": { "TotalCodeSize": code, "FunctionCount": state.functions.len() },
    })
}
