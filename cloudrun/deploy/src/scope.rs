//! A token that is good for two repositories. Where tokens name what they are for, as on GitHub's and Docker's
//! registries, a blob is taken over from one into another only with one for both; oci-client asks for one
//! repository at a time.
//! <https://distribution.github.io/distribution/spec/auth/token/>

use http::header::WWW_AUTHENTICATE;
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

/// Asks the registry's issuer of tokens for one; none if the registry has no such issuer, or it gives none.
pub(crate) async fn token(
    registry: &str,
    auth: &RegistryAuth,
    scopes: &[String],
) -> Option<RegistryAuth> {
    // A password goes nowhere in the clear, also where a registry sends one elsewhere.
    let client = reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(20))
        .https_only(registry.starts_with("https://"))
        .build()
        .ok()?;
    let answer = client.get(registry).send().await.ok()?;
    let challenge = answer.headers().get(WWW_AUTHENTICATE)?.to_str().ok()?;
    let (realm, service) = bearer(challenge)?;
    let scopes = scopes.iter().map(|scope| ("scope", scope.clone()));
    let query: Vec<_> =
        service.map(|service| ("service", service)).into_iter().chain(scopes).collect();
    let mut request = client.get(realm).query(&query);
    if let RegistryAuth::Basic(user, password) = auth {
        request = request.basic_auth(user, Some(password));
    }
    let answer = request.send().await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
    let token = answer["token"].as_str().or(answer["access_token"].as_str())?;
    Some(RegistryAuth::Bearer(token.to_owned()))
}

/// The address of an issuer of tokens, and for whom they are.
fn bearer(challenge: &str) -> Option<(String, Option<String>)> {
    let challenges = http_auth::parse_challenges(challenge).ok()?;
    let bearer = challenges.into_iter().find(|one| one.scheme.eq_ignore_ascii_case("bearer"))?;
    let param = |name: &str| {
        let mut named = bearer.params.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.to_unescaped())
    };
    Some((param("realm")?, param("service")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_named_by_the_registrys_challenge() {
        let some = |text: &str| Some(text.to_owned());
        let challenge = r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="a""#;
        assert_eq!(bearer(challenge), Some(("https://ghcr.io/token".into(), some("ghcr.io"))));
        assert_eq!(bearer(r#"Basic realm="x""#), None);
        assert_eq!(bearer(r#"Bearer service="x""#), None);
    }
}
