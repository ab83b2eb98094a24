//! Releases by the built `slsml` on a local Lambda, under live traffic.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_sdk_lambda::types::AliasRoutingConfiguration;
use slsml_e2e::slsml::{CANARY, LocalLambda, command};
use slsml_e2e::traffic::{Door, Traffic, client};

const MODELS: [(&str, &str); 3] = [("1", "v1"), ("2", "v2"), ("3", "v3")];

fn traffic(cloud: &LocalLambda) -> Traffic {
    let pause = Duration::from_millis(25);
    Traffic::start(Door::alias(&cloud.endpoint, "digits", "live"), &MODELS, 4, pause).unwrap()
}

fn state(cloud: &LocalLambda) -> Vec<u8> {
    std::fs::read(cloud.dir().join("state.json")).unwrap()
}

fn split(cloud: &LocalLambda) -> serde_json::Value {
    let (code, status) = cloud.json(&["status", "--function", "digits"]).unwrap();
    assert_eq!(code, 0, "{status}");
    status["aliases"][0]["split"].clone()
}

fn deployed(version: &str) -> LocalLambda {
    let cloud = LocalLambda::start().unwrap();
    let artifact = cloud.package(version).unwrap();
    let (code, value) = cloud.deploy(&artifact, &[]).unwrap();
    assert_eq!((code, &value["version"]), (0, &"1".into()), "{value}");
    cloud
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_under_continuous_traffic_loses_nothing_and_answers_nothing_wrong() {
    let cloud = deployed("v1");
    let traffic = traffic(&cloud);
    let artifact = cloud.package("v2").unwrap();
    let (code, value) = cloud.deploy(&artifact, &CANARY).unwrap();
    assert_eq!((code, &value["outcome"]), (0, &"promoted".into()), "{value}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let totals = traffic.finish().await;
    assert_eq!((totals.wrong(), totals.lost), (0, 0), "{totals:?}");
    assert!(totals.versions["1"].right > 50 && totals.versions["2"].right > 50, "{totals:?}");
    assert_eq!(split(&cloud)["stable"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_version_is_rolled_back_by_its_own_failures() {
    let cloud = deployed("v1");
    let models = [("1", "v1"), ("2", "v3")];
    let traffic = Traffic::start(
        Door::alias(&cloud.endpoint, "digits", "live"),
        &models,
        4,
        Duration::from_millis(25),
    )
    .unwrap();
    let artifact = cloud.package("v3").unwrap();
    let (code, value) = cloud.deploy(&artifact, &CANARY).unwrap();
    assert_eq!(code, 5, "{value}");
    assert_eq!(value["outcome"], "rolled_back", "{value}");
    assert!(value["reason"]["check_failed"].is_object(), "{value}");
    let totals = traffic.finish().await;
    assert_eq!((totals.wrong(), totals.lost), (0, 0), "{totals:?}");
    assert!(totals.versions["2"].failed > 0, "{totals:?}");
    assert_eq!(split(&cloud), serde_json::json!({ "stable": "1", "candidate": null }));
}

#[test]
fn deploying_what_is_deployed_writes_nothing() {
    let cloud = deployed("v1");
    let artifact = cloud.dir().parent().unwrap().join("v1/digits");
    let before = state(&cloud);
    for strategy in [&[][..], &CANARY[..]] {
        let (code, value) = cloud.deploy(&artifact, strategy).unwrap();
        assert_eq!((code, &value["changed"]), (0, &false.into()), "{value}");
        assert!(state(&cloud) == before);
    }
}

#[test]
fn an_earlier_artifact_uses_its_published_version_again() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    assert_eq!(cloud.deploy(&v2, &[]).unwrap().1["version"], "2");
    let v1 = cloud.dir().parent().unwrap().join("v1/digits");
    let (code, value) = cloud.deploy(&v1, &[]).unwrap();
    assert_eq!((code, &value["version"]), (0, &"1".into()), "{value}");
    assert_eq!(split(&cloud)["stable"], "1");
}

#[test]
fn changed_settings_make_a_new_version_of_the_same_code() {
    let cloud = deployed("v1");
    let v1 = cloud.dir().parent().unwrap().join("v1/digits");
    let (code, value) =
        cloud.deploy(&v1, &["--timeout-s", "7", "--reserved-concurrency", "5"]).unwrap();
    assert_eq!((code, &value["version"]), (0, &"2".into()), "{value}");
    let (_, status) = cloud.json(&["status", "--function", "digits"]).unwrap();
    assert_eq!((&status["timeout_s"], &status["reserved_concurrency"]), (&7.into(), &5.into()));
}

#[test]
fn without_requests_nothing_is_promoted() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let quick = ["--strategy", "canary", "--steps", "10", "--bake", "1s", "--hold", "1s"];
    let (code, value) = cloud.deploy(&v2, &quick).unwrap();
    assert_eq!((code, &value["outcome"]), (6, &"inconclusive".into()), "{value}");
    assert_eq!(split(&cloud)["stable"], "1");
}

#[test]
fn a_canary_without_a_stable_version_creates_nothing() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = cloud.package("v1").unwrap();
    let before = state(&cloud);
    let (code, value) = cloud.deploy(&artifact, &CANARY).unwrap();
    assert_eq!(code, 2, "{value}");
    let error = &value["error"];
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("nothing was released behind the alias live of digits"),
        "{error}"
    );
    assert!(error["help"].as_str().unwrap().contains("--strategy all-at-once"), "{error}");
    assert!(state(&cloud) == before);
}

#[test]
fn large_zips_go_through_a_bucket() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = cloud.package("v1").unwrap();
    let (code, value) = cloud.deploy(&artifact, &["--bucket", "artifacts"]).unwrap();
    assert_eq!(code, 4, "a missing bucket is refused: {value}");
    // A bucket of the object store is a folder.
    std::fs::create_dir(cloud.dir().join("s3/artifacts")).unwrap();
    let (code, value) = cloud.deploy(&artifact, &["--bucket", "artifacts"]).unwrap();
    assert_eq!(code, 0, "{value}");
}

/// A canary that waits for evidence which does not come, in a process of its own.
fn waiting_canary(cloud: &LocalLambda, artifact: &Path) -> std::process::Child {
    let mut command =
        command(&["deploy", "lambda", "--alias", "live", "--memory-mb", "512"]).unwrap();
    command.args(["--strategy", "canary", "--steps", "10", "--bake", "60s"]);
    command.args(cloud.flags()).arg("--artifact").arg(artifact);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while split(cloud)["candidate"].is_null() {
        assert!(began.elapsed() < Duration::from_secs(30), "the canary did not begin");
        std::thread::yield_now();
    }
    child
}

#[test]
fn a_release_ended_by_hand_stops_the_one_who_ran_it() {
    for (ending, stable) in [("abort", "1"), ("promote", "2")] {
        let cloud = deployed("v1");
        let v2 = cloud.package("v2").unwrap();
        let canary = waiting_canary(&cloud, &v2);
        let (code, value) = cloud.deploy(&v2, &[]).unwrap();
        assert_eq!(code, 7, "a second release is refused: {value}");
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains("under way already; ") && message.ends_with(" works on it"));
        let (code, value) = cloud.json(&["release", ending, "--function", "digits"]).unwrap();
        assert_eq!((code, &value["changed"]), (0, &true.into()), "{value}");
        let output = canary.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let code = if ending == "abort" { 5 } else { 0 };
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(&format!("asked to {ending}")), "{told}");
        assert_eq!(
            split(&cloud),
            serde_json::json!({ "stable": stable, "candidate": null }),
            "{ending}"
        );
        let (code, value) = cloud.json(&["release", ending, "--function", "digits"]).unwrap();
        assert_eq!((code, &value["changed"]), (0, &false.into()), "{value}");
    }
}

#[test]
fn of_two_deployments_at_the_same_time_one_goes_on_and_the_other_says_who_does() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    // The version is published, so that both come to the release at once.
    let (_, value) =
        cloud.deploy(&v2, &["--strategy", "canary", "--bake", "1s", "--hold", "0s"]).unwrap();
    assert_eq!(value["outcome"], "inconclusive", "{value}");
    for round in 0..5 {
        let begin = || {
            let mut deploy = command(&["deploy", "lambda", "--memory-mb", "512"]).unwrap();
            deploy.args(["--strategy", "canary", "--bake", "1s", "--hold", "1s"]);
            deploy.args(cloud.flags()).arg("--artifact").arg(&v2);
            deploy.stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let both = [begin(), begin()].map(|one| one.wait_with_output().unwrap());
        let mut codes = both.each_ref().map(|output| output.status.code());
        codes.sort_unstable();
        let told = both.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(codes, [Some(6), Some(7)], "round {round}: {told:?}");
        let refused = told.iter().find(|text| text.contains('×')).unwrap();
        assert!(
            refused.contains(" works on it") || refused.contains(" is working on "),
            "{refused}"
        );
    }
    let (_, history) = cloud.json(&["history", "--function", "digits"]).unwrap();
    assert_eq!(history["releases"].as_array().unwrap().len(), 7, "{history}");
}

#[test]
fn an_interrupted_canary_says_where_the_traffic_is_and_how_to_end_it() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let canary = waiting_canary(&cloud, &v2);
    let kill = std::process::Command::new("kill").args(["-INT", &canary.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = canary.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("interrupted; the traffic stays at 1 90 %, 2 10 %"), "{told}");
    assert!(told.contains("slsml release abort"), "{told}");
    assert_eq!(cloud.json(&["release", "abort", "--function", "digits"]).unwrap().0, 0);
    assert_eq!(split(&cloud)["stable"], "1");
}

#[test]
fn names_that_lambda_would_refuse_are_refused_before_anything_is_created() {
    let cloud = LocalLambda::start().unwrap();
    let artifact = cloud.package("v1").unwrap();
    let before = state(&cloud);
    for wrong in [["--alias", "1"], ["--alias", "a b"], ["--function", "a/b"], ["--function", ""]] {
        let artifact = artifact.to_string_lossy();
        let args = ["deploy", "lambda", "--artifact", &*artifact, wrong[0], wrong[1]];
        let (code, value) = cloud.json(&args).unwrap();
        assert_eq!(code, 2, "{wrong:?}: {value}");
    }
    assert!(state(&cloud) == before);
}

#[tokio::test]
async fn a_foreign_move_of_the_alias_is_left_alone_and_another_change_of_it_does_no_harm() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let canary = waiting_canary(&cloud, &v2);
    let client = client(&cloud.endpoint);
    let update = || client.update_alias().function_name("digits").name("live");
    update().description("mine now").send().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let weights = HashMap::from([("2".to_owned(), 0.2)]);
    let routing =
        AliasRoutingConfiguration::builder().set_additional_version_weights(Some(weights));
    update().routing_config(routing.build()).send().await.unwrap();
    let output = canary.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(split(&cloud)["candidate"], serde_json::json!(["2", 20.0]));
    let (_, history) = cloud.json(&["history", "--function", "digits"]).unwrap();
    assert!(history["releases"][0]["outcome"]["foreign"].is_object(), "{history}");
}

#[test]
fn a_killed_release_is_resumed_and_its_journal_tells_the_whole_story() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let mut canary = waiting_canary(&cloud, &v2);
    canary.kill().unwrap();
    canary.wait().unwrap();
    assert_eq!(split(&cloud)["candidate"], serde_json::json!(["2", 10.0]));
    let (code, value) = cloud.deploy(&v2, &[]).unwrap();
    assert_eq!(code, 7, "{value}");
    assert!(value["error"]["help"].as_str().unwrap().contains("slsml release resume"), "{value}");
    let (code, value) = cloud.json(&["release", "pause", "--function", "digits"]).unwrap();
    assert_eq!((code, &value["watched"]), (0, &false.into()), "{value}");
    let (code, value) = cloud.json(&["release", "promote", "--function", "digits"]).unwrap();
    assert_eq!((code, &value["outcome"]), (0, &"promoted".into()), "{value}");
    assert_eq!(split(&cloud)["stable"], "2");
    let (_, shown) = cloud.json(&["release", "show", "--function", "digits"]).unwrap();
    let facts: Vec<&str> = shown["journal"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["fact"].as_str().unwrap())
        .collect();
    assert_eq!(facts.first(), Some(&"began"));
    assert!(facts.contains(&"taken_over") && facts.contains(&"asked"), "{facts:?}");
}

#[test]
fn a_release_whose_worker_died_on_another_machine_is_taken_over_once_its_lease_is_over() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let mut canary = waiting_canary(&cloud, &v2);
    canary.kill().unwrap();
    canary.wait().unwrap();
    let lease = cloud.dir().join("releases/lambda/local/digits/live/lease.json");
    let mut held: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&lease).unwrap()).unwrap();
    held["holder"]["machine"] = "another".into();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    held["until_ms"] = u64::try_from((now + Duration::from_secs(5)).as_millis()).unwrap().into();
    std::fs::write(&lease, held.to_string()).unwrap();
    let (code, value) = cloud.deploy(&v2, &[]).unwrap();
    assert_eq!(code, 7, "{value}");
    let (code, value) = cloud.json(&["release", "abort", "--function", "digits"]).unwrap();
    assert_eq!((code, &value["outcome"]), (0, &"rolled_back".into()), "{value}");
    assert_eq!(split(&cloud)["stable"], "1");
}

#[test]
fn a_report_and_a_summary_tell_of_a_release() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let summary = cloud.scratch().join("summary.md");
    let flags = cloud.flags();
    let mut deploy = command(&["deploy", "lambda", "--alias", "live"]).unwrap();
    let status = deploy
        .args(&flags)
        .arg("--artifact")
        .arg(&v2)
        .env("GITHUB_STEP_SUMMARY", &summary)
        .status()
        .unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(summary).unwrap();
    assert!(text.contains("version 1 to 2") && text.contains("**promoted**"), "{text}");
    let page = cloud.scratch().join("report.html");
    let page_text = page.to_string_lossy();
    let args = ["release", "report", "--function", "digits", "--html", &*page_text];
    assert_eq!(cloud.json(&args).unwrap().0, 0);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("Promoted"), "{html}");
    assert!(!html.contains("<script") && !html.contains("src="), "one page alone: {html}");
}

/// Answers HTTP requests, the first with 500, and hands over their heads and bodies.
fn service() -> (String, std::sync::mpsc::Receiver<(String, serde_json::Value)>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (told, tells) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut answered = 0;
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            // One connection may bring several requests.
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
                if head.is_empty() {
                    break;
                }
                let length = head.to_lowercase();
                let length = length.split("content-length: ").nth(1).unwrap();
                let length = length.split("\r\n").next().unwrap().parse().unwrap();
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let status = if answered == 0 { "500 Oops" } else { "200 OK" };
                answered += 1;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
                if told.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                    return;
                }
            }
        }
    });
    (url, tells)
}

#[test]
fn a_webhook_is_told_of_start_verdict_and_end_and_is_tried_again() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let (url, tells) = service();
    let mut deploy = command(&["deploy", "lambda", "--alias", "live", "--webhook", &url]).unwrap();
    let deploy = deploy.args(cloud.flags()).arg("--artifact").arg(&v2);
    assert!(deploy.env("SLSML_WEBHOOK_SECRET", "s3cret").status().unwrap().success());
    let all: Vec<_> = tells.try_iter().collect();
    let events: Vec<&str> = all.iter().map(|(_, body)| body["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["began", "began", "verdict", "ended"], "the first is tried again");
    assert!(all.iter().all(|(head, _)| head.contains("x-slsml-signature: sha256=")));
    assert_eq!(all[0].0.split("x-slsml").nth(1), all[1].0.split("x-slsml").nth(1), "same body");
    assert!(all[3].1["outcome"]["promoted"].is_object(), "{}", all[3].1);
    let gone = ["--webhook", "ftp://x"];
    let (code, value) = cloud.deploy(&v2, &gone).unwrap();
    assert_eq!(code, 2, "{value}");
}

#[test]
fn a_rollback_works_after_success_and_asks_no_metrics() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    assert_eq!(cloud.deploy(&v2, &[]).unwrap().0, 0);
    for (changed, stable) in [(true, "1"), (false, "1")] {
        let (code, value) = cloud.json(&["release", "rollback", "--function", "digits"]).unwrap();
        assert_eq!((code, &value["changed"]), (0, &changed.into()), "{value}");
        assert_eq!(split(&cloud)["stable"], stable);
    }
    let (_, history) = cloud.json(&["history", "--function", "digits"]).unwrap();
    assert_eq!(history["releases"][0]["rolled_back_later"], true, "{history}");
}

#[tokio::test]
async fn a_rollback_to_a_version_that_is_gone_says_so() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    assert_eq!(cloud.deploy(&v2, &[]).unwrap().0, 0);
    let client = client(&cloud.endpoint);
    client.delete_function().function_name("digits").qualifier("1").send().await.unwrap();
    let (code, value) = cloud.json(&["release", "rollback", "--function", "digits"]).unwrap();
    assert_eq!(code, 4, "{value}");
    assert!(
        value["error"]["message"].as_str().unwrap().contains("does not exist any more"),
        "{value}"
    );
}

#[test]
fn a_plan_changes_nothing_and_says_nothing_once_it_is_done() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let before = state(&cloud);
    let artifact = v2.to_string_lossy();
    let plan = ["plan", "lambda", "--memory-mb", "512", "--artifact", &*artifact];
    let args = [&plan[..], &CANARY[..]].concat();
    let (code, plan) = cloud.json(&args).unwrap();
    assert_eq!(code, 0, "{plan}");
    assert_eq!(plan["changes"], serde_json::json!(["code", "publish"]), "{plan}");
    let splits: Vec<String> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step.get("split"))
        .map(|split| split["candidate"].to_string())
        .collect();
    assert_eq!(splits.len(), 3, "{plan}");
    assert!(state(&cloud) == before);
    assert_eq!(cloud.deploy(&v2, &[]).unwrap().0, 0);
    let (_, plan) = cloud.json(&args).unwrap();
    assert_eq!(
        (&plan["changes"], &plan["steps"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
}

#[test]
fn a_journal_in_a_bucket_is_found_by_the_next_command() {
    let cloud = deployed("v1");
    std::fs::create_dir(cloud.dir().join("s3/artifacts")).unwrap();
    let v2 = cloud.package("v2").unwrap();
    let (code, value) = cloud.deploy(&v2, &["--bucket", "artifacts"]).unwrap();
    assert_eq!(code, 0, "{value}");
    let here = ["history", "--function", "digits", "--bucket", "artifacts"];
    let (_, history) = cloud.json(&here).unwrap();
    assert_eq!(history["releases"].as_array().unwrap().len(), 1, "{history}");
    assert_eq!(history["releases"][0]["candidate"], "2");
    let back = ["release", "rollback", "--function", "digits", "--bucket", "artifacts"];
    assert_eq!(cloud.json(&back).unwrap().0, 0);
    assert_eq!(split(&cloud)["stable"], "1");
}

/// A canary that checks everything there is to check.
const STRICT: [&str; 14] = [
    "--strategy",
    "canary",
    "--steps",
    "50",
    "--bake",
    "2s",
    "--check",
    "errors <= stable + 0.05",
    "--check",
    "slower_than_500ms <= stable + 0.1",
    "--check",
    "throttles <= 0.1",
    "--check",
    "outputs <= stable + 0.15",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_slow_throttled_or_predicts_differently_is_rolled_back_for_it() {
    let cases = [
        (&["--blank-rate", "1"][..], "outputs"),
        (&["--delay-ms", "600"][..], "slower_than_500ms"),
        (&["--throttle-rate", "0.6"][..], "throttles"),
        (&["--error-rate", "0.5"][..], "errors"),
    ];
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    // Faults make wrong answers, so only that something answers matters here.
    let pause = Duration::from_millis(25);
    let models = [("1", "v1"), ("2", "v2")];
    let traffic =
        Traffic::start(Door::alias(&cloud.endpoint, "digits", "live"), &models, 4, pause).unwrap();
    for (fault, metric) in cases {
        let dir = cloud.dir();
        let at = ["--dir", &*dir.to_string_lossy()];
        let run = |args: &[&str]| {
            let output = command(args).unwrap().output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&[&["local", "fault", "version", "digits", "2"], fault, &at].concat());
        let (code, value) =
            cloud.deploy(&v2, &[&STRICT[..], &["--warm-up", "0"]].concat()).unwrap();
        assert_eq!(code, 5, "{metric}: {value}");
        assert_eq!(value["reason"]["check_failed"]["check"]["metric"], metric, "{value}");
        run(&[&["local", "fault", "clear"][..], &at].concat());
    }
    let (code, value) = cloud.deploy(&v2, &STRICT).unwrap();
    assert_eq!((code, &value["outcome"]), (0, &"promoted".into()), "{value}");
    traffic.finish().await;
}

#[test]
fn a_check_on_what_nothing_counts_is_refused() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    for (check, code, says) in [
        ("custom:fallbacks <= 0.1", 2, "nothing has ever been counted as custom:fallbacks"),
        ("cpu <= 0.1", 2, "`cpu` is no metric"),
        ("errors < 0.1", 2, "is no check"),
    ] {
        let flags = ["--strategy", "canary", "--steps", "10", "--bake", "2s", "--check", check];
        let (found, value) = cloud.deploy(&v2, &flags).unwrap();
        assert_eq!(found, code, "{value}");
        assert!(value["error"]["message"].as_str().unwrap().contains(says), "{value}");
        assert_eq!(split(&cloud)["candidate"], serde_json::Value::Null);
    }
}

#[test]
fn pruning_keeps_whom_to_go_back_to() {
    let cloud = deployed("v1");
    for (version, memory) in [("v2", "512"), ("v1", "640")] {
        let artifact = cloud.package(version).unwrap().to_string_lossy().into_owned();
        let deploy = ["deploy", "lambda", "--alias", "live", "--artifact", &*artifact];
        let (code, value) = cloud.json(&[&deploy[..], &["--memory-mb", memory]].concat()).unwrap();
        assert_eq!(code, 0, "{value}");
    }
    let run = |args: &[&str]| cloud.json(&[args, &["--function", "digits"]].concat()).unwrap();
    let (code, pruned) = run(&["prune", "--keep", "0"]);
    assert_eq!((code, &pruned["deleted"]), (0, &serde_json::json!(["1"])), "{pruned}");
    let (code, value) = run(&["release", "rollback"]);
    assert_eq!((code, &value["split"]["stable"]), (0, &"2".into()), "{value}");
    assert_eq!(run(&["destroy"]).0, 2, "without --yes");
    assert_eq!(run(&["destroy", "--yes"]).0, 0);
    assert_eq!(run(&["status"]).0, 4);
}

#[test]
fn what_a_function_prints_is_shown_by_version() {
    let cloud = deployed("v1");
    let logs = |more: &[&str]| {
        cloud.json(&[&["logs", "--function", "digits"][..], more].concat()).unwrap()
    };
    let (code, value) = logs(&[]);
    let lines = value["lines"].as_array().unwrap();
    let ends = lines.iter().filter(|line| line["text"].as_str().unwrap().starts_with("END "));
    assert_eq!((code, ends.count() > 0), (0, true), "the warm-up's requests: {value}");
    assert!(lines.iter().all(|line| line["revision"] == "1"), "{value}");
    assert_eq!(logs(&["--revision", "9"]).1["lines"], serde_json::json!([]));
    assert_eq!(
        logs(&["--limit", "2"]).1["lines"].as_array().unwrap()[..],
        lines[lines.len() - 2..]
    );
    let (code, value) = cloud.json(&["logs", "--function", "another"]).unwrap();
    assert_eq!(code, 4, "{value}");
    // Whoever follows gets what comes as a document a line.
    let mut args = vec!["--json", "logs", "--function", "digits", "--follow"];
    let flags = cloud.flags();
    args.extend(flags.iter().map(String::as_str));
    let mut child = command(&args).unwrap().stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["revision"], "1");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn what_another_alias_needs_is_neither_pruned_nor_destroyed() {
    let cloud = deployed("v1");
    let v2 = cloud.package("v2").unwrap();
    let prod = |artifact: &Path| {
        let artifact = artifact.to_string_lossy().into_owned();
        let deploy = ["deploy", "lambda", "--alias", "prod", "--artifact", &*artifact];
        assert_eq!(cloud.json(&deploy).unwrap().0, 0);
    };
    prod(&cloud.package("v1").unwrap());
    prod(&v2);
    assert_eq!(cloud.deploy(&v2, &[]).unwrap().0, 0);
    let run = |args: &[&str]| cloud.json(&[args, &["--function", "digits"]].concat()).unwrap();
    // No alias names version 1 any more, and each may go back to it.
    let (code, pruned) = run(&["prune", "--keep", "0"]);
    assert_eq!((code, &pruned["deleted"]), (0, &serde_json::json!([])), "{pruned}");
    // Somebody else, whose journal is not here, moves traffic.
    let weights = AliasRoutingConfiguration::builder().additional_version_weights("1", 0.5).build();
    let move_it = client(&cloud.endpoint).update_alias().function_name("digits").name("prod");
    move_it.routing_config(weights).send().await.unwrap();
    for args in [&["prune", "--keep", "0"][..], &["destroy", "--yes"]] {
        let (code, value) = run(args);
        assert_eq!(code, 7, "{value}");
    }
    assert_eq!(run(&["status"]).0, 0);
}
