//! Starting a `bootstrap` as Lambda would: its own folder, the documented environment and nothing
//! of this machine's, layers at `/opt`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::lambda::names;
use crate::lambda::state::Version;
use crate::{ACCESS_KEY, REGION, SECRET_KEY};

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) function: String,
    pub(crate) version: Version,
    /// The unpacked zip.
    pub(crate) task: PathBuf,
    /// The unpacked layers.
    pub(crate) opt: Option<PathBuf>,
    pub(crate) log_stream: String,
}

/// Starts the process. It leads a process group of its own, so that what it starts ends with it.
pub(crate) fn spawn(launch: &Launch, runtime_api: SocketAddr) -> std::io::Result<Child> {
    let own = launch.task.join("bootstrap");
    let (bootstrap, mut command) = match &launch.opt {
        None => (own.clone(), Command::new(&own)),
        Some(opt) => {
            let bootstrap = if own.exists() { own } else { Path::new("/opt/bootstrap").to_owned() };
            let command = with_opt(opt, &bootstrap)?;
            (bootstrap, command)
        }
    };
    command
        .current_dir(&launch.task)
        .env_clear()
        .envs(environment(launch, runtime_api))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().map_err(|error| {
        std::io::Error::new(error.kind(), format!("{}: {error}", bootstrap.display()))
    })
}

/// A private view of the file system in which `/opt` is the layers. It needs root or the kernel's
/// user namespaces; without either the process says so and ends.
fn with_opt(opt: &Path, bootstrap: &Path) -> std::io::Result<Command> {
    let mut command = unshare("layers need")?;
    command.args(["--", "/bin/sh", "-c", r#"mount --bind "$0" /opt && exec "$1""#]);
    command.arg(opt).arg(bootstrap);
    Ok(command)
}

/// The beginning of a command with a private view of the file system: the program that gives it, and
/// what it takes for whoever is not root. `who` says what is missed without it.
pub(crate) fn unshare(who: &str) -> std::io::Result<Command> {
    let unshare = ["/usr/bin/unshare", "/bin/unshare"].map(Path::new);
    let unshare = unshare.iter().find(|path| path.exists()).ok_or_else(|| {
        let why = format!("{who} the program unshare (Debian package util-linux)");
        std::io::Error::other(why)
    })?;
    let mut command = Command::new(unshare);
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    Ok(command)
}

/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>
fn environment(launch: &Launch, runtime_api: SocketAddr) -> BTreeMap<String, String> {
    let task = launch.task.display().to_string();
    let config = &launch.version.config;
    let mut all = config.environment.clone();
    let fixed = [
        ("_HANDLER", config.handler.clone()),
        ("AWS_REGION", REGION.into()),
        ("AWS_DEFAULT_REGION", REGION.into()),
        ("AWS_LAMBDA_FUNCTION_NAME", launch.function.clone()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", config.memory_mb.to_string()),
        ("AWS_LAMBDA_FUNCTION_VERSION", launch.version.version.clone()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".into()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", names::log_group(&launch.function)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", launch.log_stream.clone()),
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ("AWS_SESSION_TOKEN", "slsml-local-token".into()),
        ("LAMBDA_TASK_ROOT", task.clone()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".into()),
        ("LANG", "en_US.UTF-8".into()),
        ("TZ", ":UTC".into()),
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin".into()),
        ("LD_LIBRARY_PATH", format!("{task}:{task}/lib:/opt/lib")),
    ];
    for (key, value) in fixed {
        all.entry(key.into()).or_insert(value);
    }
    all
}
