//! Releases by the built `slsml` on the local Cloud Run, under live traffic: the image that is pushed
//! is the one that answers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use slsml_e2e::chaos::image_mark;
use slsml_e2e::slsml::{CANARY, LocalLambda, command, json, program_for_arm64};
use slsml_e2e::traffic::{Door, Traffic, http};

struct Cloud {
    local: LocalLambda,
    images: [PathBuf; 3],
}

impl Cloud {
    /// A local cloud where the first of the example's models is deployed, for everybody.
    fn start() -> Cloud {
        let cloud = Cloud::empty(&[]);
        let (code, value) = cloud.deploy(0, &["--public"]);
        assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
        cloud
    }

    /// One where nothing is deployed.
    fn empty(flags: &[&str]) -> Cloud {
        let local = LocalLambda::start_with(flags).unwrap();
        let images = ["v1", "v2", "v3"].map(|version| local.package_image(version).unwrap());
        Cloud { local, images }
    }

    fn deploy(&self, image: usize, more: &[&str]) -> (i32, Value) {
        let image = self.images[image].to_string_lossy();
        let args = ["deploy", "cloudrun", "--artifact", &*image];
        self.local.json(&[&args[..], more].concat()).unwrap()
    }

    fn run(&self, args: &[&str]) -> (i32, Value) {
        self.local.json(&[args, &["--service", "digits"]].concat()).unwrap()
    }

    fn mark(&self, image: usize) -> String {
        image_mark(&self.images[image]).unwrap()
    }

    fn traffic(&self, candidate: usize) -> Traffic {
        let address = self.run(&["status"]).1["address"].as_str().unwrap().to_owned();
        let marks = [self.mark(0), self.mark(candidate)];
        let models = [(&*marks[0], "v1"), (&*marks[1], ["v1", "v2", "v3"][candidate])];
        let door = Door::service(&address).unwrap();
        Traffic::start(door, &models, 4, Duration::from_millis(25)).unwrap()
    }

    /// The service as the API shows it.
    async fn service(&self) -> Value {
        let request = http().unwrap().get(self.url()).bearer_auth("somebody");
        request.send().await.unwrap().json().await.unwrap()
    }

    fn url(&self) -> String {
        let name = "v2/projects/slsml-local/locations/local/services/digits";
        format!("{}/{name}", self.local.endpoint)
    }

    /// A change by somebody else.
    async fn change(&self, mask: &str, body: Value) {
        let url = format!("{}?updateMask={mask}", self.url());
        let request = http().unwrap().patch(url).bearer_auth("somebody").json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
        while self.service().await["reconciling"] == true {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Cloud {
    /// What goes wrong with slsml's calls from now on.
    fn fault(&self, flags: &[&str]) {
        let dir = self.local.dir().to_string_lossy().into_owned();
        let set = ["local", "fault", "api", "--dir", &*dir];
        let (code, value) = json(self.local.scratch(), &[&set[..], flags].concat()).unwrap();
        assert_eq!(code, 0, "{value}");
    }

    fn no_faults(&self) {
        let dir = self.local.dir().to_string_lossy().into_owned();
        let clear = ["local", "fault", "clear", "--dir", &*dir];
        assert_eq!(json(self.local.scratch(), &clear).unwrap().0, 0);
    }
}

/// Operations of moves of traffic that end with an error: the first write makes the revision.
const NO_MOVES: [&str; 6] = ["--kind", "fail-operation", "--call", "PATCH", "--nth", "2"];

/// Who has which percent, by the image's mark.
fn shares(service: &Value) -> Vec<(String, u64)> {
    let all = service["trafficStatuses"].as_array().cloned().unwrap_or_default();
    let with = all.iter().filter(|one| one["percent"].as_u64() > Some(0));
    let mark =
        |one: &Value| one["revision"].as_str().unwrap().split('-').nth(1).unwrap().to_owned();
    with.map(|one| (mark(one), one["percent"].as_u64().unwrap())).collect()
}

fn revision_tagged(service: &Value, tag: &str) -> Option<String> {
    let all = service["trafficStatuses"].as_array()?;
    let found = all.iter().find(|one| one["tag"] == tag)?;
    Some(found["revision"].as_str()?.split('-').nth(1)?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_under_continuous_traffic_loses_nothing_and_can_be_rolled_back() {
    let cloud = Cloud::start();
    let traffic = cloud.traffic(1);
    let (code, value) = cloud.deploy(1, &CANARY);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    let service = cloud.service().await;
    assert_eq!(shares(&service), [(cloud.mark(1), 100)]);
    assert_eq!(revision_tagged(&service, "previous"), Some(cloud.mark(0)));
    let (code, value) = cloud.run(&["release", "rollback"]);
    assert_eq!((code, &value["changed"]), (0, &json!(true)), "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(0), 100)]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let totals = traffic.finish().await;
    assert_eq!((totals.wrong(), totals.lost), (0, 0), "{totals:?}");
    let right = |image: usize| totals.versions[&cloud.mark(image)].right;
    assert!(right(0) > 50 && right(1) > 50, "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_is_rolled_back_and_keeps_its_address() {
    let cloud = Cloud::start();
    let traffic = cloud.traffic(2);
    let (code, value) = cloud.deploy(2, &CANARY);
    assert_eq!((code, &value["outcome"]), (5, &json!("rolled_back")), "{value}");
    let service = cloud.service().await;
    assert_eq!(shares(&service), [(cloud.mark(0), 100)]);
    assert_eq!(revision_tagged(&service, "candidate"), Some(cloud.mark(2)));
    let totals = traffic.finish().await;
    assert_eq!((totals.wrong(), totals.lost), (0, 0), "{totals:?}");
    assert!(totals.versions[&cloud.mark(2)].failed > 0, "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_set_is_kept_and_what_is_deployed_is_not_written_again() {
    let cloud = Cloud::start();
    let before = cloud.service().await;
    let (code, value) = cloud.deploy(0, &["--public"]);
    assert_eq!((code, &value["changed"]), (0, &json!(false)), "{value}");
    assert_eq!(cloud.service().await["etag"], before["etag"]);

    let mut traffic = before["traffic"].as_array().unwrap().clone();
    let mut tagged = traffic[0].clone();
    tagged["percent"] = json!(0);
    tagged["tag"] = json!("theirs");
    traffic.push(tagged);
    let theirs = json!({
        "traffic": traffic,
        "labels": { "team": "vision" },
        "scaling": { "maxInstanceCount": 7 },
        "description": "ours",
    });
    cloud.change("traffic,labels,scaling,description", theirs).await;
    let (code, value) = cloud.deploy(1, &["--memory", "1Gi", "--concurrency", "40"]);
    assert_eq!(code, 0, "{value}");
    let after = cloud.service().await;
    assert_eq!(revision_tagged(&after, "theirs"), Some(cloud.mark(0)));
    assert_eq!(
        (&after["labels"]["team"], &after["description"]),
        (&json!("vision"), &json!("ours"))
    );
    assert_eq!(after["scaling"]["maxInstanceCount"], 7);
    let template = &after["template"];
    assert_eq!(template["maxInstanceRequestConcurrency"], 40);
    assert_eq!(template["containers"][0]["resources"]["limits"]["memory"], "1Gi");
    // What was said once stays, if nothing else is said.
    let (code, _) = cloud.deploy(2, &["--warm-up", "0"]);
    assert_eq!(code, 0);
    let template = &cloud.service().await["template"];
    assert_eq!(template["containers"][0]["resources"]["limits"]["memory"], "1Gi");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_that_somebody_else_moves_is_left_where_it_is() {
    let cloud = Cloud::start();
    let traffic = cloud.traffic(1);
    let args = ["deploy", "cloudrun", "--json", "--artifact", &*cloud.images[1].to_string_lossy()]
        .map(str::to_owned);
    let flags = cloud.local.flags();
    let canary = ["--strategy", "canary", "--steps", "20", "--bake", "30s"].map(str::to_owned);
    let all: Vec<&str> = args.iter().chain(&flags).chain(&canary).map(String::as_str).collect();
    let child = command(&all).unwrap().stdout(std::process::Stdio::piped()).spawn().unwrap();
    while shares(&cloud.service().await).len() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A label is nobody's business; traffic is.
    cloud.change("labels", json!({ "labels": { "seen": "yes" } })).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shares(&cloud.service().await).len(), 2);
    let mut targets = cloud.service().await["traffic"].as_array().unwrap().clone();
    targets[0]["percent"] = json!(50);
    targets[1]["percent"] = json!(50);
    cloud.change("traffic", json!({ "traffic": targets })).await;
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(7), "{text}");
    let service = cloud.service().await;
    assert_eq!(shares(&service), [(cloud.mark(0), 50), (cloud.mark(1), 50)]);
    assert_eq!(service["labels"]["seen"], "yes");
    assert_eq!(traffic.finish().await.lost, 0);
    let (code, value) = cloud.run(&["release", "abort"]);
    assert_eq!(code, 0, "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(0), 100)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_traffic_waits_for_a_person() {
    let cloud = Cloud::start();
    let traffic = cloud.traffic(1);
    let (code, value) = cloud.deploy(1, &["--no-traffic"]);
    assert_eq!((code, &value["outcome"]), (0, &json!("no_traffic")), "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(0), 100)]);
    let address = value["address"].as_str().unwrap();
    let ready = http().unwrap().get(format!("{address}/v2/health/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 200);

    let image = cloud.images[1].to_string_lossy().into_owned();
    let flags = cloud.local.flags();
    let mut args = vec!["deploy", "cloudrun", "--traffic", "10", "--bake", "1s"];
    args.extend(["--min-requests", "5", "--check", "errors <= 0.2", "--artifact", &*image]);
    args.extend(flags.iter().map(String::as_str));
    let mut child = command(&args).unwrap().spawn().unwrap();
    while shares(&cloud.service().await) != [(cloud.mark(0), 90), (cloud.mark(1), 10)] {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pauses = || {
        let (_, shown) = cloud.run(&["release", "show"]);
        shown["state"]["stage"] == 2
    };
    while !pauses() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(0), 90), (cloud.mark(1), 10)]);
    let (code, value) = cloud.run(&["release", "resume"]);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    child.wait().unwrap();
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(1), 100)]);
    assert_eq!(traffic.finish().await.lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_fails_once_is_made_again() {
    let cloud = Cloud::start();
    cloud.fault(&NO_MOVES);
    let (code, value) = cloud.deploy(1, &[]);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(1), 100)]);
    // The way back fails: it is not written down as gone.
    cloud.no_faults();
    cloud.fault(&["--kind", "fail-operation", "--call", "PATCH"]);
    let (code, value) = cloud.run(&["release", "rollback"]);
    assert_eq!(code, 4, "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(1), 100)]);
    let (code, value) = cloud.run(&["release", "rollback"]);
    assert_eq!((code, &value["changed"]), (0, &json!(true)), "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(0), 100)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_never_succeeds_ends_where_it_began_and_can_be_taken_up_again() {
    let cloud = Cloud::start();
    cloud.fault(&[&NO_MOVES[..], &["--times", "1000"]].concat());
    let (code, value) = cloud.deploy(1, &[]);
    assert_eq!(code, 4, "{value}");
    assert!(value.to_string().contains("by a fault on purpose"), "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(0), 100)]);
    cloud.no_faults();
    let (code, value) = cloud.run(&["release", "resume"]);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    assert_eq!(shares(&cloud.service().await), [(cloud.mark(1), 100)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_whose_operation_failed_is_asked_for_again() {
    let cloud = Cloud::start();
    cloud.fault(&["--kind", "fail-operation", "--call", "PATCH"]);
    let (code, value) = cloud.deploy(1, &[]);
    assert_eq!(code, 4, "{value}");
    assert!(value.to_string().contains("by a fault on purpose"), "{value}");
    let (code, value) = cloud.deploy(1, &[]);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_revision_without_a_release_keeps_its_traffic_until_another_is_released() {
    let cloud = Cloud::empty(&[]);
    assert_eq!(cloud.deploy(0, &["--no-traffic"]).0, 0);
    assert_eq!(cloud.deploy(1, &["--no-traffic"]).0, 0);
    let service = cloud.service().await;
    assert_eq!(shares(&service), [(cloud.mark(0), 100)], "nobody released another");
    assert_eq!(revision_tagged(&service, "candidate"), Some(cloud.mark(1)));
    // Somebody gives it traffic by hand: from now on it is a service like others.
    let mut targets = service["traffic"].as_array().unwrap().clone();
    targets[0]["percent"] = json!(0);
    targets[0]["tag"] = json!("theirs");
    targets[1]["percent"] = json!(100);
    cloud.change("traffic", json!({ "traffic": targets })).await;
    assert_eq!(cloud.deploy(2, &["--no-traffic"]).0, 0);
    let service = cloud.service().await;
    assert_eq!(shares(&service), [(cloud.mark(1), 100)]);
    assert_eq!(revision_tagged(&service, "theirs"), Some(cloud.mark(0)));
    assert!(service["annotations"]["slsml.dev/first-revision"].is_null(), "{service}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_under_way_keeps_its_candidate() {
    let cloud = Cloud::start();
    let image = cloud.images[1].to_string_lossy().into_owned();
    let flags = cloud.local.flags();
    let mut args = vec!["deploy", "cloudrun", "--artifact", &*image, "--strategy", "canary"];
    args.extend(["--steps", "20", "--bake", "60s"]);
    args.extend(flags.iter().map(String::as_str));
    let mut child = command(&args).unwrap().stdout(std::process::Stdio::null()).spawn().unwrap();
    while shares(&cloud.service().await).len() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (code, value) = cloud.deploy(2, &["--no-traffic"]);
    assert_eq!(code, 7, "{value}");
    let service = cloud.service().await;
    assert_eq!(revision_tagged(&service, "candidate"), Some(cloud.mark(1)));
    assert_eq!(cloud.run(&["release", "abort"]).0, 0);
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_while_an_instance_starts_leave_room_for_others() {
    let cloud = Cloud::empty(&["--idle-s", "1"]);
    let one = ["--public", "--max-instances", "1"];
    assert_eq!(cloud.deploy(0, &one).0, 0);
    let address = cloud.service().await["uri"].as_str().unwrap().to_owned();
    let ready = format!("{address}/v2/health/ready");
    let client = http().unwrap();
    for _ in 0..3 {
        // Long enough for the only instance to be ended.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        for _ in 0..5 {
            let quick = client.get(&ready).timeout(Duration::from_millis(1));
            let _gone = quick.send().await;
        }
    }
    assert_eq!(client.get(&ready).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_told_apart_and_an_operation_on_a_deleted_service_ends() {
    let cloud = Cloud::start();
    let client = http().unwrap();
    let there = cloud.service().await;
    let elsewhere = cloud.url().replace("/locations/local/", "/locations/elsewhere/");
    let body = json!({ "template": there["template"], "invokerIamDisabled": true });
    let create = elsewhere.replace("/digits", "?serviceId=digits");
    let answer = client.post(create).bearer_auth("x").json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let get = || async {
        let answer = client.get(&elsewhere).bearer_auth("x").send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    while get().await["trafficStatuses"].as_array().is_none_or(Vec::is_empty) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let uri = get().await["uri"].as_str().unwrap().to_owned();
    for _ in 0..7 {
        client.get(format!("{uri}/v2")).send().await.unwrap();
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let time = |seconds: u64| {
        let time = time::OffsetDateTime::from_unix_timestamp(seconds.cast_signed()).unwrap();
        time.format(&time::format_description::well_known::Rfc3339).unwrap()
    };
    let count = |location: &'static str| {
        let filter = format!(
            "metric.type = \"run.googleapis.com/request_count\" AND resource.labels.location = \"{location}\""
        );
        let url = format!("{}/v3/projects/slsml-local/timeSeries", cloud.local.endpoint);
        let query = [
            ("filter", filter),
            ("interval.startTime", time(now.as_secs() - 600)),
            ("interval.endTime", time(now.as_secs() + 600)),
            ("aggregation.alignmentPeriod", "1200s".into()),
            ("aggregation.perSeriesAligner", "ALIGN_DELTA".into()),
        ];
        let url = reqwest::Url::parse_with_params(&url, &query).unwrap();
        let request = client.get(url).bearer_auth("x");
        async move {
            let all: Value = request.send().await.unwrap().json().await.unwrap();
            let series = all["timeSeries"].as_array().unwrap().clone();
            let count = |one: &Value| {
                one["points"][0]["value"]["int64Value"].as_str().unwrap().parse::<u64>().unwrap()
            };
            series.iter().map(count).sum::<u64>()
        }
    };
    assert_eq!(count("elsewhere").await, 7);
    let here = count("local").await;

    let patch = client.patch(format!("{elsewhere}?updateMask=labels")).bearer_auth("x");
    let operation: Value =
        patch.json(&json!({ "labels": { "a": "b" } })).send().await.unwrap().json().await.unwrap();
    client.delete(&elsewhere).bearer_auth("x").send().await.unwrap();
    let name = operation["name"].as_str().unwrap();
    let url = format!("{}/v2/{name}", cloud.local.endpoint);
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let answer = client.get(&url).bearer_auth("x").send().await.unwrap();
            let operation: Value = answer.json().await.unwrap();
            if operation["done"] == true {
                assert!(operation["error"].is_object(), "{operation}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it ends");
    assert_eq!(count("local").await, here);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_a_bucket_is_found_from_anywhere() {
    let cloud = Cloud::empty(&[]);
    let bucket = ["--bucket", "journals-of-ours"];
    let (code, value) = cloud.deploy(0, &bucket);
    assert_eq!(code, 4, "there is no such bucket: {value}");
    assert!(value.to_string().contains("journals-of-ours"), "{value}");
    let make = http().unwrap().post(format!("{}/storage/v1/b", cloud.local.endpoint));
    let make = make.bearer_auth("x").json(&json!({ "name": "journals-of-ours" }));
    assert_eq!(make.send().await.unwrap().status(), 200);
    let (code, value) = cloud.deploy(0, &[&bucket[..], &["--public"]].concat());
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    let (code, value) = cloud.deploy(1, &bucket);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    assert!(!cloud.local.dir().join("releases").exists(), "nothing lies on this machine");
    let args = [&["history"][..], &bucket].concat();
    let (code, history) = cloud.run(&args);
    assert_eq!((code, history["releases"].as_array().map(Vec::len)), (0, Some(2)), "{history}");
    let (_, none) = cloud.run(&["history"]);
    assert_ne!(none["releases"], history["releases"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_is_pruned_and_all_of_it_can_be_destroyed() {
    let cloud = Cloud::start();
    for image in [1, 2, 0] {
        // Other settings make another revision of the same image.
        let (code, value) = cloud.deploy(image, &["--concurrency", &(image + 10).to_string()]);
        assert_eq!(code, 0, "{value}");
    }
    let revisions = || {
        let (_, status) = cloud.run(&["status"]);
        let all = status["revisions"].as_array().unwrap().clone();
        all.iter().map(|one| one["revision"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = revisions();
    assert_eq!(before.len(), 4);
    let (code, would) = cloud.run(&["prune", "--keep", "1", "--dry-run"]);
    assert_eq!((code, would["deleted"].as_array().unwrap().len()), (0, 1), "{would}");
    assert_eq!(revisions(), before);
    // Somebody on another machine works on it.
    let path = cloud.local.dir().join("releases/cloudrun/local/digits/lease.json");
    let lease = std::fs::read(&path).unwrap();
    let mut other: Value = serde_json::from_slice(&lease).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    other["until_ms"] = u64::try_from(now.as_millis() + 60_000).unwrap().into();
    (other["holder"]["id"], other["holder"]["machine"]) = ("another".into(), "elsewhere".into());
    std::fs::write(&path, other.to_string()).unwrap();
    for args in [&["prune", "--keep", "1"][..], &["destroy", "--yes"]] {
        let (code, value) = cloud.run(args);
        assert_eq!(code, 7, "{value}");
        assert!(value["error"]["message"].as_str().unwrap().contains("is working on"), "{value}");
    }
    assert_eq!(revisions(), before);
    std::fs::write(&path, lease).unwrap();
    let (code, deleted) = cloud.run(&["prune", "--keep", "1"]);
    assert_eq!((code, &deleted["deleted"]), (0, &would["deleted"]), "{deleted}");
    let (_, again) = cloud.run(&["prune", "--keep", "0"]);
    let all = [deleted["deleted"].clone(), again["deleted"].clone()];
    let left = revisions();
    for gone in all.iter().flat_map(|one| one.as_array().unwrap()) {
        assert!(!left.contains(&gone.as_str().unwrap().to_owned()), "{gone}");
    }
    // Whom to go back to has a tag, and stays.
    let service = cloud.service().await;
    assert_eq!(revision_tagged(&service, "previous"), Some(cloud.mark(2)));
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(cloud.run(&["release", "rollback"]).0, 0);
    assert_eq!(cloud.run(&["destroy"]).0, 2, "without --yes");
    let (code, value) = cloud.run(&["destroy", "--yes"]);
    assert_eq!(code, 0, "{value}");
    assert_eq!(cloud.run(&["status"]).0, 4);
    assert_eq!(cloud.run(&["destroy", "--yes"]).0, 4, "it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_start_moves_nothing_and_the_next_one_is_not_in_its_way() {
    let cloud = Cloud::start();
    let other = cloud.local.scratch().join("slsml-server");
    let own = slsml_e2e::slsml::static_server().unwrap();
    std::fs::copy(own, &other).unwrap();
    // A program for containers that is none of ours: it ends at once.
    let not_ours = cloud.local.scratch().join("broken");
    package_with(&cloud.local, &broken_program(&other), &not_ours);
    let image = not_ours.join("digits").to_string_lossy().into_owned();
    let deploy = ["deploy", "cloudrun", "--artifact", &*image];
    for _ in 0..2 {
        let (code, value) = cloud.local.json(&deploy).unwrap();
        assert_eq!(code, 4, "{value}");
        assert!(value.to_string().contains("failed to start and listen"), "{value}");
        assert_eq!(shares(&cloud.service().await), [(cloud.mark(0), 100)]);
    }
    let (code, value) = cloud.deploy(1, &[]);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
}

/// The program with its start cut off: what remains is one that cannot be run to any good.
fn broken_program(server: &Path) -> PathBuf {
    let mut bytes = std::fs::read(server).unwrap();
    // The entry point of an ELF file: nothing is there.
    bytes[0x18..0x20].copy_from_slice(&0u64.to_le_bytes());
    std::fs::write(server, bytes).unwrap();
    server.to_owned()
}

fn package_with(local: &LocalLambda, server: &Path, out: &Path) {
    let model = slsml_e2e::slsml::checkout().join("examples/digits/models/v2.onnx");
    let [model, server, out] = [&*model, server, out].map(Path::to_string_lossy);
    let args = ["package", &*model, "--name", "digits", "--target", "cloudrun", "--runtime"];
    let args = [&args[..], &[&*server, "--out", &*out]].concat();
    let (code, value) = slsml_e2e::slsml::json(local.scratch(), &args).unwrap();
    assert_eq!(code, 0, "{value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_predicts_differently_is_rolled_back_for_it() {
    let cloud = Cloud::start();
    let revision = cloud.deploy(1, &["--no-traffic"]).1["revision"].as_str().unwrap().to_owned();
    let check = ["--strategy", "canary", "--steps", "50", "--bake", "2s", "--warm-up", "0"];
    let check = [&check[..], &["--check", "outputs <= stable + 0.15"]].concat();
    let plan = ["plan", "cloudrun", "--artifact", &*cloud.images[1].to_string_lossy()];
    let (_, plan) = cloud.local.json(&[&plan[..], &check].concat()).unwrap();
    // The first deployment had errors checked, and so had answers counted.
    assert_eq!(plan["counts_answers_anew"], false, "{plan}");
    let traffic = cloud.traffic(1);
    let dir = cloud.local.dir().to_string_lossy().into_owned();
    let blank = ["local", "fault", "version", "digits", &*revision, "--blank-rate", "1"];
    let (code, value) =
        json(cloud.local.scratch(), &[&blank[..], &["--dir", &dir]].concat()).unwrap();
    assert_eq!(code, 0, "{value}");
    let (code, value) = cloud.deploy(1, &check);
    assert_eq!(code, 5, "{value}");
    assert_eq!(value["reason"]["check_failed"]["check"]["metric"], "outputs", "{value}");
    cloud.no_faults();
    let (code, value) = cloud.deploy(1, &check);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containers_print_is_shown_by_revision() {
    let cloud = Cloud::start();
    let traffic = cloud.traffic(0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    traffic.finish().await;
    let (code, value) = cloud.run(&["logs", "--limit", "5"]);
    let lines = value["lines"].as_array().unwrap();
    assert_eq!((code, lines.len()), (0, 5), "{value}");
    for line in lines {
        assert!(line["revision"].as_str().unwrap().contains(&cloud.mark(0)), "{line}");
        assert_eq!(line["severity"], "INFO");
        let text = line["text"].as_str().unwrap();
        assert!(text.starts_with("POST /v2/models/digits/infer 200 "), "{text}");
        assert!(text.contains(r#"{"slsml":{"answer":""#), "{text}");
    }
    let times: Vec<_> = lines.iter().map(|line| line["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let (code, value) = cloud.run(&["logs", "--revision", "another"]);
    assert_eq!((code, &value["lines"]), (0, &json!([])));
}

#[test]
fn whoever_may_not_have_answers_counted_deploys_without_unless_a_check_needs_them() {
    let cloud = Cloud::empty(&[]);
    let dir = cloud.local.dir().to_string_lossy().into_owned();
    let image = cloud.images[0].to_string_lossy();
    let (_, plan) = cloud.local.json(&["plan", "cloudrun", "--artifact", &image]).unwrap();
    assert_eq!(plan["counts_answers_anew"], true, "{plan}");
    let deny = ["local", "fault", "api", "--call", "/metrics", "--times", "100", "--kind", "deny"];
    let (code, value) =
        json(cloud.local.scratch(), &[&deny[..], &["--dir", &dir]].concat()).unwrap();
    assert_eq!(code, 0, "{value}");
    let (code, value) = cloud.deploy(0, &[]);
    assert_eq!(code, 0, "{value}");
    let check = [
        "--strategy",
        "canary",
        "--steps",
        "50",
        "--bake",
        "2s",
        "--deadline",
        "20s",
        "--check",
        "outputs <= stable + 0.15",
    ];
    let (code, value) = cloud.deploy(1, &check);
    assert_eq!(code, 4, "{value}");
    assert!(value["error"]["message"].as_str().unwrap().contains("LogMetric"), "{value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_has_a_flag_and_stays_when_it_is_not_said_again() {
    let cloud = Cloud::empty(&[]);
    let flags = [
        ["--env", "GREETING=hello=you"],
        ["--ingress", "internal"],
        ["--cpu-boost", "false"],
        ["--cpu-always", "true"],
        ["--network", "default"],
        ["--subnet", "models"],
        ["--vpc-egress", "all-traffic"],
    ];
    let (code, value) = cloud.deploy(0, &[&["--no-traffic"], flags.as_flattened()].concat());
    assert_eq!(code, 0, "{value}");
    let (code, value) = cloud.deploy(0, &["--no-traffic", "--env", "OTHER=1"]);
    assert_eq!((code, &value["changed"]), (0, &json!(true)), "{value}");
    let service = cloud.service().await;
    let (template, container) = (&service["template"], &service["template"]["containers"][0]);
    let variable = |name: &str, value: &str| json!({ "name": name, "value": value });
    assert_eq!(
        container["env"],
        json!([
            variable("GREETING", "hello=you"),
            variable("GOOGLE_CLOUD_PROJECT", "slsml-local"),
            variable("OTHER", "1")
        ])
    );
    assert_eq!(service["ingress"], "INGRESS_TRAFFIC_INTERNAL_ONLY");
    assert_eq!(container["resources"]["startupCpuBoost"], json!(false));
    assert_eq!(container["resources"]["cpuIdle"], json!(false));
    let interface = json!({ "network": "default", "subnetwork": "models" });
    assert_eq!(
        template["vpcAccess"],
        json!({ "networkInterfaces": [interface], "egress": "ALL_TRAFFIC" })
    );
    for (flags, says) in [
        (&["--env", "GREETING"][..], "NAME=VALUE"),
        (&["--env", "A=1", "--secret", "A=s:1"], "has a value and is a secret"),
        (&["--network", "n", "--vpc-connector", "c"], "cannot be used with"),
        (&["--ingress", "nobody"], "possible values"),
    ] {
        let (code, value) = cloud.deploy(0, flags);
        assert_eq!(code, 2, "{value}");
        assert!(value.to_string().contains(says), "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_to_an_image_finds_its_revision() {
    let cloud = Cloud::start();
    let first = cloud.service().await["latestReadyRevision"].clone();
    assert_eq!(cloud.deploy(1, &[]).1["outcome"], "promoted");
    let (code, value) = cloud.deploy(0, &[]);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    let service = cloud.service().await;
    let serving = service["trafficStatuses"][0]["revision"].as_str().unwrap();
    assert!(first.as_str().unwrap().ends_with(&format!("/{serving}")), "{first} and {serving}");
    let request = http().unwrap().get(format!("{}/revisions", cloud.url())).bearer_auth("x");
    let all: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(all["revisions"].as_array().map(Vec::len), Some(2), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_for_both_processors_is_deployed_and_this_machines_part_of_it_runs() {
    let mut cloud = Cloud::empty(&[]);
    let arm = program_for_arm64(cloud.local.scratch()).unwrap();
    let both = ["--arch", "x86_64,arm64", "--runtime", &*arm.to_string_lossy()];
    cloud.images[0] = cloud.local.package_image_with("v1", &both).unwrap();
    let (code, value) = cloud.deploy(0, &["--public"]);
    assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
    let service = cloud.service().await;
    let image = service["template"]["containers"][0]["image"].as_str().unwrap();
    let record = slsml_package::Artifact::read(&cloud.images[0]).unwrap();
    assert!(image.ends_with(&record.image.unwrap().digest), "{image}: the index is what is pinned");
    let ready = format!("{}/v2/health/ready", service["uri"].as_str().unwrap());
    assert_eq!(http().unwrap().get(ready).send().await.unwrap().status(), 200);
}
