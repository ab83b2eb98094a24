//! Who slsml is to a registry: what docker was told, else what a cloud's own program says.

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;
use tokio::process::Command;

use crate::CloudRunError;

/// What a registry is shown. Never printed.
#[derive(Clone, Debug)]
pub struct Credentials(pub(crate) RegistryAuth);

impl Credentials {
    /// Nobody in particular.
    pub fn anonymous() -> Credentials {
        Credentials(RegistryAuth::Anonymous)
    }
}

/// The credentials for a registry, from the first that has some: docker's configuration and its
/// helpers, `gcloud` for Google's registries, `aws` for Amazon's; none otherwise.
pub async fn credentials(registry: &str) -> Result<Credentials, CloudRunError> {
    let failed = |why: String| CloudRunError::Credentials { registry: registry.into(), why };
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            return Ok(Credentials(RegistryAuth::Basic(user, password)));
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            return Err(failed(
                "docker holds an identity token for it, which cannot be used".into(),
            ));
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => {}
        // A helper that knows nothing of this registry is no helper for it.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") => {}
        // What it printed may hold a secret.
        Err(CredentialRetrievalError::HelperFailure { stderr, .. }) => {
            let why = stderr.trim().chars().take(300).collect::<String>();
            let why = if why.is_empty() { "it gives no reason".into() } else { why };
            return Err(failed(format!("docker's credential helper failed: {why}")));
        }
        Err(error) => return Err(failed(error.to_string())),
    }
    let from_program = if is_google(registry) {
        let token = said("gcloud", &["auth", "print-access-token"]).await.map_err(failed)?;
        token.map(|token| ("oauth2accesstoken", token))
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
