//! What can be set, in environment variables.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// `PORT`: where to listen, on all addresses. 8080.
    pub(crate) port: u16,
    /// `SLSML_MODEL_DIR`: the folder with the packaged model. `/model`.
    pub(crate) model: PathBuf,
    /// `SLSML_THREADS`: how many requests run at once. The processors there are.
    pub(crate) threads: usize,
    /// `SLSML_BATCH_SIZE`: how many rows run together at most, where the model's first dimension is
    /// free. 8; 1 for none.
    pub(crate) batch_size: usize,
    /// `SLSML_BATCH_DELAY_MS`: how long the first request of a batch waits for others. 0: only those
    /// that wait anyway run together.
    pub(crate) batch_delay: Duration,
    /// `SLSML_MAX_BODY_BYTES`: the largest body, before and after it is decompressed. 32 MiB, what
    /// Cloud Run takes over HTTP/1.1.
    pub(crate) body_bytes: usize,
    /// `SLSML_MAX_REQUESTS_BYTES`: what all requests that come, wait or run may take together, at least twice the
    /// largest body. Four times that.
    pub(crate) requests_bytes: usize,
    /// `SLSML_REFUSAL_DELAY_MS`: how long a request waits that is refused for want of room. Whoever asks again
    /// at once would otherwise keep those waiting who are answered: what a refused request costs is having
    /// come. 10.
    pub(crate) refusal_delay: Duration,
    /// `SLSML_REQUEST_TIMEOUT_S`: how long a client may take to send its request. 30.
    pub(crate) receive: Duration,
    /// `SLSML_DRAIN_S`: how long requests in flight may take once the container is told to stop. 8:
    /// Cloud Run waits 10.
    pub(crate) drain: Duration,
    /// `SLSML_WARM_UP`: whether the model runs once before the port is opened. false.
    pub(crate) warm_up: bool,
    /// `SLSML_ACCESS_LOG`: whether each request is a line in the log. true.
    pub(crate) access_log: bool,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`: whether there is a collector
    /// for traces, spoken to over gRPC without TLS.
    pub(crate) traces: bool,
    /// `GOOGLE_CLOUD_PROJECT`: the project whose traces log lines name.
    pub(crate) project: Option<String>,
}

/// A variable that cannot be what it is set to.
#[derive(Debug, Error)]
#[error("{name} is set to `{value}`; it must be {what}")]
pub(crate) struct SettingsError {
    name: &'static str,
    value: String,
    what: &'static str,
}

impl Settings {
    pub(crate) fn from_environment() -> Result<Settings, SettingsError> {
        Settings::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Settings, SettingsError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let seconds = |name, default| number(&get, name, default, 1, 3600).map(Duration::from_secs);
        let body_bytes = number(&get, "SLSML_MAX_BODY_BYTES", 32 << 20, 1, 1 << 30)?;
        let requests_bytes =
            number(&get, "SLSML_MAX_REQUESTS_BYTES", 4 * body_bytes, 2 * body_bytes, 1 << 40)?;
        Ok(Settings {
            port: number(&get, "PORT", 8080, 0, 65535)?,
            model: get("SLSML_MODEL_DIR").map_or_else(|| "/model".into(), PathBuf::from),
            threads: number(&get, "SLSML_THREADS", processors, 1, 1024)?,
            batch_size: number(&get, "SLSML_BATCH_SIZE", 8, 1, 1024)?,
            batch_delay: Duration::from_millis(number(&get, "SLSML_BATCH_DELAY_MS", 0, 0, 1000)?),
            body_bytes,
            requests_bytes,
            refusal_delay: Duration::from_millis(number(
                &get,
                "SLSML_REFUSAL_DELAY_MS",
                10,
                0,
                10_000,
            )?),
            receive: seconds("SLSML_REQUEST_TIMEOUT_S", 30)?,
            drain: seconds("SLSML_DRAIN_S", 8)?,
            warm_up: flag(&get, "SLSML_WARM_UP", false)?,
            access_log: flag(&get, "SLSML_ACCESS_LOG", true)?,
            traces: traces(&get)?,
            project: get("GOOGLE_CLOUD_PROJECT"),
        })
    }
}

/// Whether a collector is named that can be spoken to.
fn traces(get: &impl Fn(&str) -> Option<String>) -> Result<bool, SettingsError> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    let named = names.into_iter().find_map(|name| Some((name, get(name)?)));
    let Some((name, value)) = named.filter(|_| get("OTEL_SDK_DISABLED").as_deref() != Some("true"))
    else {
        return Ok(false);
    };
    if !value.starts_with("http://") {
        return Err(SettingsError { name, value, what: "an address that begins with http://" });
    }
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        if let Some(value) = get(name).filter(|value| value != "grpc") {
            return Err(SettingsError { name, value, what: "grpc" });
        }
    }
    Ok(true)
}

fn number<T: FromStr + PartialOrd + Copy>(
    get: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    default: T,
    least: T,
    most: T,
) -> Result<T, SettingsError> {
    let Some(value) = get(name) else { return Ok(default) };
    match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(SettingsError { name, value, what: "a whole number within its range" }),
    }
}

fn flag(
    get: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    default: bool,
) -> Result<bool, SettingsError> {
    match get(name) {
        None => Ok(default),
        Some(value) => {
            value.parse().map_err(|_| SettingsError { name, value, what: "true or false" })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_not_set_has_a_default_and_what_is_wrong_is_named() {
        let settings = Settings::from(|_| None).unwrap();
        assert_eq!((settings.port, settings.batch_size), (8080, 8));
        let table = [
            ("PORT", "http"),
            ("PORT", "70000"),
            ("SLSML_THREADS", "0"),
            ("SLSML_MAX_REQUESTS_BYTES", "1048576"),
            ("SLSML_WARM_UP", "yes"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317"),
        ];
        for (name, wrong) in table {
            let get = |asked: &str| (asked == name).then(|| wrong.to_owned());
            let error = Settings::from(get).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} is set to `{wrong}`")), "{error}");
        }
    }
}
