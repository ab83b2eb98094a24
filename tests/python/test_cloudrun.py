"""The local Cloud Run, driven by Google's own client and by slsml; every message is checked against Google's
discovery document."""
import concurrent.futures
import functools
import json
import threading
import time
import urllib.error
import urllib.request

import googleapiclient
import jsonschema
import numpy as np
import pathlib
import pytest
import tritonclient.grpc
from google.api_core import exceptions
from google.cloud import run_v2
from google.cloud.run_v2.services.revisions.transports import RevisionsRestTransport
from google.cloud.run_v2.services.services.transports import ServicesRestTransport
from google.oauth2.credentials import Credentials
from tritonclient.utils import InferenceServerException

import helpers

PARENT = "projects/slsml-local/locations/local"
REVISION = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A local cloud that writes down every call of Google's APIs."""
    folder = tmp_path_factory.mktemp("cloudrun")
    cloud = helpers.LocalCloud(folder / "state")
    cloud.record = folder / "calls.jsonl"
    try:
        yield cloud.up(0, "--record", str(cloud.record))
    finally:
        cloud.down()


@pytest.fixture(scope="module")
def host(local):
    return local.status()["endpoint"].removeprefix("http://")


@pytest.fixture(scope="module")
def services(host):
    transport = ServicesRestTransport(host=host, url_scheme="http", credentials=Credentials(token="x"))
    return run_v2.ServicesClient(transport=transport)


@pytest.fixture(scope="module")
def revisions(host):
    transport = RevisionsRestTransport(host=host, url_scheme="http", credentials=Credentials(token="x"))
    return run_v2.RevisionsClient(transport=transport)


@pytest.fixture(scope="module")
def image(local):
    artifact = local.image("v1", "digits")
    return local.slsml("push", "slsml-local/models/digits", "--artifact", str(artifact))["image"]


def service(image, revision="", **more):
    port = run_v2.ContainerPort(name="h2c", container_port=8080)
    container = run_v2.Container(image=image, ports=[port])
    template = run_v2.RevisionTemplate(revision=revision, containers=[container], **more.pop("template", {}))
    return run_v2.Service(template=template, invoker_iam_disabled=True, **more)


def create(services, image, name, **more):
    request = service(image, **more)
    return services.create_service(parent=PARENT, service=request, service_id=name).result(timeout=30)


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def versions(url, times=1):
    return [get(f"{url}/v2/models/digits")[1]["versions"][0] for _ in range(times)]


def test_googles_client_creates_updates_splits_and_deletes(services, revisions, image):
    name = f"{PARENT}/services/one"
    first = create(services, image, "one", revision="one-a")
    assert not first.reconciling and first.latest_ready_revision.endswith("/revisions/one-a")
    assert first.terminal_condition.state.name == "CONDITION_SUCCEEDED"
    assert versions(first.uri) == ["one-a"]

    asked = services.get_service(name=name)
    asked.template.revision = "one-b"
    asked.traffic = [
        run_v2.TrafficTarget(type_=REVISION, revision="one-a", percent=70),
        run_v2.TrafficTarget(type_=REVISION, revision="one-b", percent=30, tag="candidate"),
    ]
    split = services.update_service(service=asked).result(timeout=30)
    assert [(one.revision, one.percent, one.tag) for one in split.traffic_statuses] == [
        ("one-a", 70, ""), ("one-b", 30, "candidate"),
    ]
    answered = versions(split.uri, 300)
    assert 45 < answered.count("one-b") < 140
    assert versions(split.traffic_statuses[1].uri, 5) == ["one-b"] * 5

    with pytest.raises(exceptions.Conflict, match="current version is"):
        services.update_service(service=asked).result(timeout=30)
    found = [one.name.rsplit("/", 1)[1] for one in revisions.list_revisions(parent=name)]
    assert found == ["one-b", "one-a"]
    pages = list(revisions.list_revisions(request={"parent": name, "page_size": 1}).pages)
    assert [[one.name.rsplit("/", 1)[1] for one in page.revisions] for page in pages] == [["one-b"], ["one-a"]]
    with pytest.raises(exceptions.BadRequest):
        revisions.delete_revision(name=f"{name}/revisions/one-a").result(timeout=30)

    services.delete_service(name=name).result(timeout=30)
    assert name not in [one.name for one in services.list_services(parent=PARENT)]
    with pytest.raises(exceptions.NotFound):
        services.get_service(name=name)


def test_access_is_read_changed_and_written(services, image):
    request = service(image)
    request.invoker_iam_disabled = False
    made = services.create_service(parent=PARENT, service=request, service_id="closed").result(timeout=30)
    assert get(f"{made.uri}/v2/models/digits")[0] == 403
    assert get(f"{made.uri}/v2/models/digits", Authorization="Bearer x")[0] == 200
    resource = f"{PARENT}/services/closed"
    policy = services.get_iam_policy({"resource": resource})
    stale = policy.etag
    policy.bindings.add(role="roles/run.invoker", members=["allUsers"])
    services.set_iam_policy({"resource": resource, "policy": policy})
    assert get(f"{made.uri}/v2/models/digits")[0] == 200
    policy.etag = stale
    with pytest.raises(exceptions.Conflict):
        services.set_iam_policy({"resource": resource, "policy": policy})


REFUSED = {
    "a name of fifty characters": ({}, "s" * 50),
    "an upper-case name": ({}, "Digits"),
    "another service's revision": ({"revision": "other-a"}, "two"),
    "a system's label": ({"labels": {"run.googleapis.com/x": "y"}}, "two"),
    "a percent that is missing": (
        {"traffic": [run_v2.TrafficTarget(type_=REVISION, revision="two-a", percent=99)], "revision": "two-a"}, "two"),
    "a revision that is not there": (
        {"traffic": [run_v2.TrafficTarget(type_=REVISION, revision="two-x", percent=100)]}, "two"),
    "a tag that is twice there": (
        {"revision": "two-a", "traffic": [
            run_v2.TrafficTarget(type_=REVISION, revision="two-a", percent=50, tag="t"),
            run_v2.TrafficTarget(type_=REVISION, revision="two-a", percent=50, tag="t"),
        ]}, "two"),
    "more requests at once than there may be": (
        {"template": {"max_instance_request_concurrency": 1001}}, "two"),
    "a request that may take two hours": ({"template": {"timeout": {"seconds": 7200}}}, "two"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_google_refuses_is_refused(what, services, image):
    more, name = REFUSED[what]
    with pytest.raises(exceptions.BadRequest):
        services.create_service(parent=PARENT, service=service(image, **more), service_id=name)


@pytest.mark.parametrize("change, said", [
    ({"env": [run_v2.EnvVar(name="PORT", value="1")]}, "reserved env names"),
    ({"image": ""}, "must be set"),
    ({"resources": run_v2.ResourceRequirements(limits={"cpu": "3"})}, "cpu"),
    ({"resources": run_v2.ResourceRequirements(limits={"cpu": "1", "memory": "16Gi"})}, "memory"),
    ({"ports": [run_v2.ContainerPort(name="grpc", container_port=1)]}, "http1 or h2c"),
])
def test_what_google_refuses_of_containers_is_refused(change, said, services, image):
    request = service(image)
    for field, value in change.items():
        setattr(request.template.containers[0], field, value)
    with pytest.raises(exceptions.BadRequest, match=said):
        services.create_service(parent=PARENT, service=request, service_id="two")


def test_unknown_fields_missing_credentials_and_dry_runs(host, services, image):
    url = f"http://{host}/v2/{PARENT}/services"
    body = json.dumps({"templates": {}}).encode()
    request = urllib.request.Request(f"{url}?serviceId=x", data=body, headers={"authorization": "Bearer x"})
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        urllib.request.urlopen(request)
    said = json.loads(refused.value.read())["error"]
    assert said["status"] == "INVALID_ARGUMENT" and 'Unknown name "templates"' in said["message"]
    assert get(url)[0] == 401
    dry = run_v2.CreateServiceRequest(
        parent=PARENT, service=service(image), service_id="dry", validate_only=True)
    services.create_service(dry).result(timeout=10)
    assert "dry" not in [one.name.rsplit("/", 1)[1] for one in services.list_services(parent=PARENT)]


def test_an_image_that_is_not_there_leaves_what_serves(services, image):
    made = create(services, image, "steady", revision="steady-a")
    asked = services.get_service(name=made.name)
    asked.template.revision = "steady-b"
    asked.template.containers[0].image = image.split("@")[0] + ":nope"
    with pytest.raises(exceptions.GoogleAPICallError, match="not found"):
        services.update_service(service=asked).result(timeout=30)
    after = services.get_service(name=made.name)
    assert after.terminal_condition.state.name == "CONDITION_FAILED"
    assert after.latest_ready_revision.endswith("steady-a") and versions(made.uri) == ["steady-a"]


def test_instances_stop_when_nobody_asks_and_start_again(tmp_path):
    cloud = helpers.LocalCloud(tmp_path / "state")
    try:
        cloud.up(0, "--idle-s", "1")
        address = cloud.deploy_image("v1", "digits", "--public")["address"]
        running = functools.partial(instances, cloud)
        assert running() == 1
        helpers.eventually(running, lambda count: count == 0, what="the instance still runs")
        assert get(f"{address}/v2/models/digits")[0] == 200
        assert running() == 1
        cloud.down()
        helpers.eventually(running, lambda count: count == 0, what="it outlived its cloud")
        cloud.up(0)
        state = cloud.slsml("status", "--service", "digits")
        assert get(f"{state['address']}/v2/models/digits")[0] == 200
    finally:
        cloud.down()


def instances(cloud):
    """How many processes run in the files of an image."""
    found, root = 0, str(cloud.directory / "rootfs")
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            found += str((process / "root").readlink()).startswith(root)
        except OSError:
            pass
    return found


def test_a_crowd_starts_instances_up_to_their_number_and_what_has_no_room_is_refused(tmp_path):
    cloud = helpers.LocalCloud(tmp_path / "state")
    try:
        cloud.up(0)
        made = cloud.deploy_image("v1", "digits", "--public", "--concurrency", "2", "--max-instances", "2")
        cloud.must("fault", "version", "digits", made["version"], "--delay-ms", "8000")
        url = f"{made['address']}/v2/models/digits"
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            pending = [pool.submit(get, url) for _ in range(9)]
            helpers.eventually(lambda: instances(cloud), lambda count: count == 2, what="there is one instance only")
            answers = [one.result(timeout=60) for one in pending]
        # Four at once, four more when those are answered, and the last one has waited for ten seconds by then.
        assert sorted(status for status, _ in answers) == [200] * 8 + [429]
        assert instances(cloud) == 2
    finally:
        cloud.down()


def test_what_google_offers_beside_the_rest_is_there(services, image):
    name = f"{PARENT}/services/upsert"
    asked = service(image, revision="upsert-a")
    asked.name = name
    request = run_v2.UpdateServiceRequest(service=asked, allow_missing=True)
    services.update_service(request).result(timeout=30)
    permissions = ["run.services.get", "run.routes.invoke"]
    tested = services.test_iam_permissions({"resource": name, "permissions": permissions})
    assert list(tested.permissions) == permissions
    create(services, image, "beside")
    pages = list(services.list_services(request={"parent": PARENT, "page_size": 1}).pages)
    assert len(pages) >= 2 and all(len(page.services) == 1 for page in pages)
    with pytest.raises(exceptions.BadRequest, match="field mask"):
        mask = {"paths": ["template.container"]}
        services.update_service(run_v2.UpdateServiceRequest(service=asked, update_mask=mask))
    with pytest.raises(exceptions.BadRequest, match="46 characters"):
        tagged = [run_v2.TrafficTarget(type_=REVISION, revision=f"{'s' * 40}-a", percent=100, tag="candidate")]
        create(services, image, "s" * 40, revision=f"{'s' * 40}-a", traffic=tagged)


EVERYTHING = [
    "--cpu", "2", "--memory", "2Gi", "--min-instances", "1", "--max-instances", "5", "--service-max-instances", "9",
    "--revision-min-instances", "1", "--concurrency", "10", "--timeout-s", "30", "--cpu-boost", "false", "--cpu-always",
    "true", "--ingress", "load-balancer", "--service-account", "runs@p.iam.gserviceaccount.com", "--env", "MODE=fast",
    "--network", "net", "--subnet", "sub", "--vpc-egress", "all-traffic", "--public", "false",
    "--invoker", "serviceAccount:calls@p.iam.gserviceaccount.com",
]


def test_every_setting_arrives_and_is_there_when_it_is_deployed_again(local, services):
    image = str(local.image("v1", "settings"))
    first = local.slsml("deploy", "cloudrun", "--artifact", image, *EVERYTHING)
    found = services.get_service(name=f"{PARENT}/services/settings")
    scaling = (found.scaling.min_instance_count, found.scaling.max_instance_count)
    assert (found.ingress.name, scaling) == ("INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", (1, 9))
    template, container = found.template, found.template.containers[0]
    scaling = (template.scaling.min_instance_count, template.scaling.max_instance_count)
    assert (scaling, template.max_instance_request_concurrency, template.timeout.seconds) == ((1, 5), 10, 30)
    assert template.service_account == "runs@p.iam.gserviceaccount.com"
    interface = template.vpc_access.network_interfaces[0]
    assert (interface.network, interface.subnetwork, template.vpc_access.egress.name) == ("net", "sub", "ALL_TRAFFIC")
    resources = container.resources
    assert dict(resources.limits) == {"cpu": "2", "memory": "2Gi"}
    assert (resources.cpu_idle, resources.startup_cpu_boost) == (False, False)
    # The log names traces by the project, which Cloud Run tells nobody.
    assert {one.name: one.value for one in container.env} == {"MODE": "fast", "GOOGLE_CLOUD_PROJECT": "slsml-local"}
    policy = services.get_iam_policy({"resource": found.name})
    assert [(one.role, list(one.members)) for one in policy.bindings] == [
        ("roles/run.invoker", ["serviceAccount:calls@p.iam.gserviceaccount.com"])]
    again = local.slsml("deploy", "cloudrun", "--artifact", image, *EVERYTHING)
    assert (again["outcome"], again["version"]) == ("unchanged", first["version"]), again
    local.slsml("destroy", "--service", "settings", "--yes")


def test_part_of_a_processor_takes_one_request_at_once(local, services):
    image = str(local.image("v1", "small"))
    small = ["deploy", "cloudrun", "--artifact", image, "--cpu", "0.5"]
    local.slsml(*small)
    template = services.get_service(name=f"{PARENT}/services/small").template
    assert template.max_instance_request_concurrency == 1
    assert local.slsml(*small)["outcome"] == "unchanged"
    local.slsml("destroy", "--service", "small", "--yes")


def test_a_service_is_asked_by_the_command_line(local, tmp_path):
    made = local.deploy_image("v1", "asked", "--public")
    asked = json.dumps({"inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": [0] * 64}]})
    body = tmp_path / "request.json"
    body.write_text(asked)
    candidate = local.deploy_image("v2", "asked", "--no-traffic")["revision"]
    for revision, more in [
        (made["version"], []), (made["version"], ["--revision", made["version"]]), (candidate, ["--revision", candidate]),
    ]:
        answer = local.slsml("invoke", "--service", "asked", "--body", str(body), *more)
        assert answer["revision"] == revision and len(answer["answer"]["outputs"]) == 2
    body.write_text("{}")
    refused = local.slsml("invoke", "--service", "asked", "--body", str(body), code=2)
    assert "status 400" in refused["error"]["message"]


def test_a_name_that_leaves_no_room_for_a_tag_is_refused_before_anything_is_sent(local):
    name = "s" * 38
    refused = local.slsml("deploy", "cloudrun", "--artifact", str(local.image("v1", "digits")), "--service", name, code=2)
    assert "at most 37" in refused["error"]["message"]


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("index, outcome", [(99, "rolled_back"), (9, "promoted")])
def test_grpc_requests_that_fail_are_evidence_against_a_candidate(tmp_path, index, outcome):
    """To HTTP they are answered with 200: the container's log tells of them, and a metric counts that."""
    cloud = helpers.LocalCloud(tmp_path / "state")
    try:
        cloud.up(0)
        images = [
            str(cloud.image_of("tests/fixtures/lookup.onnx", "lookup", version, "--image-version", version))
            for version in ["1.0.0", "2.0.0"]
        ]
        cloud.slsml("deploy", "cloudrun", "--artifact", images[0], "--public", "--strategy", "all-at-once")
        url = cloud.slsml("status", "--service", "lookup")["address"].removeprefix("http://")
        client = tritonclient.grpc.InferenceServerClient(url)
        asked = tritonclient.grpc.InferInput("index", [1], "INT64")
        asked.set_data_from_numpy(np.array([index], np.int64))
        over = threading.Event()

        def ask():
            while not over.is_set():
                try:
                    client.infer("lookup", [asked])
                except InferenceServerException as refused:
                    assert "out of" in str(refused) or "bound" in str(refused), refused

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            released = cloud.slsml(
                "deploy", "cloudrun", "--artifact", images[1], "--strategy", "canary", "--steps", "50", "--bake", "2s",
                "--warm-up", "0", "--max-error-rate", "0.05", code={"promoted": 0, "rolled_back": 5}[outcome],
            )
            over.set()
            asking.result(timeout=30)
        assert released["outcome"] == outcome, released
    finally:
        cloud.down()


def strict(schemas):
    """JSON Schemas of a discovery document's messages, in which unknown names are errors."""
    def convert(node):
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return {"$ref": f"#/definitions/{node['$ref']}"}
        made = {}
        for key in ["type", "items", "properties", "enum"]:
            if key in node:
                made[key] = node[key]
        if made.get("type") == "any":
            del made["type"]
        if "items" in made:
            made["items"] = convert(made["items"])
        if "properties" in made:
            made["properties"] = {name: convert(value) for name, value in made["properties"].items()}
            made["additionalProperties"] = False
        if "additionalProperties" in node:
            made["additionalProperties"] = convert(node["additionalProperties"])
        if "enum" in made:
            # Google's clients may send enumerations as numbers.
            return {"anyOf": [made, {"type": "integer"}]}
        return made
    return {name: convert(schema) for name, schema in schemas.items()}


def document(name):
    path = pathlib.Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / f"{name}.json"
    return strict(json.loads(path.read_text(encoding="utf-8"))["schemas"])


RUN, MONITORING, LOGGING = document("run.v2"), document("monitoring.v3"), document("logging.v2")


def message(call):
    """The documents and schemas of a call's request and answer."""
    path, method = call["path"], call["method"]
    if path.startswith("/v3/"):
        return MONITORING, None, "ListTimeSeriesResponse"
    if path == "/v2/entries:list":
        return LOGGING, "ListLogEntriesRequest", "ListLogEntriesResponse"
    if path.split("/")[4] == "metrics":
        return LOGGING, "LogMetric" if method == "POST" else None, "LogMetric"
    prefix = "GoogleCloudRunV2"
    if path.endswith(":testIamPermissions"):
        return RUN, "GoogleIamV1TestIamPermissionsRequest", "GoogleIamV1TestIamPermissionsResponse"
    last = path.rsplit("/", 2)
    if path.endswith(":setIamPolicy"):
        return RUN, "GoogleIamV1SetIamPolicyRequest", "GoogleIamV1Policy"
    if path.endswith(":getIamPolicy"):
        return RUN, None, "GoogleIamV1Policy"
    if "/operations/" in path:
        return RUN, None, "GoogleLongrunningOperation"
    if method == "GET" and path.endswith("/services"):
        return RUN, None, f"{prefix}ListServicesResponse"
    if method == "GET" and path.endswith("/revisions"):
        return RUN, None, f"{prefix}ListRevisionsResponse"
    if method == "GET":
        return RUN, None, prefix + {"services": "Service", "revisions": "Revision"}[last[1]]
    return RUN, f"{prefix}Service" if method in ("POST", "PATCH") else None, "GoogleLongrunningOperation"


def check(schemas, name, value):
    jsonschema.validate(value, {"$ref": f"#/definitions/{name}", "definitions": schemas})


def test_every_message_is_what_the_discovery_document_says(local, host, services, image):
    create(services, image, "written", revision="written-a")
    local.deploy_image("v2", "digits", "--public", "--service", "digits", "--memory", "1Gi", "--concurrency", "30")
    address = local.slsml("status", "--service", "digits")["address"]
    versions(address, 30)
    time.sleep(1)
    local.deploy_image("v1", "digits", "--service", "digits", "--strategy", "canary", "--steps", "50", "--bake", "1s",
                       "--min-requests", "1", "--check", "errors <= 0.9", "--check", "slower_than_250ms <= 0.9",
                       "--check", "outputs <= stable + 0.9",
                       "--deadline", "20s", "--on-inconclusive", "promote", "--hold", "1s")
    assert local.slsml("logs", "--service", "digits")["lines"]
    local.slsml("release", "rollback", "--service", "digits")
    everything = str(local.image("v1", "everything"))
    local.slsml("deploy", "cloudrun", "--artifact", everything, "--no-traffic", *EVERYTHING)
    secret = ["--secret", "KEY=key:3"]
    refused = local.slsml("deploy", "cloudrun", "--artifact", everything, "--no-traffic", *secret, code=4)
    assert "does not offer secrets" in refused["error"]["message"]
    local.slsml("prune", "--service", "digits", "--keep", "0")
    for name in ["digits", "everything"]:
        local.slsml("destroy", "--service", name, "--yes")
    calls = [json.loads(line) for line in local.record.read_text(encoding="utf-8").splitlines()]
    seen, secrets = set(), 0
    for call in calls:
        schemas, request, answer = message(call)
        if "secretKeyRef" in json.dumps(call["request"]):
            # It is not offered here, and slsml sends it to Google.
            check(schemas, request, call["request"])
            secrets += 1
        if call["status"] != 200:
            continue
        if request:
            check(schemas, request, call["request"])
        check(schemas, answer, call["answer"])
        if answer == "GoogleLongrunningOperation":
            for field in ["response", "metadata"]:
                if field in call["answer"]:
                    value = dict(call["answer"][field])
                    kind = value.pop("@type").rsplit(".", 1)[1]
                    check(schemas, f"GoogleCloudRunV2{kind}", value)
        seen.add((call["method"], answer))
    assert {name for _, name in seen} >= {
        "GoogleCloudRunV2Service", "GoogleCloudRunV2Revision", "GoogleLongrunningOperation",
        "ListTimeSeriesResponse", "GoogleIamV1Policy", "GoogleCloudRunV2ListRevisionsResponse",
        "ListLogEntriesResponse", "LogMetric",
    }, seen
    assert secrets and ("DELETE", "GoogleLongrunningOperation") in seen
