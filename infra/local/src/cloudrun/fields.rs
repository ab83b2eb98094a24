//! The fields of a service, from the discovery document of `run.googleapis.com`, version 2. A field nobody
//! knows and a value of another kind are refused by Google; what is known and not offered here is refused
//! by `validate`.

use serde_json::{Map, Value, json};

use super::error::{GoogleError, GoogleResult};

/// What a field holds.
enum Kind {
    Text,
    Flag,
    Whole,
    Number,
    /// `3.5s`.
    Duration,
    /// A name, or its place in the list.
    OneOf(&'static [&'static str]),
    /// Texts by name.
    Texts,
    List(&'static Kind),
    Message(&'static [Field]),
    /// Something this machine does not look at.
    Anything,
}

type Field = (&'static str, Kind);

use Kind::{Anything, Duration, Flag, List, Message, Number, OneOf, Text, Texts, Whole};

/// What is said of a service.
const SERVICE: &[Field] = &[
    ("annotations", Texts),
    ("binaryAuthorization", Anything),
    ("buildConfig", Anything),
    ("client", Text),
    ("clientVersion", Text),
    ("customAudiences", List(&Text)),
    ("defaultUriDisabled", Flag),
    ("description", Text),
    ("functionalType", Anything),
    ("iapEnabled", Flag),
    (
        "ingress",
        OneOf(&[
            "INGRESS_TRAFFIC_UNSPECIFIED",
            "INGRESS_TRAFFIC_ALL",
            "INGRESS_TRAFFIC_INTERNAL_ONLY",
            "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
            "INGRESS_TRAFFIC_NONE",
        ]),
    ),
    ("invokerIamDisabled", Flag),
    ("labels", Texts),
    (
        "launchStage",
        OneOf(&[
            "LAUNCH_STAGE_UNSPECIFIED",
            "EARLY_ACCESS",
            "ALPHA",
            "BETA",
            "GA",
            "DEPRECATED",
            "UNIMPLEMENTED",
            "PRELAUNCH",
        ]),
    ),
    ("multiRegionSettings", Anything),
    ("scaling", Message(SERVICE_SCALING)),
    ("sshEnabled", Flag),
    ("template", Message(TEMPLATE)),
    ("traffic", List(&Message(TRAFFIC))),
];

/// What is output only; it may be sent and is ignored.
const OUTPUT: &[&str] = &[
    "conditions",
    "createTime",
    "creator",
    "deleteTime",
    "etag",
    "expireTime",
    "generation",
    "lastModifier",
    "latestCreatedRevision",
    "latestReadyRevision",
    "name",
    "observedGeneration",
    "reconciling",
    "satisfiesPzs",
    "terminalCondition",
    "threatDetectionEnabled",
    "trafficStatuses",
    "uid",
    "updateTime",
    "uri",
    "urls",
];

const SERVICE_SCALING: &[Field] = &[
    ("manualInstanceCount", Whole),
    ("maxInstanceCount", Whole),
    ("minInstanceCount", Whole),
    ("scalingMode", OneOf(&["SCALING_MODE_UNSPECIFIED", "AUTOMATIC", "MANUAL"])),
];

const TRAFFIC: &[Field] = &[
    ("percent", Whole),
    ("revision", Text),
    ("tag", Text),
    (
        "type",
        OneOf(&[
            "TRAFFIC_TARGET_ALLOCATION_TYPE_UNSPECIFIED",
            "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST",
            "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION",
        ]),
    ),
];

const TEMPLATE: &[Field] = &[
    ("ambientNetworking", Anything),
    ("annotations", Texts),
    ("client", Text),
    ("clientVersion", Text),
    ("containers", List(&Message(CONTAINER))),
    ("encryptionKey", Text),
    ("encryptionKeyRevocationAction", Anything),
    ("encryptionKeyShutdownDuration", Duration),
    (
        "executionEnvironment",
        OneOf(&[
            "EXECUTION_ENVIRONMENT_UNSPECIFIED",
            "EXECUTION_ENVIRONMENT_GEN1",
            "EXECUTION_ENVIRONMENT_GEN2",
        ]),
    ),
    ("gpuZonalRedundancyDisabled", Flag),
    ("healthCheckDisabled", Flag),
    ("labels", Texts),
    ("maxInstanceRequestConcurrency", Whole),
    ("nodeSelector", Message(&[("accelerator", Text)])),
    ("revision", Text),
    ("sandboxes", Anything),
    ("scaling", Message(REVISION_SCALING)),
    ("serviceAccount", Text),
    ("serviceMesh", Message(&[("mesh", Text)])),
    ("sessionAffinity", Flag),
    ("timeout", Duration),
    ("volumes", List(&Anything)),
    ("vpcAccess", Message(VPC_ACCESS)),
    ("workloadIdentityConfig", Anything),
];

const REVISION_SCALING: &[Field] = &[
    ("concurrencyUtilization", Number),
    ("cpuUtilization", Number),
    ("maxInstanceCount", Whole),
    ("minInstanceCount", Whole),
];

const VPC_ACCESS: &[Field] = &[
    ("connector", Text),
    ("egress", OneOf(&["VPC_EGRESS_UNSPECIFIED", "ALL_TRAFFIC", "PRIVATE_RANGES_ONLY"])),
    (
        "networkInterfaces",
        List(&Message(&[("network", Text), ("subnetwork", Text), ("tags", List(&Text))])),
    ),
];

const CONTAINER: &[Field] = &[
    ("args", List(&Text)),
    ("baseImageUri", Text),
    ("buildConfig", Anything),
    ("buildInfo", Anything),
    ("command", List(&Text)),
    ("dependsOn", List(&Text)),
    ("env", List(&Message(ENV))),
    ("image", Text),
    ("livenessProbe", Message(PROBE)),
    ("name", Text),
    ("ports", List(&Message(&[("containerPort", Whole), ("name", Text)]))),
    ("readinessProbe", Message(PROBE)),
    ("resources", Message(RESOURCES)),
    ("sandboxLauncher", Flag),
    ("sourceCode", Anything),
    ("startupProbe", Message(PROBE)),
    ("volumeMounts", List(&Message(&[("mountPath", Text), ("name", Text), ("subPath", Text)]))),
    ("workingDir", Text),
];

const RESOURCES: &[Field] = &[("cpuIdle", Flag), ("limits", Texts), ("startupCpuBoost", Flag)];

const ENV: &[Field] = &[
    ("name", Text),
    ("value", Text),
    ("valueSource", Message(&[("secretKeyRef", Message(&[("secret", Text), ("version", Text)]))])),
];

const PROBE: &[Field] = &[
    ("failureThreshold", Whole),
    ("grpc", Message(&[("port", Whole), ("service", Text)])),
    (
        "httpGet",
        Message(&[
            ("httpHeaders", List(&Message(&[("name", Text), ("value", Text)]))),
            ("path", Text),
            ("port", Whole),
        ]),
    ),
    ("initialDelaySeconds", Whole),
    ("periodSeconds", Whole),
    ("tcpSocket", Message(&[("port", Whole)])),
    ("timeoutSeconds", Whole),
];

/// Whether an update mask may name it: a path of a service's fields.
pub(crate) fn may_be_masked(path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    if OUTPUT.contains(&first.as_str()) {
        return rest.is_empty();
    }
    let mut fields = SERVICE;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let Some((_, kind)) = fields.iter().find(|(known, _)| known == name) else { return false };
        match kind {
            Message(inner) => fields = inner,
            // The keys of a map are fields, too; the elements of a list are not.
            Texts | Anything => return true,
            _ => return names.peek().is_none(),
        }
    }
    true
}

/// What is said of a service, in one form: names as JSON has them, numbers as numbers, names for places in a
/// list. Names nobody knows and values of another kind are refused, wherever they are.
pub(crate) fn read(service: &Value) -> GoogleResult<Map<String, Value>> {
    let Value::Object(all) = service else { return Err(invalid("service", service)) };
    let said = all.iter().filter(|(name, _)| !OUTPUT.contains(&camel(name).as_str()));
    said.map(|(name, value)| field(SERVICE, name, value, "service"))
        .filter(|read| read.as_ref().map_or(true, |(_, value)| !value.is_null()))
        .collect()
}

fn field(fields: &[Field], name: &str, value: &Value, path: &str) -> GoogleResult<(String, Value)> {
    // A message's own names, with underscores, are taken as well.
    let known = camel(name);
    match fields.iter().find(|(field, _)| *field == known) {
        Some((_, kind)) => {
            let value = form(value, kind, &format!("{path}.{name}"))?;
            Ok((known, value))
        }
        None => Err(GoogleError::invalid(format!(
            "Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field."
        ))),
    }
}

fn form(value: &Value, kind: &Kind, path: &str) -> GoogleResult<Value> {
    let unfit = || Err(invalid(path, value));
    // Numbers may be texts.
    let number = || value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let kept = |fits: bool| if fits { Ok(value.clone()) } else { unfit() };
    match (kind, value) {
        (_, Value::Null) | (Anything, _) => Ok(value.clone()),
        (Text, _) => kept(value.is_string()),
        (Flag, _) => kept(value.is_boolean()),
        (Whole, _) => match number() {
            Some(number) if number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX) => {
                Ok(json!(number as i64))
            }
            _ => unfit(),
        },
        (Number, _) => number().map_or_else(unfit, |number| Ok(json!(number))),
        (Duration, Value::String(text)) => {
            kept(text.strip_suffix('s').is_some_and(|text| text.parse::<f64>().is_ok()))
        }
        (OneOf(names), Value::String(name)) => kept(names.contains(&name.as_str())),
        (OneOf(names), Value::Number(at)) => {
            let name = at.as_u64().and_then(|at| names.get(usize::try_from(at).ok()?));
            name.map_or_else(unfit, |name| Ok(json!(name)))
        }
        (Texts, Value::Object(all)) => kept(all.values().all(Value::is_string)),
        (List(kind), Value::Array(all)) => {
            let each = all.iter().enumerate();
            each.map(|(at, one)| form(one, kind, &format!("{path}[{at}]"))).collect()
        }
        (Message(fields), Value::Object(all)) => {
            let each = all.iter().map(|(name, value)| field(fields, name, value, path));
            Ok(Value::Object(each.collect::<GoogleResult<_>>()?))
        }
        _ => unfit(),
    }
}

/// A name with underscores as JSON has it.
pub(crate) fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        all.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        all.push_str(letters.as_str());
    }
    all
}

fn invalid(path: &str, value: &Value) -> GoogleError {
    GoogleError::invalid(format!("Invalid value at '{path}': {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_nobody_knows_and_values_of_another_kind_are_refused_wherever_they_are() {
        let probe =
            |probe: Value| json!({ "template": { "containers": [{ "startupProbe": probe }] } });
        let fine = json!({
            "name": "output only",
            "uid": 7,
            "ingress": 1,
            "scaling": { "minInstanceCount": "2", "scalingMode": "AUTOMATIC" },
            "template": { "timeout": "3.5s", "vpcAccess": { "egress": "ALL_TRAFFIC" } },
            "labels": { "team": "a" },
        });
        let read_as = read(&fine).unwrap_or_default();
        assert_eq!(
            json!(read_as),
            json!({
                "ingress": "INGRESS_TRAFFIC_ALL",
                "scaling": { "minInstanceCount": 2, "scalingMode": "AUTOMATIC" },
                "template": { "timeout": "3.5s", "vpcAccess": { "egress": "ALL_TRAFFIC" } },
                "labels": { "team": "a" },
            })
        );
        let by_its_own_names = json!({ "template": { "max_instance_request_concurrency": 3 } });
        let read_as = read(&by_its_own_names).unwrap_or_default();
        assert_eq!(read_as["template"]["maxInstanceRequestConcurrency"], 3);
        assert!(read(&probe(json!({ "grpc": {} }))).is_ok());
        for wrong in [
            json!([]),
            json!({ "colour": "red" }),
            json!({ "ingress": "ALL" }),
            json!({ "ingress": 9 }),
            json!({ "labels": { "team": 1 } }),
            json!({ "scaling": { "minInstanceCount": 0.5 } }),
            json!({ "template": { "timeout": "1m" } }),
            json!({ "template": { "vpcAccess": { "network": "n" } } }),
            json!({ "template": { "sessionAffinity": "yes" } }),
            json!({ "template": { "containers": {} } }),
            probe(json!({ "exec": {} })),
            probe(json!({ "httpGet": { "port": "http" } })),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mask_names_fields_that_exist() {
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        for fine in ["etag", "traffic", "scaling.minInstanceCount", "annotations.a", "template"] {
            assert!(may_be_masked(&path(fine)), "{fine}");
        }
        for wrong in ["colour", "etag.x", "traffic.percent", "scaling.least", "ingress.all"] {
            assert!(!may_be_masked(&path(wrong)), "{wrong}");
        }
    }
}
