//! Releases by the built `slsml` that are killed, or refused by the API, at any call they make, under
//! live traffic: do they reach the end an undisturbed one reaches, and does anybody notice?

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::Error;
use crate::slsml::{LocalLambda, command};
use crate::traffic::{Door, Traffic, is_marked};

/// The example's models.
const MODELS: [&str; 3] = ["v1", "v2", "v3"];

/// Where releases are harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// An alias of a function; the candidate is always version 2.
    Lambda,
    /// A service.
    Cloudrun,
}

/// How long a release may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(90);

/// The calls a release makes, before that is known better.
const CALLS: u64 = 60;

/// What is done to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// It is killed before a call is made.
    KillBefore,
    /// It is killed when a call was made, before the answer is read.
    KillAfter,
    /// A call is answered with 429.
    Throttle,
    /// A call is answered with 500.
    Error,
    /// The connection breaks before a call was made.
    DropBefore,
    /// It breaks when the call was made.
    DropAfter,
}

impl Harm {
    /// Both kills.
    pub const KILLS: [Harm; 2] = [Harm::KillBefore, Harm::KillAfter];
    /// All faults of the API.
    pub const FAULTS: [Harm; 4] = [Harm::Throttle, Harm::Error, Harm::DropBefore, Harm::DropAfter];

    fn kind(self) -> &'static str {
        match self {
            Harm::KillBefore => "hang-before",
            Harm::KillAfter => "hang-after",
            Harm::Throttle => "throttle",
            Harm::Error => "error",
            Harm::DropBefore => "drop-before",
            Harm::DropAfter => "drop-after",
        }
    }

    fn kills(self) -> bool {
        Harm::KILLS.contains(&self)
    }
}

/// A strategy, quick enough to be run hundreds of times.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its name.
    pub strategy: &'static str,
    flags: &'static [&'static str],
    /// Whether the candidate is good.
    pub good: bool,
}

const CANARY: &[&str] = &[
    "--strategy",
    "canary",
    "--steps",
    "30,60",
    "--bake",
    "1s",
    "--check",
    "errors <= stable + 0.08",
    "--min-requests",
    "10",
    "--deadline",
    "1min",
];
const LINEAR: &[&str] = &[
    "--strategy",
    "linear",
    "--increment",
    "40",
    "--bake",
    "1s",
    "--check",
    "errors <= stable + 0.08",
    "--min-requests",
    "10",
    "--deadline",
    "1min",
];
const BLUE_GREEN: &[&str] = &[
    "--strategy",
    "blue-green",
    "--keep",
    "1s",
    "--warm-up",
    "2",
    "--max-error-rate",
    "0.08",
    "--min-requests",
    "10",
    "--deadline",
    "1min",
];

/// Every strategy, with a good and, where it is watched, a bad candidate.
pub const PLANS: [Plan; 7] = [
    Plan { strategy: "canary", flags: CANARY, good: true },
    Plan { strategy: "blue-green", flags: BLUE_GREEN, good: true },
    Plan { strategy: "linear", flags: LINEAR, good: true },
    Plan { strategy: "all-at-once", flags: &[], good: true },
    Plan { strategy: "canary", flags: CANARY, good: false },
    Plan { strategy: "blue-green", flags: BLUE_GREEN, good: false },
    Plan { strategy: "linear", flags: LINEAR, good: false },
];

/// What became of one release.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Its strategy.
    pub strategy: &'static str,
    /// Whether its candidate was good.
    pub good: bool,
    /// What was done to it.
    pub harm: Harm,
    /// At which call, counted from 1.
    pub call: u64,
    /// Whether it came to that.
    pub struck: bool,
    /// Whether it ended as an undisturbed one does.
    pub converged: bool,
    /// Versions that were published twice, and moves that were made twice.
    pub double_effects: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// Answers that were wrong.
    pub wrong: u64,
    /// What was seen, where something was not as it should be.
    pub note: Option<String>,
}

/// A local cloud with everything a trial needs.
#[derive(Debug)]
pub struct Arena {
    on: On,
    cloud: LocalLambda,
    artifacts: [PathBuf; 3],
    /// What the name of a revision of each artifact contains, on Cloud Run.
    marks: [String; 3],
    trials: u32,
    /// How many calls each plan makes, as far as is known.
    calls: [u64; PLANS.len()],
}

impl Arena {
    /// Starts it.
    pub fn open(on: On) -> Result<Arena, Error> {
        let cloud = LocalLambda::start()?;
        // A bucket of the object store is a folder: journals go through the API as well.
        std::fs::create_dir_all(cloud.dir().join("s3/artifacts"))?;
        let package = |model: &str| match on {
            On::Lambda => cloud.package(model),
            On::Cloudrun => cloud.package_image(model),
        };
        let artifacts = [package(MODELS[0])?, package(MODELS[1])?, package(MODELS[2])?];
        let marks = match on {
            On::Lambda => Default::default(),
            On::Cloudrun => {
                [image_mark(&artifacts[0])?, image_mark(&artifacts[1])?, image_mark(&artifacts[2])?]
            }
        };
        Ok(Arena { on, cloud, artifacts, marks, trials: 0, calls: [CALLS; PLANS.len()] })
    }

    /// One release, harmed at a call so far along those it makes: from 0, the first, to below 1.
    pub async fn trial(&mut self, plan: usize, harm: Harm, along: f64) -> Result<Trial, Error> {
        let call = 1 + (along * self.calls[plan] as f64) as u64;
        self.trials += 1;
        let function = format!("f{}", self.trials);
        let Plan { strategy, flags, good } = PLANS[plan];
        let (code, value) = self.deploy(&function, 0, &[])?;
        if code != 0 {
            return Err(format!("the first version was not deployed: {value}").into());
        }
        let candidate = if good { 1 } else { 2 };
        let marks = self.marks(candidate);
        let models = [(&*marks[0], MODELS[0]), (&*marks[1], MODELS[candidate])];
        let pause = Duration::from_millis(12);
        let door = match self.on {
            On::Lambda => Door::alias(&self.cloud.endpoint, &function, "live"),
            On::Cloudrun => Door::service(value["address"].as_str().ok_or("no address")?)?,
        };
        let traffic = Traffic::start(door, &models, 4, pause)?;
        self.fault(&["api", "--nth", &call.to_string(), "--kind", harm.kind()])?;
        let mut child = self.start(&function, candidate, flags)?;
        let struck = self.wait(&mut child, harm)?;
        self.fault(&["clear"])?;
        let end = if good { 0 } else { 5 };
        let mut code = child.wait()?.code();
        let mut note = None;
        if code != Some(end) {
            (code, note) = self.go_on(&function, candidate, flags)?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let totals = traffic.finish().await;
        let serving = self.serving(&function)?;
        let at_the_end = matches!(&*serving, [only] if is_marked(only, &marks[usize::from(good)]));
        let (double_effects, told) = self.double_effects(&function)?;
        let converged = at_the_end && code == Some(end);
        if !struck {
            self.calls[plan] = (call - 1).max(1);
        }
        if converged && double_effects == 0 && totals.lost == 0 && totals.wrong() == 0 {
            note = None;
        } else {
            let fault = totals.first_fault.clone().unwrap_or_default();
            note = Some(format!(
                "exit {code:?}, traffic {serving:?}, {told}; {}; {fault}",
                note.unwrap_or_default()
            ));
        }
        let (lost, wrong) = (totals.lost, totals.wrong());
        Ok(Trial {
            strategy,
            good,
            harm,
            call,
            struck,
            converged,
            double_effects,
            lost,
            wrong,
            note,
        })
    }

    fn fault(&self, args: &[&str]) -> Result<(), Error> {
        let dir = self.cloud.dir();
        let dir = dir.to_string_lossy();
        let all = [&["--json", "local", "fault"], args, &["--dir", &*dir]].concat();
        let output = command(&all)?.output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stdout).into_owned().into()),
        }
    }

    /// What the names of the stable revision and of the candidate contain.
    fn marks(&self, candidate: usize) -> [String; 2] {
        match self.on {
            On::Lambda => ["1".into(), "2".into()],
            On::Cloudrun => [self.marks[0].clone(), self.marks[candidate].clone()],
        }
    }

    /// The flags that name a target.
    fn names<'a>(&self, target: &'a str) -> Vec<&'a str> {
        match self.on {
            On::Lambda => vec!["--function", target, "--bucket", "artifacts"],
            On::Cloudrun => vec!["--service", target],
        }
    }

    /// A deployment, without what is the machine's.
    fn deployment<'a>(&'a self, target: &'a str, artifact: usize) -> Vec<&'a str> {
        let mut args = match self.on {
            On::Lambda => vec!["deploy", "lambda", "--alias", "live", "--memory-mb", "512"],
            On::Cloudrun => vec!["deploy", "cloudrun", "--public"],
        };
        args.extend(self.names(target));
        args.extend(["--artifact", self.artifacts[artifact].to_str().unwrap_or_default()]);
        args
    }

    fn deploy(&self, target: &str, artifact: usize, flags: &[&str]) -> Result<(i32, Value), Error> {
        self.cloud.json(&[&self.deployment(target, artifact)[..], flags].concat())
    }

    fn start(&self, target: &str, artifact: usize, flags: &[&str]) -> Result<Child, Error> {
        let mut command = command(&["--json"])?;
        command.args(self.deployment(target, artifact)).args(flags).args(self.cloud.flags());
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    /// Waits until it ends, or hangs where it is to be killed, and kills it; whether it came to that.
    fn wait(&self, child: &mut Child, harm: Harm) -> Result<bool, Error> {
        let reached = self.cloud.dir().join("fault-reached");
        let began = Instant::now();
        while child.try_wait()?.is_none() {
            if harm.kills() && reached.exists() {
                child.kill()?;
                child.wait()?;
                return Ok(true);
            }
            if began.elapsed() > PATIENCE {
                child.kill()?;
                return Err(format!("a release did not end in {PATIENCE:?}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(reached.exists())
    }

    /// What a person would do who finds that a release was interrupted: deploy again if it had not
    /// begun, else go on with it.
    fn go_on(
        &self,
        function: &str,
        artifact: usize,
        flags: &[&str],
    ) -> Result<(Option<i32>, Option<String>), Error> {
        let (code, value) = self.deploy(function, artifact, flags)?;
        if code != 7 {
            return Ok((Some(code), Some(value.to_string())));
        }
        let resume = [&["release", "resume"], &self.names(function)[..]].concat();
        let (code, value) = self.cloud.json(&resume)?;
        Ok((Some(code), Some(value.to_string())))
    }

    fn status(&self, target: &str) -> Result<Value, Error> {
        let status = match self.on {
            On::Lambda => ["status", "--function", target],
            On::Cloudrun => ["status", "--service", target],
        };
        Ok(self.cloud.json(&status)?.1)
    }

    /// Who has traffic.
    fn serving(&self, target: &str) -> Result<Vec<String>, Error> {
        let status = self.status(target)?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(match self.on {
            On::Lambda => {
                let split = &status["aliases"][0]["split"];
                let both = [&split["stable"], &split["candidate"][0]];
                both.into_iter().filter_map(text).collect()
            }
            On::Cloudrun => {
                let targets = status["traffic"].as_array().into_iter().flatten();
                let with = targets.filter(|target| target["percent"].as_u64() > Some(0));
                with.filter_map(|target| text(&target["revision"])).collect()
            }
        })
    }

    /// Revisions beyond the two there have to be, and moves of traffic made more than once.
    fn double_effects(&self, target: &str) -> Result<(u64, String), Error> {
        let status = self.status(target)?;
        let all = if self.on == On::Lambda { &status["versions"] } else { &status["revisions"] };
        let versions = all.as_array().map_or(0, Vec::len) as u64;
        let show = [&["release", "show"], &self.names(target)[..]].concat();
        let (_, shown) = self.cloud.json(&show)?;
        let entries = shown["journal"].as_array().cloned().unwrap_or_default();
        let moves: Vec<String> = entries
            .iter()
            .filter(|entry| entry["fact"] == "moved")
            .map(|entry| entry["observed"]["split"].to_string())
            .collect();
        let twice = moves.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        Ok((versions.saturating_sub(2) + twice, format!("{versions} versions, moves {moves:?}")))
    }
}

/// What the names of an image's revisions contain.
pub fn image_mark(artifact: &Path) -> Result<String, Error> {
    let record: Value = serde_json::from_slice(&std::fs::read(artifact.join("artifact.json"))?)?;
    let digest = record["image"]["digest"].as_str().and_then(|text| text.strip_prefix("sha256:"));
    Ok(digest.and_then(|digest| digest.get(..8)).ok_or("the artifact holds no image")?.to_owned())
}
