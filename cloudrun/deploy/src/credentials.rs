//! Who slsml is to a registry: what docker was told, else what a cloud's own program says.

use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;
use serde_json::Value;
use tokio::process::Command;

use crate::CloudRunError;
use crate::api::access_token;

/// What a registry is shown. Never printed.
#[derive(Clone, Debug)]
pub struct Credentials(pub(crate) RegistryAuth);

impl Credentials {
    /// Nobody in particular.
    pub fn anonymous() -> Credentials {
        Credentials(RegistryAuth::Anonymous)
    }
}

/// Where docker keeps what Docker Hub is shown.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The credentials for a registry, from the first that has some: docker's configuration and its
/// helpers, `gcloud` and Application Default Credentials for Google's registries, `aws` for Amazon's; none
/// otherwise.
pub async fn credentials(registry: &str) -> Result<Credentials, CloudRunError> {
    let failed = |why: String| CloudRunError::Credentials { registry: registry.into(), why };
    if let Some(found) = from_docker(registry).map_err(failed)? {
        return Ok(Credentials(found));
    }
    let from_program = if is_google(registry) {
        google_token().await.map_err(failed)?.map(|token| ("oauth2accesstoken", token))
    } else if let Some(region) = amazon_region(registry) {
        let args = ["ecr", "get-login-password", "--region", region];
        said("aws", &args).await.map_err(failed)?.map(|password| ("AWS", password))
    } else {
        None
    };
    Ok(match from_program {
        Some((user, secret)) => Credentials(RegistryAuth::Basic(user.into(), secret)),
        None => Credentials::anonymous(),
    })
}

/// What docker was told of a registry, by its own names for it.
fn from_docker(registry: &str) -> Result<Option<RegistryAuth>, String> {
    let Some((path, config)) = docker_config()? else { return Ok(None) };
    let hub = matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    for name in hub.then_some(DOCKER_HUB).into_iter().chain([registry]) {
        match docker_credential::get_credential_from_reader(&*config, name) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(Some(RegistryAuth::Basic(user, password)));
            }
            Ok(DockerCredential::IdentityToken(_)) => {
                return Err("docker holds an identity token for it, which cannot be used".into());
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            // A helper that knows nothing of this registry is no helper for it.
            Err(CredentialRetrievalError::HelperFailure { stdout, .. })
                if stdout.contains("credentials not found") => {}
            // What it printed may hold a secret.
            Err(CredentialRetrievalError::HelperFailure { stderr, .. }) => {
                let why = stderr.trim().chars().take(300).collect::<String>();
                let why = if why.is_empty() { "it gives no reason".into() } else { why };
                return Err(format!("docker's credential helper failed: {why}"));
            }
            Err(CredentialRetrievalError::HelperCommunicationError) => {
                let helper = helper(&config, name);
                return Err(format!("docker's credential helper {helper} cannot be run"));
            }
            Err(error) => return Err(format!("{} cannot be used: {error}", path.display())),
        }
    }
    Ok(None)
}

/// docker's configuration, if there is one.
fn docker_config() -> Result<Option<(PathBuf, Vec<u8>)>, String> {
    let named = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty());
    let folder = named.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".docker")));
    let Some(path) = folder.map(|folder| folder.join("config.json")) else { return Ok(None) };
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some((path, bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// The program that a configuration names for a registry.
fn helper(config: &[u8], registry: &str) -> String {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let named = config["credHelpers"][registry].as_str().or(config["credsStore"].as_str());
    format!("docker-credential-{}", named.unwrap_or("…"))
}

/// A token of whoever is logged in with `gcloud`, else of the Application Default Credentials.
async fn google_token() -> Result<Option<String>, String> {
    let by_gcloud = said("gcloud", &["auth", "print-access-token"]).await;
    if let Ok(Some(token)) = by_gcloud {
        return Ok(Some(token));
    }
    match access_token().await {
        Some(token) => Ok(Some(token)),
        None => by_gcloud,
    }
}

/// Artifact Registry and Container Registry.
fn is_google(registry: &str) -> bool {
    registry == "gcr.io" || registry.ends_with(".gcr.io") || registry.ends_with("-docker.pkg.dev")
}

/// The region of `ACCOUNT.dkr.ecr.REGION.amazonaws.com`.
fn amazon_region(registry: &str) -> Option<&str> {
    let rest = registry.split_once(".dkr.ecr.")?.1;
    rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))
}

/// What a program prints; none if it is not there.
async fn said(program: &str, args: &[&str]) -> Result<Option<String>, String> {
    let output = match Command::new(program).args(args).output().await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{program} cannot be run: {error}")),
        Ok(output) => output,
    };
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let why: String = why.trim().chars().take(300).collect();
    Err(format!("{program} {} failed: {why}", args.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_name_says_whose_program_knows_it() {
        assert!(is_google("europe-west1-docker.pkg.dev") && is_google("eu.gcr.io"));
        assert!(!is_google("ghcr.io") && !is_google("pkg.dev.example.com"));
        let ecr = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
        assert_eq!(amazon_region(ecr), Some("eu-central-1"));
        assert_eq!(amazon_region("public.ecr.aws"), None);
    }
}
