//! Releases by the built `slsml` on the local Cloud Run, under live traffic: the image that is pushed
//! is the one that answers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use slsml_e2e::chaos::image_mark;
use slsml_e2e::slsml::{CANARY, LocalLambda, command};
use slsml_e2e::traffic::{Door, Traffic, http};

struct Cloud {
    local: LocalLambda,
    images: [PathBuf; 3],
}

impl Cloud {
    /// A local cloud where the first of the example's models is deployed, for everybody.
    fn start() -> Cloud {
        let local = LocalLambda::start().unwrap();
        let images = ["v1", "v2", "v3"].map(|version| local.package_image(version).unwrap());
        let cloud = Cloud { local, images };
        let (code, value) = cloud.deploy(0, &["--public"]);
        assert_eq!((code, &value["outcome"]), (0, &json!("promoted")), "{value}");
        cloud
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
