//! Taking away what is not needed any more.

use crate::{AliasTarget, LambdaError, status};

impl AliasTarget {
    /// The function's aliases.
    pub async fn aliases(&self) -> Result<Vec<String>, LambdaError> {
        let found = status(&self.clients, &self.function).await?;
        Ok(found.aliases.into_iter().map(|alias| alias.name).collect())
    }

    /// The function's published versions that no alias names, the newest first.
    pub async fn unused(&self) -> Result<Vec<String>, LambdaError> {
        let found = status(&self.clients, &self.function).await?;
        let is_used = |version: &str| {
            found.aliases.iter().any(|alias| {
                let candidate = alias.split.candidate.as_ref();
                alias.split.stable.0 == version
                    || candidate.is_some_and(|(one, _)| one.0 == version)
            })
        };
        let versions = found.versions.iter().map(|version| version.version.clone());
        let mut unused: Vec<String> = versions.filter(|version| !is_used(version)).collect();
        unused.sort_by_key(|version| std::cmp::Reverse(version.parse::<u64>().unwrap_or(0)));
        Ok(unused)
    }

    /// Deletes a version; one that is gone already is no error.
    pub async fn delete_version(&self, version: &str) -> Result<(), LambdaError> {
        match self.delete(Some(version)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes the function with all its versions and aliases.
    pub async fn delete_function(&self) -> Result<(), LambdaError> {
        self.delete(None).await.map_err(|error| match error.is_not_found() {
            true => LambdaError::NoFunction { function: self.function.clone() },
            false => error,
        })
    }

    async fn delete(&self, version: Option<&str>) -> Result<(), LambdaError> {
        let call = self.clients.lambda.delete_function().function_name(&self.function);
        let deleted = call.set_qualifier(version.map(str::to_owned)).send().await;
        deleted.map(drop).map_err(|error| LambdaError::of("DeleteFunction", error))
    }
}
