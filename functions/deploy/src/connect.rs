//! Clients for AWS, or for anything that speaks its protocols.

use aws_config::{AppName, BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::time::Duration;

use crate::LambdaError;

/// Where to connect and as whom. What is absent comes from AWS's own settings: environment,
/// profile, single sign-on, instance role.
#[derive(Clone, Debug, Default)]
pub struct Connect {
    /// Another endpoint than AWS's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Access key and secret.
    pub credentials: Option<(String, String)>,
}

/// Settings for a call that carries a zip: it may take long, and stalled ones are noticed anyway.
pub(crate) fn for_uploads() -> aws_sdk_lambda::config::Builder {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_LIMIT).build();
    aws_sdk_lambda::Config::builder().timeout_config(timeouts)
}

/// Settings for a request to a function, which may run for 15 minutes and must run once.
pub(crate) fn for_invoke() -> aws_sdk_lambda::config::Builder {
    aws_sdk_lambda::Config::builder()
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_LIMIT).build())
        .retry_config(RetryConfig::disabled())
}

/// The longest a single upload or invocation may take.
pub(crate) const UPLOAD_LIMIT: Duration = Duration::from_secs(960);

/// The services a deployment needs.
#[derive(Clone, Debug)]
pub struct Clients {
    pub(crate) lambda: aws_sdk_lambda::Client,
    pub(crate) cloudwatch: aws_sdk_cloudwatch::Client,
    pub(crate) logs: aws_sdk_cloudwatchlogs::Client,
    pub(crate) s3: aws_sdk_s3::Client,
    region: String,
}

impl Clients {
    /// Clients for one place.
    pub async fn connect(connect: &Connect) -> Result<Clients, LambdaError> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_attempt_timeout(Duration::from_secs(30))
            .build();
        // The control plane takes about 15 calls a second; adaptive retries slow down with it.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::adaptive().with_max_attempts(5));
        // Accounts see in their trails who called.
        if let Ok(name) = AppName::new("slsml") {
            loader = loader.app_name(name);
        }
        if let Some(endpoint) = &connect.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(region) = &connect.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some((key, secret)) = &connect.credentials {
            loader =
                loader.credentials_provider(Credentials::new(key, secret, None, None, "slsml"));
        }
        let config = loader.load().await;
        let region = config.region().ok_or(LambdaError::NoRegion)?.to_string();
        let s3 = aws_sdk_s3::config::Builder::from(&config)
            // Other endpoints than AWS's rarely have a host name for each bucket.
            .force_path_style(config.endpoint_url().is_some())
            .build();
        Ok(Clients {
            lambda: aws_sdk_lambda::Client::new(&config),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&config),
            logs: aws_sdk_cloudwatchlogs::Client::new(&config),
            s3: aws_sdk_s3::Client::from_conf(s3),
            region,
        })
    }

    /// The region they talk to.
    pub fn region(&self) -> &str {
        &self.region
    }
}
