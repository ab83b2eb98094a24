//! The built `slsml`, run as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::Error;

/// A canary that is quick enough for tests.
pub const CANARY: [&str; 10] = [
    "--strategy",
    "canary",
    "--steps",
    "20,60",
    "--bake",
    "2s",
    "--min-requests",
    "10",
    "--max-error-rate",
    "0.02",
];

/// Where cargo put this workspace's programs: beside the program that runs, or one above a test; or
/// where the environment says those that ship are.
pub fn programs() -> Result<PathBuf, Error> {
    if let Some(folder) = std::env::var_os("SLSML_PROGRAMS") {
        return Ok(folder.into());
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("a program lies in a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    if folder.join("slsml").exists() && folder.join("bootstrap").exists() {
        return Ok(folder.to_owned());
    }
    let folder = folder.display();
    Err(format!("no slsml and bootstrap in {folder}: run cargo build --workspace first").into())
}

/// The container's program, linked statically: its image holds nothing else.
pub fn static_server() -> Result<PathBuf, Error> {
    let path = programs()?.join("static/slsml-server");
    match path.exists() {
        true => Ok(path),
        false => Err(format!("no {}: run make static", path.display()).into()),
    }
}

/// A program for arm64, as far as anybody looks who does not run it.
pub fn program_for_arm64(folder: &Path) -> Result<PathBuf, Error> {
    let mut program = std::fs::read(programs()?.join("slsml-server"))?;
    // The processor in an ELF header.
    program.get_mut(18..20).ok_or("a program has a header")?.copy_from_slice(&[0xb7, 0]);
    let path = folder.join("slsml-server-arm64");
    std::fs::write(&path, program)?;
    Ok(path)
}

/// The checkout: cargo says where a test's package is, and make starts the demo at the top. The
/// place is not compiled in, because checkouts may share compiled programs.
pub fn checkout() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = package.or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    let top = here.ancestors().find(|folder| folder.join("examples/digits").is_dir());
    top.unwrap_or(&here).to_owned()
}

/// A command with nothing of the caller's AWS settings.
pub fn command(args: &[&str]) -> Result<Command, Error> {
    let mut command = Command::new(programs()?.join("slsml"));
    command.args(args).env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") || name == "SLSML_LOCAL_DIR" {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs `slsml` in a folder.
pub fn run(folder: &Path, args: &[&str]) -> Result<Output, Error> {
    Ok(command(args)?.current_dir(folder).output()?)
}

/// Runs `slsml --json` and reads the one document it prints.
pub fn json(folder: &Path, args: &[&str]) -> Result<(i32, Value), Error> {
    let output = run(folder, &[&["--json"], args].concat())?;
    let text = String::from_utf8(output.stdout)?;
    let value = serde_json::from_str(&text)
        .map_err(|error| format!("slsml {args:?} printed no JSON ({error}): {text}"))?;
    Ok((output.status.code().unwrap_or(-1), value))
}

/// A local Lambda in a folder of its own, stopped when this is dropped.
#[derive(Debug)]
pub struct LocalLambda {
    folder: tempfile::TempDir,
    /// Where it listens.
    pub endpoint: String,
}

impl LocalLambda {
    /// Starts one on a free port.
    pub fn start() -> Result<LocalLambda, Error> {
        LocalLambda::start_with(&[])
    }

    /// Starts one on a free port, with more flags.
    pub fn start_with(more: &[&str]) -> Result<LocalLambda, Error> {
        let folder = tempfile::Builder::new().prefix("slsml-local-").tempdir()?;
        let dir = folder.path().join("cloud");
        let args = ["local", "up", "--detach", "--containers", "process", "--port", "0", "--dir"];
        let (code, value) =
            json(folder.path(), &[&args[..], &[&dir.to_string_lossy()], more].concat())?;
        let endpoint =
            value["endpoint"].as_str().ok_or_else(|| format!("exit {code}: {value}"))?.to_owned();
        Ok(LocalLambda { folder, endpoint })
    }

    /// Its state.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("cloud")
    }

    /// A folder beside its state that goes with it.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// The flags that point a command here.
    pub fn flags(&self) -> Vec<String> {
        vec!["--local".into(), "--local-dir".into(), self.dir().to_string_lossy().into_owned()]
    }

    /// Runs `slsml --json … --local` against it.
    pub fn json(&self, args: &[&str]) -> Result<(i32, Value), Error> {
        let flags = self.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        json(self.scratch(), &[args, &flags].concat())
    }

    /// Packages one of the example's versions; the artifact's folder.
    pub fn package(&self, version: &str) -> Result<PathBuf, Error> {
        let model = checkout().join("examples/digits/models").join(format!("{version}.onnx"));
        let out = self.scratch().join(version);
        let (model, out_text) = (model.to_string_lossy(), out.to_string_lossy());
        let args = ["package", &*model, "--name", "digits", "--out", &*out_text];
        let (code, value) = json(self.scratch(), &args)?;
        if code != 0 {
            return Err(format!("packaging {version} ended with {code}: {value}").into());
        }
        Ok(out.join("digits"))
    }

    /// Packages one of the example's versions as an image; the artifact's folder.
    pub fn package_image(&self, version: &str) -> Result<PathBuf, Error> {
        self.package_image_with(version, &[])
    }

    /// The same with more flags.
    pub fn package_image_with(&self, version: &str, more: &[&str]) -> Result<PathBuf, Error> {
        let model = checkout().join("examples/digits/models").join(format!("{version}.onnx"));
        let (out, server) = (self.scratch().join(format!("image-{version}")), static_server()?);
        let [model, out_text, server] = [&model, &out, &server].map(|path| path.to_string_lossy());
        let args = ["package", &*model, "--name", "digits", "--out", &*out_text];
        let args = [&args[..], &["--target", "cloudrun", "--runtime", &*server], more].concat();
        let (code, value) = json(self.scratch(), &args)?;
        if code != 0 {
            return Err(format!("packaging {version} ended with {code}: {value}").into());
        }
        Ok(out.join("digits"))
    }

    /// Deploys an artifact behind `live`; exit code and what was printed.
    pub fn deploy(&self, artifact: &Path, more: &[&str]) -> Result<(i32, Value), Error> {
        let artifact = artifact.to_string_lossy();
        let args =
            ["deploy", "lambda", "--alias", "live", "--memory-mb", "512", "--artifact", &*artifact];
        self.json(&[&args[..], more].concat())
    }
}

impl LocalLambda {
    /// How many of its functions' processes live.
    pub fn processes(&self) -> usize {
        let task_root = format!("LAMBDA_TASK_ROOT={}", self.dir().to_string_lossy());
        let ours = |environ: Vec<u8>| {
            environ
                .split(|byte| *byte == 0)
                .any(|variable| variable.starts_with(task_root.as_bytes()))
        };
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter(|entry| std::fs::read(entry.path().join("environ")).is_ok_and(ours)).count()
    }
}

impl Drop for LocalLambda {
    fn drop(&mut self) {
        let dir = self.dir();
        // What cannot be stopped any more is gone already.
        let _ = run(self.folder.path(), &["local", "down", "--dir", &dir.to_string_lossy()]);
    }
}
