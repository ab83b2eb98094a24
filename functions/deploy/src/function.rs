//! A function that is as it should be, and a published version of it.
//!
//! Nothing is written that is there already: a published version with the same code and settings
//! is used as it is.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_lambda::types::{
    Architecture, Environment, FunctionCode, FunctionConfiguration, LastUpdateStatus, Runtime,
    State,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use slsml_package::{Arch, Artifact, LambdaZip};
use slsml_release::Revision;

use crate::upload::{self, Source, UNZIPPED_LIMIT};
use crate::{Clients, LambdaError, connect};

/// How long a function or a version may take to become ready.
const READY_LIMIT: Duration = Duration::from_secs(300);

/// Custom runtimes make nothing of it, but Lambda wants one.
const HANDLER: &str = "bootstrap";

/// How a function should be.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionSpec {
    /// Its name.
    pub name: String,
    /// ARN of its execution role; needed to create it.
    pub role: Option<String>,
    /// Memory in MB, which decides the share of a processor, too.
    pub memory_mb: u32,
    /// How long a request may take.
    pub timeout_s: u32,
    /// Its variables.
    pub environment: HashMap<String, String>,
    /// How many requests may run at once, over all versions; as it is if absent.
    pub reserved_concurrency: Option<u32>,
    /// The bucket its code goes through; directly if absent.
    pub bucket: Option<String>,
}

/// What was done to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The code goes to a bucket.
    Uploading,
    /// The function is created.
    Creating,
    /// Its code is replaced.
    UpdatingCode,
    /// Its settings are changed.
    UpdatingConfiguration,
    /// Its reserved concurrency is changed.
    Reserving,
    /// A version is published.
    Publishing,
}

/// A published version that is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// The version.
    pub version: Revision,
    /// Whether anything was written to get there.
    pub changed: bool,
}

/// Something that would be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The function would be created.
    Create,
    /// Its code would be replaced.
    Code,
    /// Its settings would be changed.
    Settings,
    /// A version would be published.
    Publish,
    /// Its reserved concurrency would be changed.
    Reserve,
}

/// What `ensure` would change, and the version that is as it should be already, if there is one.
pub async fn changes(
    clients: &Clients,
    spec: &FunctionSpec,
    artifact: &Artifact,
) -> Result<(Vec<Change>, Option<Revision>), LambdaError> {
    let wanted = Wanted::new(clients, spec, artifact)?;
    let Some(found) = wanted.configuration(None).await? else {
        let reserve = spec.reserved_concurrency.map(|_| Change::Reserve);
        let changes = [Change::Create, Change::Publish].into_iter().chain(reserve);
        return Ok((changes.collect(), None));
    };
    let mut changes = Vec::new();
    let version = wanted.published().await?;
    if version.is_none() {
        if wanted.other_code(&found) {
            changes.push(Change::Code);
        }
        if !wanted.same_settings(&found) {
            changes.push(Change::Settings);
        }
        changes.push(Change::Publish);
    }
    if wanted.other_reserve().await?.is_some() {
        changes.push(Change::Reserve);
    }
    Ok((changes, version))
}

/// Makes the function what `spec` and `artifact` say and returns the version that is.
pub async fn ensure(
    clients: &Clients,
    spec: &FunctionSpec,
    artifact: &Artifact,
    zip: &[u8],
    mut tell: impl FnMut(Progress),
) -> Result<Ensured, LambdaError> {
    let wanted = Wanted::new(clients, spec, artifact)?;
    let bytes = wanted.package.unzipped_bytes;
    if bytes > UNZIPPED_LIMIT {
        return Err(LambdaError::TooLarge { bytes, limit: UNZIPPED_LIMIT });
    }
    let mut changed = true;
    let version = match wanted.configuration(None).await? {
        None => {
            let created = wanted.create(zip, &mut tell).await?;
            wanted.publish(&created, &mut tell).await?
        }
        Some(_) => match wanted.published().await? {
            Some(version) => {
                changed = false;
                version
            }
            None => {
                let updated = wanted.update(zip, &mut tell).await?;
                wanted.publish(&updated, &mut tell).await?
            }
        },
    };
    wanted.ready(Some(&version.0)).await?;
    let reserved = wanted.reserve(&mut tell).await?;
    Ok(Ensured { version, changed: changed || reserved })
}

/// Lambda states digests in base64, artifacts in hexadecimal.
fn lambda_digest(hex: &str) -> String {
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .filter_map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    STANDARD.encode(bytes)
}

struct Wanted<'a> {
    clients: &'a Clients,
    spec: &'a FunctionSpec,
    artifact: &'a Artifact,
    package: &'a LambdaZip,
    code_sha256: String,
}

impl<'a> Wanted<'a> {
    fn new(
        clients: &'a Clients,
        spec: &'a FunctionSpec,
        artifact: &'a Artifact,
    ) -> Result<Wanted<'a>, LambdaError> {
        let package = artifact.for_lambda().map_err(|error| LambdaError::Failed {
            what: "deploying".into(),
            reason: error.to_string(),
        })?;
        let code_sha256 = lambda_digest(&package.sha256);
        Ok(Wanted { clients, spec, artifact, package, code_sha256 })
    }

    fn architecture(&self) -> Architecture {
        match self.package.arch {
            Arch::X86_64 => Architecture::X8664,
            Arch::Arm64 => Architecture::Arm64,
        }
    }

    fn environment(&self) -> Environment {
        Environment::builder().set_variables(Some(self.spec.environment.clone())).build()
    }

    async fn configuration(
        &self,
        version: Option<&str>,
    ) -> Result<Option<FunctionConfiguration>, LambdaError> {
        let call = self
            .clients
            .lambda
            .get_function()
            .function_name(&self.spec.name)
            .set_qualifier(version.map(str::to_owned));
        match call.send().await {
            Ok(found) => Ok(found.configuration),
            Err(error) => match LambdaError::of("GetFunction", error) {
                error if error.is_not_found() => Ok(None),
                error => Err(error),
            },
        }
    }

    fn what(&self, version: Option<&str>) -> String {
        match version {
            Some(version) => format!("version {version} of {}", self.spec.name),
            None => format!("the function {}", self.spec.name),
        }
    }

    /// Waits until nothing is under way on the function or one of its versions. The SDK's waiters
    /// would do the same, looking every 5 seconds and keeping a failure's reason to themselves.
    async fn settled(&self, version: Option<&str>) -> Result<FunctionConfiguration, LambdaError> {
        let mut pause = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        while waited < READY_LIMIT {
            let found = self.configuration(version).await?;
            let found = found
                .ok_or_else(|| LambdaError::NoFunction { function: self.spec.name.clone() })?;
            let pending = found.state() == Some(&State::Pending);
            if !pending && found.last_update_status() != Some(&LastUpdateStatus::InProgress) {
                return Ok(found);
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Err(LambdaError::NeverReady { what: self.what(version), seconds: READY_LIMIT.as_secs() })
    }

    /// Waits until what was just written can be used. A failure that was there before the write
    /// is no reason not to repair it, so only this looks at it.
    async fn ready(&self, version: Option<&str>) -> Result<FunctionConfiguration, LambdaError> {
        let found = self.settled(version).await?;
        let failed = |reason: Option<&str>| LambdaError::Failed {
            what: self.what(version),
            reason: reason.unwrap_or("Lambda gives no reason").into(),
        };
        if found.state() == Some(&State::Failed) {
            return Err(failed(found.state_reason()));
        }
        if found.last_update_status() == Some(&LastUpdateStatus::Failed) {
            return Err(failed(found.last_update_status_reason()));
        }
        Ok(found)
    }

    async fn source(
        &self,
        zip: &[u8],
        tell: &mut impl FnMut(Progress),
    ) -> Result<Source, LambdaError> {
        let bucket = self.spec.bucket.as_deref();
        if bucket.is_some() {
            tell(Progress::Uploading);
        }
        upload::upload(self.clients, bucket, &self.spec.name, &self.package.sha256, zip).await
    }

    async fn create(
        &self,
        zip: &[u8],
        tell: &mut impl FnMut(Progress),
    ) -> Result<FunctionConfiguration, LambdaError> {
        let spec = self.spec;
        let role = spec
            .role
            .as_ref()
            .ok_or_else(|| LambdaError::NoRole { function: spec.name.clone() })?;
        let code = match self.source(zip, tell).await? {
            Source::Direct(zip) => FunctionCode::builder().zip_file(zip),
            Source::Bucket { bucket, key } => FunctionCode::builder().s3_bucket(bucket).s3_key(key),
        };
        tell(Progress::Creating);
        self.clients
            .lambda
            .create_function()
            .function_name(&spec.name)
            .role(role)
            .runtime(Runtime::Providedal2023)
            .handler(HANDLER)
            .architectures(self.architecture())
            .memory_size(spec.memory_mb.cast_signed())
            .timeout(spec.timeout_s.cast_signed())
            .environment(self.environment())
            .code(code.build())
            .customize()
            .config_override(connect::for_uploads())
            .send()
            .await
            .map_err(|error| self.moved(LambdaError::of("CreateFunction", error)))?;
        self.ready(None).await
    }

    /// Brings code and settings of `$LATEST` to what is wanted; what is there then.
    async fn update(
        &self,
        zip: &[u8],
        tell: &mut impl FnMut(Progress),
    ) -> Result<FunctionConfiguration, LambdaError> {
        let mut found = self.settled(None).await?;
        if self.other_code(&found) {
            self.update_code(zip, &found, tell).await?;
            found = self.settled(None).await?;
        }
        if !self.same_settings(&found) {
            self.update_configuration(&found, tell).await?;
        }
        self.ready(None).await
    }

    async fn update_code(
        &self,
        zip: &[u8],
        found: &FunctionConfiguration,
        tell: &mut impl FnMut(Progress),
    ) -> Result<(), LambdaError> {
        let call = self
            .clients
            .lambda
            .update_function_code()
            .function_name(&self.spec.name)
            .architectures(self.architecture())
            .set_revision_id(found.revision_id.clone());
        let call = match self.source(zip, tell).await? {
            Source::Direct(zip) => call.zip_file(zip),
            Source::Bucket { bucket, key } => call.s3_bucket(bucket).s3_key(key),
        };
        tell(Progress::UpdatingCode);
        call.customize()
            .config_override(connect::for_uploads())
            .send()
            .await
            .map_err(|error| self.moved(LambdaError::of("UpdateFunctionCode", error)))?;
        Ok(())
    }

    async fn update_configuration(
        &self,
        found: &FunctionConfiguration,
        tell: &mut impl FnMut(Progress),
    ) -> Result<(), LambdaError> {
        tell(Progress::UpdatingConfiguration);
        self.clients
            .lambda
            .update_function_configuration()
            .function_name(&self.spec.name)
            .runtime(Runtime::Providedal2023)
            .handler(HANDLER)
            .set_role(self.spec.role.clone())
            .memory_size(self.spec.memory_mb.cast_signed())
            .timeout(self.spec.timeout_s.cast_signed())
            .environment(self.environment())
            .set_revision_id(found.revision_id.clone())
            .send()
            .await
            .map_err(|error| self.moved(LambdaError::of("UpdateFunctionConfiguration", error)))?;
        Ok(())
    }

    fn moved(&self, error: LambdaError) -> LambdaError {
        match error.code() {
            Some("PreconditionFailedException" | "ResourceConflictException") => {
                LambdaError::Moved { what: format!("the function {}", self.spec.name) }
            }
            _ => error,
        }
    }

    fn other_code(&self, found: &FunctionConfiguration) -> bool {
        found.code_sha256() != Some(&self.code_sha256)
            || found.architectures() != [self.architecture()]
    }

    fn same_settings(&self, found: &FunctionConfiguration) -> bool {
        let none = HashMap::new();
        let variables = found.environment().and_then(|all| all.variables()).unwrap_or(&none);
        found.runtime() == Some(&Runtime::Providedal2023)
            && found.handler() == Some(HANDLER)
            && found.memory_size() == Some(self.spec.memory_mb.cast_signed())
            && found.timeout() == Some(self.spec.timeout_s.cast_signed())
            && *variables == self.spec.environment
            && self.spec.role.as_deref().is_none_or(|role| found.role() == Some(role))
    }

    /// The newest published version that is as wanted.
    async fn published(&self) -> Result<Option<Revision>, LambdaError> {
        let mut pages = self
            .clients
            .lambda
            .list_versions_by_function()
            .function_name(&self.spec.name)
            .into_paginator()
            .send();
        let mut newest: Option<u64> = None;
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| LambdaError::of("ListVersionsByFunction", error))?;
            for version in page.versions() {
                let same = version.code_sha256() == Some(&self.code_sha256)
                    && version.architectures() == [self.architecture()]
                    && self.same_settings(version);
                if let (true, Some(Ok(number))) = (same, version.version().map(str::parse)) {
                    newest = newest.max(Some(number));
                }
            }
        }
        Ok(newest.map(|number| Revision(number.to_string())))
    }

    async fn publish(
        &self,
        latest: &FunctionConfiguration,
        tell: &mut impl FnMut(Progress),
    ) -> Result<Revision, LambdaError> {
        tell(Progress::Publishing);
        let published = self
            .clients
            .lambda
            .publish_version()
            .function_name(&self.spec.name)
            .code_sha256(&self.code_sha256)
            .description(format!(
                "slsml: model {}",
                self.artifact.model.sha256.get(..12).unwrap_or_default()
            ))
            .set_revision_id(latest.revision_id.clone())
            .send()
            .await
            .map_err(|error| self.moved(LambdaError::of("PublishVersion", error)))?;
        let missing = LambdaError::Incomplete { call: "PublishVersion", field: "Version" };
        Ok(Revision(published.version.ok_or(missing)?))
    }

    /// The reserved concurrency to set, if one is asked for and it is another.
    async fn other_reserve(&self) -> Result<Option<i32>, LambdaError> {
        let Some(reserved) = self.spec.reserved_concurrency else { return Ok(None) };
        let reserved = reserved.cast_signed();
        let call = self.clients.lambda.get_function_concurrency().function_name(&self.spec.name);
        let found = call.send().await;
        let found = found.map_err(|error| LambdaError::of("GetFunctionConcurrency", error))?;
        Ok((found.reserved_concurrent_executions() != Some(reserved)).then_some(reserved))
    }

    async fn reserve(&self, tell: &mut impl FnMut(Progress)) -> Result<bool, LambdaError> {
        let Some(reserved) = self.other_reserve().await? else { return Ok(false) };
        tell(Progress::Reserving);
        self.clients
            .lambda
            .put_function_concurrency()
            .function_name(&self.spec.name)
            .reserved_concurrent_executions(reserved)
            .send()
            .await
            .map_err(|error| LambdaError::of("PutFunctionConcurrency", error))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::lambda_digest;

    #[test]
    fn digests_are_translated_to_lambdas_form() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(lambda_digest(empty), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
