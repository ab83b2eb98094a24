//! What slsml is measured against, and the models: set up once in the target folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::process::Program;

/// The scripts of the peers and the folder they fill.
pub(crate) struct Peers {
    scripts: PathBuf,
    venv: PathBuf,
    models: PathBuf,
}

/// A model of the suite and what its open dimensions are fixed to.
pub(crate) const SUITE: [(&str, &[&str]); 9] = [
    ("cls.onnx", &["x=1x3x48x192"]),
    ("det.onnx", &["x=1x3x320x320"]),
    ("rec.onnx", &["x=1x3x48x320"]),
    ("magika.onnx", &["bytes=1x2048"]),
    ("nudenet.onnx", &["images=1x3x320x320"]),
    ("encoder.onnx", &[]),
    ("resnet.onnx", &[]),
    ("deep.onnx", &[]),
    ("wide.onnx", &[]),
];

impl Peers {
    /// Makes the virtual environment in `folder` unless it is there.
    pub(crate) fn set_up(scripts: &Path, folder: &Path) -> Result<Peers, Error> {
        std::fs::create_dir_all(folder)?;
        let peers = Peers {
            scripts: scripts.into(),
            venv: folder.join("venv"),
            models: folder.join("models"),
        };
        run(Command::new(scripts.join("setup")).arg(&peers.venv))?;
        Ok(peers)
    }

    /// Fetches and makes the models of the suite unless they are there.
    pub(crate) fn models(&self) -> Result<&Path, Error> {
        std::fs::create_dir_all(&self.models)?;
        run(Command::new(self.scripts.join("fetch_models")).arg(&self.models).arg(&self.venv))?;
        let script = self.scripts.join("make_models.py");
        run(Command::new(self.python()).arg(script).arg(&self.models))?;
        Ok(&self.models)
    }

    pub(crate) fn venv(&self) -> &Path {
        &self.venv
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.venv.join("bin/python")
    }

    /// The usual Python Lambda for a model.
    pub(crate) fn lambda(&self, model: &Path) -> Result<Program, Error> {
        let text = |path: &Path| path.display().to_string();
        Ok(Program {
            path: self.python(),
            args: ["-m", "awslambdaric", "lambda_function.handler"].map(String::from).to_vec(),
            env: vec![
                ("MODEL_PATH".into(), text(&model.canonicalize()?)),
                ("PYTHONPATH".into(), text(&self.scripts.canonicalize()?)),
                ("PYTHONDONTWRITEBYTECODE".into(), "1".into()),
                ("PATH".into(), "/usr/bin:/bin".into()),
            ],
            folder: self.scripts.clone(),
        })
    }

    /// One of the peers' scripts.
    pub(crate) fn script(&self, name: &str) -> PathBuf {
        self.scripts.join(name)
    }

    /// The script that times onnxruntime alone.
    pub(crate) fn warm_script(&self) -> PathBuf {
        self.scripts.join("warm.py")
    }

    /// How long `zip -6` takes over a folder: Info-ZIP's where it is installed, else Python's.
    pub(crate) fn zip6(&self, folder: &Path, zip: &Path) -> Result<Duration, Error> {
        let _ = std::fs::remove_file(zip);
        let began = Instant::now();
        let info_zip = Command::new("zip")
            .args(["-6", "-q", "-r"])
            .arg(zip)
            .arg(".")
            .current_dir(folder)
            .status();
        match info_zip {
            Ok(status) if status.success() => return Ok(began.elapsed()),
            Ok(status) => return Err(format!("zip -6: {status}").into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let script = "import shutil, sys; \
                      shutil.make_archive(sys.argv[1], 'zip', sys.argv[2])";
        let began = Instant::now();
        run(Command::new(self.python()).args(["-c", script]).arg(zip).arg(folder))?;
        Ok(began.elapsed())
    }
}

/// Runs a command, which talks on stderr.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
