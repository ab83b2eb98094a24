//! Faults on purpose: API calls that fail, hang or lose their answer, and versions that fail, are slow
//! or are throttled. For rehearsing what a release policy does about them.
//!
//! What is to go wrong lies in a file of the local cloud's folder, so that another process can set
//! it, and is read anew when it changes.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::home::{Home, HomeError};

const FILE: &str = "faults.json";

/// Written when a fault strikes, for whoever waits for that.
const REACHED_FILE: &str = "fault-reached";

/// How long a call hangs.
const HANG: Duration = Duration::from_secs(900);

/// What slsml's own clients call themselves; faults of the API are for them.
const CLIENTS: [&str; 2] = ["app/slsml", "slsml/"];

/// Everything that is to go wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Calls of the API.
    pub api: Vec<ApiFault>,
    /// Versions of functions.
    pub versions: Vec<VersionFault>,
}

/// What goes wrong with calls of the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiFault {
    /// Which calls: those whose method and path hold this, as in `PUT /2015-03-31/functions/f/aliases`.
    pub call: String,
    /// Which of them, counted from 1 since the faults were set.
    pub nth: u64,
    /// How many from there on.
    pub times: u64,
    /// What goes wrong.
    pub kind: ApiFaultKind,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiFaultKind {
    /// It is refused with 429.
    Throttle,
    /// It fails with 500.
    Error,
    /// It is refused with 403, as for want of a permission.
    Deny,
    /// The connection breaks before anything was done.
    DropBefore,
    /// The connection breaks when it was done, so that its answer is lost.
    DropAfter,
    /// It hangs before anything was done.
    HangBefore,
    /// It was done and its answer hangs.
    HangAfter,
    /// Cloud Run takes it and begins an operation, which ends with an error; nothing moves.
    FailOperation,
}

/// What a request carries whose operation is to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailsLater;

/// What goes wrong with requests to a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionFault {
    /// The function.
    pub function: String,
    /// Its version.
    pub version: String,
    /// The share of requests that fail, 0 to 1.
    #[serde(default)]
    pub error_rate: f64,
    /// The share that is throttled, 0 to 1.
    #[serde(default)]
    pub throttle_rate: f64,
    /// The share whose numbers are replaced by zeros, 0 to 1: predictions change, and nothing else.
    #[serde(default)]
    pub blank_rate: f64,
    /// How much longer each takes, in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
}

impl Home {
    /// What is to go wrong.
    pub fn faults(&self) -> Faults {
        let text = std::fs::read(self.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Sets what is to go wrong; calls are counted anew.
    pub fn set_faults(&self, faults: &Faults) -> Result<(), HomeError> {
        let _gone_or_never_there = std::fs::remove_file(self.join(REACHED_FILE));
        self.write(FILE, &serde_json::to_vec_pretty(faults).unwrap_or_default())
    }

    /// Whether a fault of the API has struck since it was set.
    pub fn fault_reached(&self) -> bool {
        self.join(REACHED_FILE).exists()
    }
}

/// The faults as they are in force.
#[derive(Debug)]
pub(crate) struct Injector {
    home: Home,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    faults: Faults,
    /// Which file they are from.
    stamp: Option<(SystemTime, u64)>,
    /// How many calls each fault of the API has matched.
    matched: Vec<u64>,
}

/// What to do with a request to a version.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct VersionFate {
    pub(crate) fails: bool,
    pub(crate) throttled: bool,
    pub(crate) blank: bool,
    pub(crate) delay: Duration,
}

impl Injector {
    pub(crate) fn new(home: &Home) -> Injector {
        Injector { home: home.clone(), inner: Mutex::default() }
    }

    /// The faults of the file as it is now.
    fn current(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = std::fs::metadata(self.path()).ok();
        let stamp = metadata.and_then(|file| Some((file.modified().ok()?, inode(&file))));
        if stamp != inner.stamp {
            let faults = self.home.faults();
            *inner = Inner { matched: vec![0; faults.api.len()], faults, stamp };
        }
        inner
    }

    fn path(&self) -> PathBuf {
        self.home.join(FILE)
    }

    /// What goes wrong with a call of the API, if anything does.
    pub(crate) fn of_call(
        &self,
        method: &str,
        path: &str,
        user_agents: &[&str],
    ) -> Option<ApiFaultKind> {
        let is_ours = |agent: &&str| CLIENTS.iter().any(|client| agent.contains(client));
        if !user_agents.iter().any(is_ours) {
            return None;
        }
        let call = format!("{method} {path}");
        let mut inner = self.current();
        let Inner { faults, matched, .. } = &mut *inner;
        let mut found = None;
        for (fault, matched) in faults.api.iter().zip(matched) {
            if call.contains(&fault.call) {
                *matched += 1;
                if (fault.nth..fault.nth.saturating_add(fault.times)).contains(matched) {
                    found = found.or(Some(fault.kind));
                }
            }
        }
        if found.is_some_and(|kind| kind != ApiFaultKind::HangAfter) {
            self.reached();
        }
        found
    }

    /// What goes wrong with a request to a version.
    pub(crate) fn of_request(&self, function: &str, version: &str) -> VersionFate {
        let inner = self.current();
        let fault = inner
            .faults
            .versions
            .iter()
            .find(|fault| fault.function == function && fault.version == version);
        let Some(fault) = fault else { return VersionFate::default() };
        let mut random = rand::rng();
        VersionFate {
            fails: random.random::<f64>() < fault.error_rate,
            throttled: random.random::<f64>() < fault.throttle_rate,
            blank: random.random::<f64>() < fault.blank_rate,
            delay: Duration::from_millis(fault.delay_ms),
        }
    }

    /// Lets others know that a fault strikes. Whoever cannot be told looks in vain, and nothing else.
    fn reached(&self) {
        let _ = std::fs::write(self.home.join(REACHED_FILE), b"");
    }

    /// Hangs.
    pub(crate) async fn hang(&self) {
        self.reached();
        tokio::time::sleep(HANG).await;
    }
}

/// An infer request with zeros instead of its numbers: the payload itself, or the body of an HTTP
/// event. None of what is neither.
pub(crate) fn blanked(payload: &[u8]) -> Option<Vec<u8>> {
    let mut event: Value = serde_json::from_slice(payload).ok()?;
    if let Some(body) = event.get("body").and_then(Value::as_str) {
        let body = blanked(body.as_bytes())?;
        event["body"] = Value::String(String::from_utf8(body).ok()?);
    } else {
        for input in event.get_mut("inputs")?.as_array_mut()? {
            zero(input.get_mut("data")?);
        }
    }
    serde_json::to_vec(&event).ok()
}

fn zero(data: &mut Value) {
    match data {
        Value::Array(all) => all.iter_mut().for_each(zero),
        Value::Number(number) => *number = 0.into(),
        _ => {}
    }
}

/// A file that replaced another is another file, though both were written in one moment.
fn inode(file: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injector(faults: &Faults) -> (tempfile::TempDir, Injector) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        home.set_faults(faults).unwrap();
        (folder, Injector::new(&home))
    }

    #[test]
    fn a_fault_strikes_the_calls_it_names_and_no_other_client() {
        let fault = ApiFault {
            call: "PUT /f/aliases".into(),
            nth: 2,
            times: 2,
            kind: ApiFaultKind::Throttle,
        };
        let faults = Faults { api: vec![fault], versions: vec![] };
        let (_folder, injector) = injector(&faults);
        let us = ["aws-sdk-rust/1 app/slsml"];
        let mut struck = Vec::new();
        for _ in 0..5 {
            assert_eq!(injector.of_call("GET", "/f/aliases/live", &us), None);
            assert_eq!(injector.of_call("PUT", "/f/aliases/live", &["boto3"]), None);
            struck.push(injector.of_call("PUT", "/f/aliases/live", &us).is_some());
        }
        assert_eq!(struck, [false, true, true, false, false]);
        injector.home.set_faults(&faults).unwrap();
        assert_eq!(injector.of_call("PUT", "/f/aliases/live", &us), None, "counted anew");
    }

    #[test]
    fn requests_lose_their_numbers_wherever_they_are() {
        let bare = br#"{"id":"a","inputs":[{"name":"x","shape":[2],"data":[[1.5],[2]]}]}"#;
        let blank = String::from_utf8(blanked(bare).unwrap()).unwrap();
        assert!(blank.contains("[[0],[0]]") && blank.contains("\"shape\":[2]"), "{blank}");
        let event = serde_json::json!({ "body": std::str::from_utf8(bare).unwrap() }).to_string();
        let blank = String::from_utf8(blanked(event.as_bytes()).unwrap()).unwrap();
        assert!(blank.contains("[[0],[0]]"), "{blank}");
        assert_eq!(blanked(b"{}"), None);
    }

    #[test]
    fn a_version_fails_as_often_as_it_is_told_to() {
        let fault = VersionFault {
            function: "f".into(),
            version: "2".into(),
            error_rate: 0.3,
            throttle_rate: 0.0,
            blank_rate: 0.0,
            delay_ms: 7,
        };
        let (_folder, injector) = injector(&Faults { api: vec![], versions: vec![fault] });
        let fates: Vec<_> = (0..2000).map(|_| injector.of_request("f", "2")).collect();
        let failed = fates.iter().filter(|fate| fate.fails).count();
        assert!((450..750).contains(&failed), "{failed}");
        assert!(fates.iter().all(|fate| fate.delay == Duration::from_millis(7) && !fate.throttled));
        assert_eq!(injector.of_request("f", "1"), VersionFate::default());
    }
}
