//! `slsml local`: up, down, status, env.

use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::json;
use slsml_local::{
    ACCESS_KEY, ApiFault, ApiFaultKind, Containers, Faults, Home, Options, REGION, Running,
    SECRET_KEY, VersionFault,
};

use crate::args::{
    ApiFaultArgs, ContainersName, Fault, FaultKind, Local, LocalUp, VersionFaultArgs,
};
use crate::commands::stopped;
use crate::failure::{Exit, Failure};
use crate::place::{local_home, not_running, running};
use crate::printer::Printer;

/// How long a detached start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(command: Local, printer: &Printer) -> Result<Exit, Failure> {
    match command {
        Local::Up(args) if args.detach => detach(args, printer),
        Local::Up(args) => up(args, printer),
        Local::Down(at) => down(&local_home(at.dir)?, printer),
        Local::Status(at) => status(&local_home(at.dir)?, printer),
        Local::Env(at) => env(&local_home(at.dir)?, printer),
        Local::Fault(command) => fault(command, printer),
    }
}

fn fault(command: Fault, printer: &Printer) -> Result<Exit, Failure> {
    let (home, faults) = match command {
        Fault::Show(at) => {
            let home = local_home(at.dir)?;
            let faults = home.faults();
            return tell_faults(&faults, printer);
        }
        Fault::Clear(at) => (local_home(at.dir)?, Faults::default()),
        Fault::Version(args) => {
            for rate in [args.error_rate, args.throttle_rate, args.blank_rate] {
                if !(0.0..=1.0).contains(&rate) {
                    return Err(Failure::usage(format!("{rate} is not a share from 0 to 1")));
                }
            }
            let home = local_home(args.at.dir)?;
            let mut faults = home.faults();
            let VersionFaultArgs {
                function,
                version,
                error_rate,
                throttle_rate,
                blank_rate,
                delay_ms,
                ..
            } = args;
            faults.versions.retain(|one| one.function != function || one.version != version);
            let fault =
                VersionFault { function, version, error_rate, throttle_rate, blank_rate, delay_ms };
            faults.versions.push(fault);
            (home, faults)
        }
        Fault::Api(args) => {
            let home = local_home(args.at.dir)?;
            let mut faults = home.faults();
            let ApiFaultArgs { call, nth, times, kind, .. } = args;
            faults.api.push(ApiFault { call, nth, times, kind: kind.into() });
            (home, faults)
        }
    };
    if home.running()?.is_none() {
        return Err(not_running(&home));
    }
    home.set_faults(&faults)?;
    tell_faults(&faults, printer)
}

fn tell_faults(faults: &Faults, printer: &Printer) -> Result<Exit, Failure> {
    printer.result(faults, || {
        let versions = faults.versions.iter().map(|fault| {
            format!(
                "version {} of {}: fails {} %, throttled {} %, inputs zero {} %, {} ms slower",
                fault.version,
                fault.function,
                100.0 * fault.error_rate,
                100.0 * fault.throttle_rate,
                100.0 * fault.blank_rate,
                fault.delay_ms
            )
        });
        let api = faults.api.iter().map(|fault| {
            let call = if fault.call.is_empty() { "call" } else { &fault.call };
            format!(
                "{call} number {} and {} more: {:?}",
                fault.nth,
                fault.times.saturating_sub(1),
                fault.kind
            )
        });
        let lines: Vec<String> = versions.chain(api).collect();
        if lines.is_empty() { "Nothing is set to go wrong.".into() } else { lines.join("\n") }
    })
}

impl From<FaultKind> for ApiFaultKind {
    fn from(kind: FaultKind) -> ApiFaultKind {
        match kind {
            FaultKind::Throttle => Self::Throttle,
            FaultKind::Error => Self::Error,
            FaultKind::Deny => Self::Deny,
            FaultKind::DropBefore => Self::DropBefore,
            FaultKind::DropAfter => Self::DropAfter,
            FaultKind::HangBefore => Self::HangBefore,
            FaultKind::HangAfter => Self::HangAfter,
            FaultKind::FailOperation => Self::FailOperation,
        }
    }
}

impl From<ContainersName> for Containers {
    fn from(name: ContainersName) -> Containers {
        match name {
            ContainersName::Auto => Self::Auto,
            ContainersName::Podman => Self::Podman,
            ContainersName::Process => Self::Process,
        }
    }
}

fn up(args: LocalUp, printer: &Printer) -> Result<Exit, Failure> {
    let home = local_home(args.at.dir)?;
    let options = Options {
        home: home.clone(),
        port: args.port,
        idle_after: Duration::from_secs(args.idle_s),
        account_concurrency: args.account_concurrency,
        containers: args.containers.into(),
        record: args.record.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut told = Ok(Exit::Done);
    runtime.block_on(slsml_local::serve(
        options,
        |running| told = tell(printer, &home, running),
        stopped(),
    ))?;
    told
}

fn tell(printer: &Printer, home: &Home, running: &Running) -> Result<Exit, Failure> {
    printer.result(&describe(home, running), || {
        let dir = home.dir().display();
        // Commands find the default folder and the one in the environment by themselves.
        let found = local_home(std::env::var_os("SLSML_LOCAL_DIR").map(Into::into))
            .is_ok_and(|found| found.dir() == home.dir());
        let flag = |name: &str| if found { String::new() } else { format!(" {name} {dir}") };
        let (local_dir, dir_flag) = (flag("--local-dir"), flag("--dir"));
        format!(
            "A cloud runs on this machine: {endpoint}\n  \
             state   {dir}\n  \
             use it  slsml deploy lambda --alias live --local{local_dir}\n  \
             or      eval \"$(slsml local env{dir_flag})\" and any AWS client\n  \
             stop    slsml local down{dir_flag}",
            endpoint = running.endpoint(),
        )
    })
}

fn describe(home: &Home, running: &Running) -> serde_json::Value {
    json!({
        "running": true,
        "endpoint": running.endpoint(),
        "pid": running.pid,
        "dir": home.dir(),
    })
}

/// Starts another process that outlives this one, and waits until it listens.
fn detach(args: LocalUp, printer: &Printer) -> Result<Exit, Failure> {
    let home = local_home(args.at.dir)?;
    if let Some(running) = home.running()? {
        return Err(slsml_local::HomeError::Taken {
            dir: home.dir().to_owned(),
            at: Some(running),
        }
        .into());
    }
    std::fs::create_dir_all(home.dir())
        .map_err(|error| Failure::usage(format!("cannot use {}: {error}", home.dir().display())))?;
    let log = std::fs::File::create(home.log_file()).map_err(|error| {
        Failure::usage(format!("cannot write {}: {error}", home.log_file().display()))
            .help("pass a folder that can be written: --dir DIR")
    })?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command
        .args(["--json", "local", "up", "--port"])
        .arg(args.port.to_string())
        .arg("--dir")
        .arg(home.dir())
        .arg("--idle-s")
        .arg(args.idle_s.to_string())
        .arg("--account-concurrency")
        .arg(args.account_concurrency.to_string())
        .arg("--containers")
        .arg(
            args.containers
                .to_possible_value()
                .map_or("auto".into(), |value| value.get_name().to_owned()),
        );
    if let Some(record) = &args.record {
        command.arg("--record").arg(std::path::absolute(record)?);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A group of its own: Ctrl-C in this terminal does not reach it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let step = printer.step("Starting the local cloud");
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(running) = home.running()?.filter(|running| running.pid == child.id()) {
            drop(step);
            return tell(printer, &home, &running);
        }
        if child.try_wait()?.is_some() {
            drop(step);
            return Err(from_log(&home));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // It was given time enough; leave nothing half-started behind.
    child.kill()?;
    Err(Failure::new(Exit::Internal, "the local cloud did not start")
        .help(format!("see {}", home.log_file().display())))
}

/// What the detached process said before it ended: its error as JSON.
fn from_log(home: &Home) -> Failure {
    let text = std::fs::read_to_string(home.log_file()).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let field =
        |name: &str| value.pointer(&format!("/error/{name}")).and_then(|field| field.as_str());
    let exit = match value.pointer("/error/exit_code").and_then(serde_json::Value::as_u64) {
        Some(2) => Exit::Usage,
        Some(4) => Exit::Cloud,
        _ => Exit::Internal,
    };
    let message = field("message")
        .map_or_else(|| format!("the local cloud did not start: {text}"), str::to_owned);
    Failure { exit, message, help: field("help").map(str::to_owned) }
}

fn down(home: &Home, printer: &Printer) -> Result<Exit, Failure> {
    let Some(running) = home.running()? else {
        return printer
            .result(&json!({ "running": false }), || "No local cloud was running.".into());
    };
    let pid = i32::try_from(running.pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid =
        pid.ok_or_else(|| Failure::new(Exit::Internal, "the local cloud's process is unknown"))?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot stop process {}: {error}", running.pid))
    })?;
    let began = Instant::now();
    while home.running()?.is_some() {
        if began.elapsed() > PATIENCE {
            return Err(Failure::new(
                Exit::Internal,
                format!("process {} does not stop", running.pid),
            )
            .help(format!("kill -9 {}; the next slsml local up recovers", running.pid)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    printer.result(&json!({ "running": false }), || "The local cloud is stopped.".into())
}

fn status(home: &Home, printer: &Printer) -> Result<Exit, Failure> {
    match home.running()? {
        Some(running) => printer.result(&describe(home, &running), || {
            let dir = home.dir().display();
            format!("A local cloud runs: {} (process {}, {dir})", running.endpoint(), running.pid)
        }),
        None => printer.result(&json!({ "running": false }), || {
            format!("No local cloud runs in {}.", home.dir().display())
        }),
    }
}

fn env(home: &Home, printer: &Printer) -> Result<Exit, Failure> {
    let running = running(home)?;
    let variables = [
        ("AWS_ENDPOINT_URL", running.endpoint()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ("AWS_REGION", REGION.into()),
        ("AWS_DEFAULT_REGION", REGION.into()),
    ];
    let value: serde_json::Map<_, _> =
        variables.iter().map(|(name, value)| ((*name).into(), json!(value))).collect();
    printer.result(&json!({ "env": value }), || {
        let lines = variables.iter().map(|(name, value)| format!("export {name}={value}"));
        lines.collect::<Vec<_>>().join("\n")
    })
}
