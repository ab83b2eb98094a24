//! `make demo`: three versions of a real model, released on a Lambda on this machine under live
//! traffic, and what became of every request.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use slsml_e2e::Error;
use slsml_e2e::slsml::{LocalLambda, checkout, command};
use slsml_e2e::traffic::{Door, Tally, Totals, Traffic};

/// Which model each of the function's versions serves, in the order they are deployed.
const MODELS: [(&str, &str); 3] = [("1", "v1"), ("2", "v2"), ("3", "v3")];

const CANARY: [&str; 10] = [
    "--strategy",
    "canary",
    "--steps",
    "10,50",
    "--bake",
    "5s",
    "--min-requests",
    "20",
    "--check",
    "errors <= stable + 0.04",
];

/// A row of the table.
struct Row {
    what: &'static str,
    result: &'static str,
    took: Duration,
    totals: Totals,
}

#[tokio::main]
async fn main() -> ExitCode {
    // Dropping the demo's future on Ctrl-C drops the local Lambda with it, which stops it and
    // removes its folder.
    let outcome = tokio::select! {
        outcome = demo() => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted; the local Lambda is stopped and its folder removed".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<(), Error> {
    let began = Instant::now();
    let cloud = LocalLambda::start()?;
    println!("A Lambda runs on this machine: {}\n", cloud.endpoint);

    title("Version 1 is packaged and deployed");
    let v1 = package(&cloud, "v1").await?;
    let at = Instant::now();
    deploy(&cloud, &v1, &[], 0).await?;
    let mut rows = vec![Row {
        what: "v1, all at once",
        result: "live",
        took: at.elapsed(),
        totals: Totals::default(),
    }];

    title("Requests come in, and do not stop from here on");
    let pause = Duration::from_millis(60);
    let traffic =
        Traffic::start(Door::alias(&cloud.endpoint, "digits", "live"), &MODELS, 6, pause)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{} answered by version 1 in two seconds", traffic.totals().sent());

    title("Version 2 is better: it gets 10 %, then 50 %, then everything");
    let v2 = package(&cloud, "v2").await?;
    let at = Instant::now();
    deploy(&cloud, &v2, &CANARY, 0).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rows.push(Row {
        what: "v2, canary",
        result: "promoted",
        took: at.elapsed(),
        totals: traffic.totals(),
    });

    title("Version 3 fails on eights and nines: its own failures put the traffic back");
    let v3 = package(&cloud, "v3").await?;
    let at = Instant::now();
    deploy(&cloud, &v3, &CANARY, 5).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let totals = traffic.finish().await;
    rows.push(Row {
        what: "v3, canary",
        result: "rolled back",
        took: at.elapsed(),
        totals: totals.clone(),
    });

    slsml(&cloud, &["status", "--local"], 0).await?;
    table(&rows);
    judge(&totals)?;
    drop(cloud);
    println!(
        "\nEverything is stopped and removed. The demo took {:.0} s.",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}");
}

async fn package(cloud: &LocalLambda, version: &str) -> Result<PathBuf, Error> {
    let out = cloud.scratch().join(version);
    let model = format!("models/{version}.onnx");
    slsml(cloud, &["package", &model, "--out", &out.to_string_lossy()], 0).await?;
    Ok(out.join("digits"))
}

async fn deploy(
    cloud: &LocalLambda,
    artifact: &Path,
    more: &[&str],
    expected: i32,
) -> Result<(), Error> {
    let artifact = artifact.to_string_lossy();
    let args = ["deploy", "lambda", "--alias", "live", "--local", "--artifact", &*artifact];
    slsml(cloud, &[&args[..], more].concat(), expected).await
}

/// Runs a command in the example's folder; the reader sees what it prints, the exit code is
/// checked.
async fn slsml(cloud: &LocalLambda, args: &[&str], expected: i32) -> Result<(), Error> {
    let scratch = cloud.scratch().to_string_lossy().into_owned();
    let quoted =
        |arg: &&str| if arg.contains(' ') { format!("'{arg}'") } else { (*arg).to_owned() };
    let plain: Vec<String> =
        args.iter().map(quoted).map(|arg| arg.replace(&scratch, "$DEMO")).collect();
    println!("$ slsml {}", plain.join(" "));
    let mut command = tokio::process::Command::from(command(args)?);
    command.current_dir(checkout().join("examples/digits")).env("SLSML_LOCAL_DIR", cloud.dir());
    let status = command.kill_on_drop(true).status().await?;
    match status.code() {
        Some(code) if code == expected => Ok(()),
        code => Err(format!("slsml {} ended with {code:?}, not {expected}", args.join(" ")).into()),
    }
}

fn table(rows: &[Row]) {
    println!(
        "\n{:<17} {:<12} {:>6}   {:>9} {:>9} {:>9}   {:>8} {:>6} {:>5}",
        "release",
        "result",
        "took",
        "answers 1",
        "answers 2",
        "answers 3",
        "3 failed",
        "wrong",
        "lost"
    );
    let mut before = Totals::default();
    for row in rows {
        let version = |totals: &Totals, version: &str| {
            totals.versions.get(version).copied().unwrap_or_default()
        };
        let grew = |get: fn(&Tally) -> u64, name: &str| {
            get(&version(&row.totals, name)).saturating_sub(get(&version(&before, name)))
        };
        println!(
            "{:<17} {:<12} {:>4.0} s   {:>9} {:>9} {:>9}   {:>8} {:>6} {:>5}",
            row.what,
            row.result,
            row.took.as_secs_f64(),
            grew(|tally| tally.right, "1"),
            grew(|tally| tally.right, "2"),
            grew(|tally| tally.right, "3"),
            grew(|tally| tally.failed, "3"),
            row.totals.wrong().saturating_sub(before.wrong()),
            row.totals.lost.saturating_sub(before.lost),
        );
        before = row.totals.clone();
    }
}

/// The demo promises that no answer was wrong and none was lost.
fn judge(totals: &Totals) -> Result<(), Error> {
    if totals.wrong() == 0 && totals.lost == 0 {
        println!(
            "\n{} requests: every answer was right, none was lost; version 3 failed on its own share only.",
            totals.sent()
        );
        return Ok(());
    }
    let fault = totals.first_fault.clone().unwrap_or_default();
    Err(format!(
        "{} wrong and {} lost of {} requests; the first: {fault}",
        totals.wrong(),
        totals.lost,
        totals.sent()
    )
    .into())
}
