//! What a revision is made from: the service's template as it is, with what is said; and the
//! revision's name, which follows from it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::CloudRunError;
use crate::service::{MODEL, ServiceSpec, Vpc};

/// Where our own program listens.
const PORT: u64 = 8080;

/// What belongs to a program. Another image does not start with it.
const OF_A_PROGRAM: [&str; 9] = [
    "command",
    "args",
    "workingDir",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
    "baseImageUri",
    "sourceCode",
    "buildInfo",
];

/// A revision has its own name, and who made the one before says nothing of this one.
const OF_ONE: [&str; 3] = ["revision", "client", "clientVersion"];

/// `SERVICE-IIIIIIII-TTTTTTTT`: the image's digest and that of everything else a revision consists of. The
/// same image with the same settings is the same revision, on every machine.
pub(crate) fn revision_name(service: &str, image: &str, template: &Value, attempt: u32) -> String {
    let digest = image.rsplit_once("sha256:").map_or("", |(_, digest)| digest);
    let template = meaning(template);
    let text = match attempt {
        0 => template.to_string(),
        _ => format!("{template} {attempt}"),
    };
    let settings = Sha256::digest(text.as_bytes());
    let settings: String = settings.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{service}-{}-{settings}", digest.get(..8).unwrap_or(digest))
}

/// Whether two templates make the same revision.
pub(crate) fn is_same(one: &Value, other: &Value) -> bool {
    meaning(&unnamed(one)) == meaning(&unnamed(other))
}

/// What a revision has of the template it was made from.
const OF_A_REVISION: [&str; 20] = [
    "annotations",
    "labels",
    "scaling",
    "vpcAccess",
    "timeout",
    "serviceAccount",
    "containers",
    "volumes",
    "executionEnvironment",
    "maxInstanceRequestConcurrency",
    "sessionAffinity",
    "encryptionKey",
    "encryptionKeyRevocationAction",
    "encryptionKeyShutdownDuration",
    "nodeSelector",
    "gpuZonalRedundancyDisabled",
    "serviceMesh",
    "sandboxes",
    "ambientNetworking",
    "workloadIdentityConfig",
];

/// Whether a revision is what a template would make.
pub(crate) fn is_made_from(revision: &Value, template: &Value) -> bool {
    OF_A_REVISION.iter().all(|field| meaning(&revision[field]) == meaning(&template[field]))
}

/// A quantity of processors: `2`, or `500m`.
fn processors(text: &str) -> Option<f64> {
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().ok().map(|number: f64| number / 1000.0),
        None => text.parse().ok(),
    }
}

/// A quantity of memory in bytes: `512Mi`, `1Gi`, `500M`.
fn memory(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 6] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
    ];
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    Some(number.parse::<f64>().ok()? * factor)
}

/// Refuses processors and memory that Cloud Run has not.
/// <https://cloud.google.com/run/docs/configuring/services/cpu>
pub fn check_resources(cpu: Option<&str>, bytes: Option<&str>) -> Result<(), CloudRunError> {
    let refuse =
        |what, text: &str, is| Err(CloudRunError::Resources { what, text: text.into(), is });
    let whole = [1.0, 2.0, 4.0, 6.0, 8.0];
    let is_cpu = |cpu: f64| whole.contains(&cpu) || (0.08..1.0).contains(&cpu);
    if let Some(text) = cpu.filter(|text| !processors(text).is_some_and(is_cpu)) {
        return refuse("CPUs", text, "1, 2, 4, 6, 8, or from 0.08 to 1");
    }
    let sizes = f64::from(128_u32 << 20)..=32.0 * f64::from(1_u32 << 30);
    if let Some(text) = bytes.filter(|text| !memory(text).is_some_and(|size| sizes.contains(&size)))
    {
        return refuse("memory", text, "from 128Mi to 32Gi");
    }
    Ok(())
}

/// A template without what says nothing: the API leaves out what is false, zero or empty, and writes
/// quantities in other units.
fn meaning(value: &Value) -> Value {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(true) => false,
    };
    match value {
        Value::Object(all) => all
            .iter()
            .map(|(name, value)| {
                let quantity = match name.as_str() {
                    "cpu" => value.as_str().and_then(processors),
                    "memory" => value.as_str().and_then(memory),
                    _ => None,
                };
                (name.clone(), quantity.map_or_else(|| meaning(value), |number| json!(number)))
            })
            .filter(|(_, value)| !says_nothing(value))
            .collect(),
        Value::Array(all) => all.iter().map(meaning).collect(),
        other => other.clone(),
    }
}

/// A template without what belongs to one revision.
fn unnamed(template: &Value) -> Value {
    let mut all = template.clone();
    OF_ONE.iter().for_each(|field| remove(&mut all, field));
    all
}

fn remove(from: &mut Value, field: &str) {
    if let Value::Object(object) = from {
        object.remove(field);
    }
}

/// What a revision is made from: what is there, with what is said.
pub(crate) fn template(spec: &ServiceSpec, there: Option<&Value>) -> Value {
    let there = there.filter(|there| there.is_object());
    let fresh = there.is_none();
    let mut all = there.map_or_else(|| json!({}), unnamed);
    if let Some(concurrency) = spec.concurrency {
        all["maxInstanceRequestConcurrency"] = json!(concurrency);
    }
    if let Some(seconds) = spec.timeout_s.or(fresh.then_some(60)) {
        all["timeout"] = json!(format!("{seconds}s"));
    }
    if let Some(account) = &spec.service_account {
        all["serviceAccount"] = json!(account);
    }
    all["annotations"][MODEL] = json!(spec.model);
    if let Some(most) = spec.max_instances {
        all["scaling"]["maxInstanceCount"] = json!(most);
    }
    match (spec.revision_min_instances, spec.min_instances) {
        (Some(least), _) => all["scaling"]["minInstanceCount"] = json!(least),
        // Those of the service, and no others beside them.
        (None, Some(_)) => remove(&mut all["scaling"], "minInstanceCount"),
        (None, None) => {}
    }
    // Less than a processor takes one request at once, and whoever has more again need not.
    let is_part = |cpu: &str| processors(cpu).is_some_and(|cpu| cpu < 1.0);
    let was_part = all["containers"][0]["resources"]["limits"]["cpu"].as_str().is_some_and(is_part);
    match spec.cpu.as_deref().map(is_part).filter(|_| spec.concurrency.is_none()) {
        Some(true) => all["maxInstanceRequestConcurrency"] = json!(1),
        Some(false) if was_part => remove(&mut all, "maxInstanceRequestConcurrency"),
        _ => {}
    }
    vpc(&spec.vpc, &mut all);
    let mut containers = all["containers"].as_array().cloned().unwrap_or_default();
    // Beside it there may be others; requests go to the one with a port.
    let serving = containers.iter().position(|one| !one["ports"].is_null()).unwrap_or(0);
    if containers.is_empty() {
        containers.push(json!({}));
    }
    container(spec, &mut containers[serving], fresh);
    all["containers"] = json!(containers);
    all
}

/// The network: an interface in it, or a connector, and never both.
fn vpc(vpc: &Vpc, template: &mut Value) {
    if let Some(connector) = &vpc.connector {
        remove(&mut template["vpcAccess"], "networkInterfaces");
        template["vpcAccess"]["connector"] = json!(connector);
    }
    let parts = [("network", &vpc.network), ("subnetwork", &vpc.subnet)];
    for (name, value) in parts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
    {
        let access = &mut template["vpcAccess"];
        remove(access, "connector");
        if access["networkInterfaces"][0].is_null() {
            access["networkInterfaces"] = json!([{}]);
        }
        let interface = &mut access["networkInterfaces"][0];
        if name == "network" && interface[name] != json!(value) {
            // A subnet is one of its network.
            remove(interface, "subnetwork");
        }
        interface[name] = json!(value);
    }
    if let Some(egress) = vpc.egress {
        template["vpcAccess"]["egress"] = json!(egress.wire());
    }
}

/// The container that requests go to.
fn container(spec: &ServiceSpec, container: &mut Value, fresh: bool) {
    let port = container["ports"][0]["containerPort"].as_u64();
    let was = container["image"].as_str().map(repository);
    if was != Some(repository(&spec.image)) || port != Some(PORT) {
        OF_A_PROGRAM.iter().for_each(|field| remove(container, field));
    }
    container["image"] = json!(spec.image);
    // HTTP/1.1, HTTP/2 and gRPC at one port.
    container["ports"] = json!([{ "name": "h2c", "containerPort": PORT }]);
    let limits = [("cpu", spec.cpu.as_deref(), "1"), ("memory", spec.memory.as_deref(), "512Mi")];
    for (name, said, usual) in limits {
        if let Some(value) = said.or(fresh.then_some(usual)) {
            container["resources"]["limits"][name] = json!(value);
        }
    }
    if let Some(idle) = spec.cpu_always.map(|always| !always).or(fresh.then_some(true)) {
        container["resources"]["cpuIdle"] = json!(idle);
    }
    if let Some(boost) = spec.cpu_boost.or(fresh.then_some(true)) {
        container["resources"]["startupCpuBoost"] = json!(boost);
    }
    container["env"] = environment(spec, &container["env"]);
    if container["env"].as_array().is_some_and(Vec::is_empty) {
        remove(container, "env");
    }
}

/// An image's name without its tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

/// The variable that names the project, as log lines name their traces by it. Cloud Run does not set it.
const PROJECT: &str = "GOOGLE_CLOUD_PROJECT";

/// Variables that are there, with those that are said, each in its place.
fn environment(spec: &ServiceSpec, there: &Value) -> Value {
    let plain =
        spec.environment.iter().map(|(name, value)| json!({ "name": name, "value": value }));
    let secrets = spec.secrets.iter().map(|(name, secret)| {
        let (secret, version) = secret.split_once(':').unwrap_or((secret, "latest"));
        let reference = json!({ "secret": secret, "version": version });
        json!({ "name": name, "valueSource": { "secretKeyRef": reference } })
    });
    let mut all = there.as_array().cloned().unwrap_or_default();
    let place = |all: &[Value], name: &Value| all.iter().position(|one| one["name"] == *name);
    for one in plain.chain(secrets) {
        match place(&all, &one["name"]) {
            Some(at) => all[at] = one,
            None => all.push(one),
        }
    }
    if place(&all, &json!(PROJECT)).is_none() && !spec.project.is_empty() {
        all.push(json!({ "name": PROJECT, "value": spec.project }));
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Egress;

    fn spec() -> ServiceSpec {
        let image = format!("r.example/p/digits@sha256:{}", "ab".repeat(32));
        let name = "digits".to_owned();
        ServiceSpec { model: name.clone(), name, image, ..ServiceSpec::default() }
    }

    #[test]
    fn a_network_is_an_interface_or_a_connector() {
        let some = |text: &str| Some(text.to_owned());
        let direct = Vpc { network: some("n"), egress: Some(Egress::All), ..Vpc::default() };
        let first = template(&ServiceSpec { vpc: direct, ..spec() }, None);
        let interface = json!([{ "network": "n" }]);
        assert_eq!(
            first["vpcAccess"],
            json!({ "networkInterfaces": interface, "egress": "ALL_TRAFFIC" })
        );
        let subnet = Vpc { subnet: some("s"), ..Vpc::default() };
        let second = template(&ServiceSpec { vpc: subnet, ..spec() }, Some(&first));
        let interface = json!([{ "network": "n", "subnetwork": "s" }]);
        assert_eq!(second["vpcAccess"]["networkInterfaces"], interface);
        let connector = Vpc { connector: some("c"), ..Vpc::default() };
        let third = template(&ServiceSpec { vpc: connector, ..spec() }, Some(&second));
        assert_eq!(third["vpcAccess"], json!({ "connector": "c", "egress": "ALL_TRAFFIC" }));
        assert!(template(&spec(), None).get("vpcAccess").is_none());
    }

    #[test]
    fn a_revision_is_named_by_what_it_consists_of() {
        let (one, all) = (spec(), template(&spec(), None));
        let name = |spec: &ServiceSpec, there| {
            revision_name("digits", &spec.image, &template(spec, there), 0)
        };
        assert!(name(&one, None).starts_with("digits-abababab-"));
        // Deployed again, over what it was deployed as.
        let mut deployed = all.clone();
        deployed["revision"] = json!(name(&one, None));
        assert_eq!(name(&one, Some(&deployed)), name(&one, None));
        let larger = ServiceSpec { memory: Some("1Gi".into()), ..spec() };
        assert_ne!(name(&larger, Some(&deployed)), name(&one, None));
        assert_ne!(revision_name("digits", &one.image, &all, 1), name(&one, None));
        let longest = "s".repeat(37);
        assert!(revision_name(&longest, &one.image, &all, 0).len() <= 63);
    }

    #[test]
    fn what_the_api_leaves_out_or_writes_otherwise_is_no_other_revision() {
        let always = ServiceSpec { cpu_always: Some(true), cpu_boost: Some(false), ..spec() };
        let ours = template(&always, None);
        let mut theirs = ours.clone();
        let resources = &mut theirs["containers"][0]["resources"];
        remove(resources, "cpuIdle");
        remove(resources, "startupCpuBoost");
        resources["limits"]["cpu"] = json!("1000m");
        theirs["containers"][0]["env"] = json!([]);
        assert!(is_same(&ours, &theirs));
        let name = |template| revision_name("digits", &always.image, template, 0);
        assert_eq!(name(&ours), name(&theirs));
        theirs["containers"][0]["resources"]["limits"]["memory"] = json!("536870912");
        assert!(is_same(&ours, &theirs));
        theirs["containers"][0]["resources"]["limits"]["cpu"] = json!("1500m");
        assert!(!is_same(&ours, &theirs));
    }

    #[test]
    fn processors_and_memory_are_what_cloud_run_has() {
        for cpu in ["1", "1000m", "8", "0.08", "500m"] {
            assert!(check_resources(Some(cpu), None).is_ok(), "{cpu}");
        }
        for cpu in ["0", "3", "abc", "16", "0.01", ""] {
            assert!(check_resources(Some(cpu), None).is_err(), "{cpu}");
        }
        for (memory, fits) in [
            ("512Mi", true),
            ("32Gi", true),
            ("1G", true),
            ("64Gi", false),
            ("5", false),
            ("512MB", false),
        ] {
            assert_eq!(check_resources(None, Some(memory)).is_ok(), fits, "{memory}");
        }
    }

    #[test]
    fn less_than_a_processor_takes_one_request_at_once() {
        let small = ServiceSpec { cpu: Some("500m".into()), ..spec() };
        assert_eq!(template(&small, None)["maxInstanceRequestConcurrency"], 1);
        let whole = ServiceSpec { cpu: Some("1".into()), ..spec() };
        for there in [None, Some(template(&small, None))] {
            let all = template(&whole, there.as_ref());
            assert!(all.get("maxInstanceRequestConcurrency").is_none());
        }
    }

    #[test]
    fn instances_that_are_there_always_belong_to_the_service_or_to_the_revision() {
        let there = json!({ "scaling": { "minInstanceCount": 3, "maxInstanceCount": 9 } });
        let of_service = ServiceSpec { min_instances: Some(0), ..spec() };
        let scaling = template(&of_service, Some(&there))["scaling"].clone();
        assert_eq!(scaling, json!({ "maxInstanceCount": 9 }));
        let of_revision = ServiceSpec { revision_min_instances: Some(2), ..spec() };
        let scaling = template(&of_revision, Some(&there))["scaling"].clone();
        assert_eq!(scaling, json!({ "minInstanceCount": 2, "maxInstanceCount": 9 }));
    }

    #[test]
    fn variables_stay_in_their_place_and_secrets_are_references() {
        let mut spec = ServiceSpec { project: "p".into(), ..spec() };
        spec.environment.insert("B".into(), "2".into());
        spec.secrets.insert("KEY".into(), "key:3".into());
        spec.secrets.insert("LAST".into(), "last".into());
        let there = json!([{ "name": "B", "value": "1" }, { "name": "A", "value": "1" }]);
        let reference = |name: &str, version: &str| json!({ "secretKeyRef": { "secret": name, "version": version } });
        let expected = json!([
            { "name": "B", "value": "2" },
            { "name": "A", "value": "1" },
            { "name": "KEY", "valueSource": reference("key", "3") },
            { "name": "LAST", "valueSource": reference("last", "latest") },
            { "name": PROJECT, "value": "p" },
        ]);
        let all = environment(&spec, &there);
        assert_eq!(all, expected);
        assert_eq!(environment(&spec, &all), expected);
    }

    #[test]
    fn settings_of_others_are_kept() {
        let there = json!({
            "revision": "digits-x",
            "sessionAffinity": true,
            "scaling": { "minInstanceCount": 1 },
            "vpcAccess": { "egress": "ALL_TRAFFIC" },
            "containers": [{
                "image": "old",
                "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }],
                "resources": { "limits": { "cpu": "2", "memory": "1Gi" } },
            }],
        });
        let mut spec = spec();
        spec.environment.insert("B".into(), "3".into());
        spec.max_instances = Some(7);
        let all = template(&spec, Some(&there));
        assert_eq!(all["sessionAffinity"], true);
        assert_eq!(all["vpcAccess"]["egress"], "ALL_TRAFFIC");
        assert_eq!(all["scaling"], json!({ "minInstanceCount": 1, "maxInstanceCount": 7 }));
        let container = &all["containers"][0];
        assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
        assert_eq!(container["image"], json!(spec.image));
        let env = json!([{ "name": "A", "value": "1" }, { "name": "B", "value": "3" }]);
        assert_eq!(container["env"], env);
        assert!(all.get("revision").is_none());
        let mut beside = there.clone();
        let sidecar = json!({ "name": "proxy", "image": "proxy" });
        beside["containers"] = json!([sidecar, { "image": "old", "ports": [{}] }]);
        let all = template(&spec, Some(&beside));
        assert_eq!(all["containers"][0], sidecar);
        assert_eq!(all["containers"][1]["image"], json!(spec.image));
    }

    #[test]
    fn how_another_program_was_started_and_probed_goes_with_it() {
        let probe = json!({ "httpGet": { "path": "/healthz", "port": 3000 } });
        let container = |image: &str, port: u16| {
            json!({ "containers": [{
                "image": image,
                "ports": [{ "containerPort": port }],
                "command": ["python"], "args": ["main.py"], "workingDir": "/app",
                "startupProbe": probe, "livenessProbe": probe,
                "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
            }] })
        };
        let of = |there: Value| template(&spec(), Some(&there))["containers"][0].clone();
        for theirs in
            [container("r.example/p/flask:1", 8080), container("r.example/p/digits", 3000)]
        {
            let all = of(theirs);
            assert!(OF_A_PROGRAM.iter().all(|field| all[*field].is_null()), "{all}");
            assert!(all["volumeMounts"].is_array());
        }
        let ours = of(container("r.example/p/digits@sha256:00", 8080));
        assert_eq!(ours["livenessProbe"], probe, "set by somebody for our own program");
    }

    #[test]
    fn an_images_repository_is_its_name_without_tag_and_digest() {
        for image in
            ["h:5000/a/b", "h:5000/a/b:1", "h:5000/a/b@sha256:00", "h:5000/a/b:1@sha256:00"]
        {
            assert_eq!(repository(image), "h:5000/a/b");
        }
    }
}
