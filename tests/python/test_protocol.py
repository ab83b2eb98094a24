"""The container's server, driven by other people's clients of the Open Inference Protocol: as a process, as a
container on the local Cloud Run and, where the protocol allows, as a Lambda function behind its URL."""
import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPConnection

import grpc as grpclib
import numpy as np
import pytest
import tritonclient.grpc as tg
import tritonclient.http as th
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from tritonclient.utils import InferenceServerException

import helpers

SERVER = os.environ["SLSML_SERVER"]
MODEL = "digits"


class Server:
    """The server in a process of its own, on a free port."""

    version = "1"

    def __init__(self, folder, **settings):
        environment = {"PORT": "0", "SLSML_MODEL_DIR": str(folder), **settings}
        self.process = subprocess.Popen(
            [SERVER], env=environment, stdout=subprocess.PIPE, text=True
        )
        first = json.loads(self.process.stdout.readline())
        assert first["message"].startswith("listening on port "), first
        self.port = int(first["message"].rsplit(" ", 1)[1])
        self.address = f"127.0.0.1:{self.port}"

    def stop(self):
        """What the server said since, and how it ended."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=20)
        return [json.loads(line) for line in said.splitlines()], self.process.returncode


class Podman:
    """The image that `slsml package` made, as a container that podman runs."""

    def __init__(self, storage, image, **settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.podman = storage
        settings["PORT"] = str(self.port)
        environment = [f"--env={name}={value}" for name, value in settings.items()]
        # Limits that a process in a container of its own may set, too.
        flags = ["--network=host", "--read-only", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
        started = subprocess.run(storage + ["run", "--detach", *flags, *environment, image], capture_output=True, text=True)
        if started.returncode != 0:
            pytest.skip(f"podman runs no container here: {started.stderr.strip()}")
        self.name = started.stdout.strip()
        began = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=5).read()
                return
            except OSError:
                assert time.monotonic() < began + 20, "it does not listen"
                time.sleep(0.01)

    def stop(self):
        subprocess.run(self.podman + ["kill", "--signal", "TERM", self.name], check=True, capture_output=True)
        code = int(subprocess.check_output(self.podman + ["wait", self.name], text=True))
        said = subprocess.check_output(self.podman + ["logs", self.name], text=True)
        subprocess.run(self.podman + ["rm", self.name], check=True, capture_output=True)
        return [json.loads(line) for line in said.splitlines()], code


@pytest.fixture
def podman(tmp_path):
    """Starts servers as containers, each from the image of the example."""
    artifact = helpers.package_image(tmp_path)
    with helpers.podman(tmp_path) as storage:
        pull = ["pull", "--quiet", f"oci:{artifact / 'image'}"]
        image = subprocess.check_output(storage + pull, text=True).strip()
        yield lambda **settings: Podman(storage, image, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    with zipfile.ZipFile(os.environ["SLSML_DIGITS_ZIP"]) as package:
        package.extractall(folder)
    return folder


class Container:
    """The image that `slsml package` made and `slsml deploy` released, on a local Cloud Run."""

    def __init__(self, cloud):
        deployed = cloud.deploy_image("v1", MODEL, "--public")
        self.address = deployed["address"].removeprefix("http://")
        self.version = deployed["version"]


@pytest.fixture(scope="module", params=["process", "container"])
def server(folder, tmp_path_factory, request):
    if request.param == "container":
        cloud = helpers.LocalCloud(tmp_path_factory.mktemp("cloudrun") / "state")
        try:
            yield Container(cloud.up())
        finally:
            cloud.down()
        return
    yield request.getfixturevalue("process")


@pytest.fixture(scope="module")
def process(folder):
    # The log is a pipe that nobody reads while the tests run.
    server = Server(folder, SLSML_ACCESS_LOG="false")
    yield server
    _, code = server.stop()
    assert code == 0


@pytest.fixture
def http(server):
    with th.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture
def grpc(server):
    with tg.InferenceServerClient(server.address) as client:
        yield client


def images(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 17, (rows, 64)).astype(np.float32)


def ask(module, client, image, outputs=None, binary=True, **more):
    given = module.InferInput("image", list(image.shape), "FP32")
    if module is th:
        given.set_data_from_numpy(image, binary_data=binary)
    else:
        given.set_data_from_numpy(image)
    return client.infer(MODEL, [given], outputs=outputs, **more)


@pytest.mark.parametrize("module, client", [(th, "http"), (tg, "grpc")])
def test_every_endpoint_says_what_the_client_expects(module, client, server, request):
    client = request.getfixturevalue(client)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, server.version)
    as_json = {"as_json": True} if module is tg else {}
    metadata = client.get_server_metadata(**as_json)
    assert metadata["name"] == "slsml" and "binary_tensor_data" in metadata["extensions"]
    model = client.get_model_metadata(MODEL, **as_json)
    known = (model["name"], model["versions"], model["platform"])
    assert known == (MODEL, [server.version], "onnx_onnxv1")
    (given,) = model["inputs"]
    shape = [int(length) for length in given["shape"]]
    assert (given["name"], given["datatype"], shape) == ("image", "FP32", [-1, 64])
    assert [output["name"] for output in model["outputs"]] == ["probabilities", "class"]


@pytest.mark.parametrize("module, client", [(th, "http"), (tg, "grpc")])
def test_what_does_not_exist_is_refused(module, client, server, request):
    client = request.getfixturevalue(client)
    for name, version in [("other", ""), (MODEL, "9")]:
        with pytest.raises(InferenceServerException, match="this is"):
            client.get_model_metadata(name, version)
    with pytest.raises(InferenceServerException, match="the model takes"):
        ask(module, client, images(1)[:, :63])
    with pytest.raises(InferenceServerException, match="no output `nothing`"):
        ask(module, client, images(1), outputs=[module.InferRequestedOutput("nothing")])


def test_all_ways_give_the_same_answer(http, grpc):
    image = images(3)
    expected = ask(th, http, image, binary=False, outputs=[
        th.InferRequestedOutput("probabilities", binary_data=False),
        th.InferRequestedOutput("class", binary_data=False),
    ])
    assert "parameters" not in expected.get_output("class")
    answers = [
        ask(th, http, image),
        ask(th, http, image, binary=False),
        ask(th, http, image, outputs=[
            th.InferRequestedOutput("class", binary_data=False),
            th.InferRequestedOutput("probabilities", binary_data=True),
        ]),
        ask(th, http, image, request_compression_algorithm="gzip",
            response_compression_algorithm="gzip"),
        ask(th, http, image, request_compression_algorithm="deflate",
            response_compression_algorithm="deflate"),
        ask(tg, grpc, image),
        ask(tg, grpc, image, compression_algorithm="gzip"),
    ]
    for answer in answers:
        for output in ["probabilities", "class"]:
            got, wanted = answer.as_numpy(output), expected.as_numpy(output)
            assert got.shape == wanted.shape and (got == wanted).all(), output


def test_ids_come_back_and_outputs_are_those_asked_for(http, grpc):
    for module, client in [(th, http), (tg, grpc)]:
        only = [module.InferRequestedOutput("class")]
        answer = ask(module, client, images(1), outputs=only, request_id="me-7")
        answer = answer.get_response(as_json=True) if module is tg else answer.get_response()
        assert answer["id"] == "me-7"
        assert [output["name"] for output in answer["outputs"]] == ["class"]


def kserve(tmp_path, image, base, *address):
    """What kserve's clients get."""
    path = tmp_path / "image.json"
    path.write_text(json.dumps(image.tolist()), encoding="utf-8")
    script = pathlib.Path(__file__).with_name("kserve_client.py")
    done = subprocess.run(
        [sys.executable, script, MODEL, path, base, *address],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def is_same(got, expected):
    assert (got["id"], got["model"]) == ("k-1", MODEL)
    for name in ["class", "probabilities"]:
        assert np.allclose(got["outputs"][name], expected.as_numpy(name), atol=1e-7), name


def test_kserves_client_gets_what_tritons_gets(server, http, tmp_path):
    image = images(2, seed=5)
    expected = ask(th, http, image)
    got = kserve(tmp_path, image, f"http://{server.address}", server.address)
    is_same(got["rest"], expected)
    is_same(got["grpc"], expected)


def test_a_function_url_speaks_the_protocol_without_binary_tensors(cloud, lam, tmp_path):
    with open(os.environ["SLSML_DIGITS_ZIP"], "rb") as package:
        helpers.create(lam, "protocol", code={"ZipFile": package.read()})
    helpers.wait_active(lam, "protocol")
    url = lam.create_function_url_config(FunctionName="protocol", AuthType="NONE")["FunctionUrl"]
    image = images(2, seed=3)
    with th.InferenceServerClient(url.removeprefix("http://").rstrip("/")) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
        assert "binary_tensor_data" not in client.get_server_metadata()["extensions"]
        assert client.get_model_metadata(MODEL)["name"] == MODEL
        plain = [th.InferRequestedOutput(name, binary_data=False) for name in ["class", "probabilities"]]
        answer = ask(th, client, image, outputs=plain, binary=False)
        assert answer.as_numpy("class").shape == (2,)
        with pytest.raises(InferenceServerException):
            ask(th, client, image[:, :63], outputs=plain, binary=False)

    is_same(kserve(tmp_path, image, url.rstrip("/"))["rest"], answer)


def post(server, body, **headers):
    url = f"http://{server.address}/v2/models/{MODEL}/infer"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_hostile_requests_are_refused_and_the_server_lives(process):
    head = json.dumps({"inputs": [{
        "name": "image", "shape": [1, 64], "datatype": "FP32",
        "parameters": {"binary_data_size": 256},
    }]}).encode()
    length = str(len(head))
    table = [
        (b"", {}, 400, "empty"),
        (b"[" * 100_000, {}, 400, "not an infer request"),
        (head, {}, 400, "Inference-Header-Content-Length is missing"),
        (head + bytes(255), {"Inference_Header_Content_Length": length}, 400, "255 bytes are left"),
        (head + bytes(257), {"Inference_Header_Content_Length": length}, 400, "1 bytes follow"),
        (head, {"Inference_Header_Content_Length": "-1"}, 400, "no number"),
        (head, {"Inference_Header_Content_Length": "9" * 30}, 400, "no number"),
        (head, {"Content_Encoding": "br"}, 400, "`br` is not known"),
        (head, {"Content_Encoding": "gzip"}, 400, "no whole gzip"),
        (bytes(33 << 20), {}, 413, "which is the limit"),
    ]
    for body, headers, status, says in table:
        got, answer = post(process, body, **headers)
        assert got == status and says in answer["error"], (headers, got, answer)
    with th.InferenceServerClient(process.address) as client:
        assert client.is_server_ready()


def runs(server):
    """Requests that were run, and in how many runs."""
    text = urllib.request.urlopen(f"http://{server.address}/metrics").read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return [float(values[f"slsml_{name}_total"]) for name in ["run_requests", "runs"]]


def test_requests_that_come_together_are_answered_as_if_they_came_alone(folder):
    server = Server(folder, SLSML_BATCH_DELAY_MS="20", SLSML_THREADS="1", SLSML_ACCESS_LOG="false")
    try:
        with th.InferenceServerClient(server.address, concurrency=16) as client:
            rows = [images(1 + seed % 2, seed) for seed in range(16)]
            alone = [ask(th, client, image).as_numpy("probabilities") for image in rows]

            def all_at_once():
                """Requests and runs of the model, of so many rounds."""
                before = runs(server)
                for _ in range(12):
                    pending = []
                    for image in rows:
                        given = th.InferInput("image", list(image.shape), "FP32")
                        given.set_data_from_numpy(image)
                        pending.append(client.async_infer(MODEL, [given]))
                    for request, wanted in zip(pending, alone):
                        assert (request.get_result().as_numpy("probabilities") == wanted).all()
                return [now - then for now, then in zip(runs(server), before)]

            # Until enough answers were seen to be the same they are run both ways.
            helpers.eventually(all_at_once, lambda seen: seen[0] > 1.5 * seen[1], seconds=60, every=0)
    finally:
        server.stop()


def test_each_request_is_a_line_with_its_trace(folder):
    server = Server(folder, GOOGLE_CLOUD_PROJECT="shop")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    status, answer = post(server, b"{}", traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    lines, code = server.stop()
    assert (status, code) == (400, 0)
    (line,) = [line for line in lines if "httpRequest" in line]
    assert line["httpRequest"]["status"] == 400 and line["message"] == answer["error"]
    assert line["logging.googleapis.com/trace"] == f"projects/shop/traces/{trace}"


def test_the_models_answer_is_in_the_log_and_counted_whatever_the_protocol(folder):
    server = Server(folder)
    with th.InferenceServerClient(server.address) as over_http, tg.InferenceServerClient(server.address) as over_grpc:
        answers = [ask(th, over_http, images(1)), ask(tg, over_grpc, images(1))]
    digits = {str(answer.as_numpy("probabilities")[0].argmax()) for answer in answers}
    text = urllib.request.urlopen(f"http://{server.address}/metrics").read().decode()
    lines, _ = server.stop()
    told = [line["slsml"]["answer"] for line in lines if "slsml" in line]
    assert len(told) == 2 and set(told) == digits, (told, digits)
    for line in lines:
        if "slsml" in line:
            # 64 numbers of four bytes, with their message around them; ten come back.
            sizes = [int(line["httpRequest"][size]) for size in ["requestSize", "responseSize"]]
            assert 256 < sizes[0] < 1000 and 40 < sizes[1] < 1000, line
    assert f'slsml_predictions_total{{bin="{told[0]}"}} 2' in text


def test_a_request_whose_client_hangs_up_is_told_of_and_no_failure(folder):
    server = Server(folder)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        time.sleep(0.2)
    time.sleep(0.2)
    lines, _ = server.stop()
    (line,) = [line for line in lines if "httpRequest" in line]
    assert line["httpRequest"]["status"] in (400, 499) and line["severity"] == "WARNING", line
    assert line["httpRequest"]["requestUrl"] == "/v2/models/digits/infer"


def test_who_never_sends_a_request_is_hung_up_on_and_who_is_between_two_is_not(folder):
    server = Server(folder)
    connect = lambda: socket.create_connection(("127.0.0.1", server.port), timeout=20)
    began = time.monotonic()
    with connect() as silent, connect() as half, connect() as kept:
        half.sendall(b"GET /v2 HTTP/1.1\r\nhost:")
        ready = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n"
        kept.sendall(ready)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 ")
        # An error may be said first.
        while silent.recv(4096) or half.recv(4096):
            pass
        assert 9 < time.monotonic() - began < 16
        time.sleep(1)
        kept.sendall(ready)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 ")
        kept.sendall(b"GET /v2 HTTP/1.1\r\nhost:")
        kept.settimeout(16)
        while kept.recv(4096):
            pass
    server.stop()


def test_a_request_that_takes_longer_than_a_stopped_server_waits_is_told_of_as_a_failure(folder):
    server = Server(folder, SLSML_DRAIN_S="1")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        time.sleep(0.2)
        lines, code = server.stop()
    (line,) = [line for line in lines if "httpRequest" in line]
    assert (line["httpRequest"]["status"], line["severity"], code) == (503, "ERROR", 0), line
    assert "was stopped" in line["message"]


def test_a_grpc_message_that_cannot_be_decompressed_is_its_senders_fault(folder):
    server = Server(folder)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    compressed = b"\x01" + (4).to_bytes(4, "big") + b"nope"
    headers = {"content-type": "application/grpc", "te": "trailers", "grpc-encoding": "gzip"}
    connection.request("POST", "/inference.GRPCInferenceService/ModelInfer", compressed, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    lines, _ = server.stop()
    assert answer.headers["grpc-status"] == str(grpclib.StatusCode.INVALID_ARGUMENT.value[0]), answer.headers
    assert [line["httpRequest"]["status"] for line in lines if "httpRequest" in line] == [400]


def ask_until_told_to_close(server, body, counts):
    """As whoever spreads requests over containers does: no further request once one says so."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    while True:
        try:
            connection.request("POST", f"/v2/models/{MODEL}/infer", body)
            answer = connection.getresponse()
            answer.read()
        except Exception as error:  # whatever it is, a request was lost
            counts["lost"].append(repr(error))
            return
        counts["answered" if answer.status == 200 else "refused"].append(answer.status)
        if answer.headers.get("connection") == "close":
            return


@pytest.fixture(params=["process", "podman"])
def start(folder, request):
    if request.param == "podman":
        return request.getfixturevalue("podman")
    return lambda **settings: Server(folder, **settings)


def test_nothing_that_was_sent_is_lost_when_the_server_is_told_to_stop(start):
    head = {"name": "image", "shape": [1, 64], "datatype": "FP32", "data": [1.5] * 64}
    body = json.dumps({"inputs": [head]}).encode()
    for _ in range(int(os.environ.get("SLSML_STOPS", "5"))):
        server = start(SLSML_ACCESS_LOG="false")
        counts = {"answered": [], "refused": [], "lost": []}
        clients = [
            threading.Thread(target=ask_until_told_to_close, args=(server, body, counts))
            for _ in range(8)
        ]
        for client in clients:
            client.start()
        began = time.monotonic()
        while len(counts["answered"]) < 50 and not counts["lost"]:
            assert time.monotonic() < began + 20, counts
            time.sleep(0.001)
        _, code = server.stop()
        for client in clients:
            client.join()
        assert (code, counts["lost"], counts["refused"]) == (0, [], []), counts


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans it is sent."""

    def __init__(self):
        self.spans = []
        self.resources = []
        self.server = grpclib.server(concurrent.futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request, _):
        for resource in request.resource_spans:
            self.resources.append({one.key: one.value.string_value for one in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


def test_each_request_is_a_span_below_its_callers(folder):
    collector = Collector()
    address = f"http://127.0.0.1:{collector.port}"
    server = Server(folder, OTEL_EXPORTER_OTLP_ENDPOINT=address, K_REVISION="digits-1")
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    with th.InferenceServerClient(server.address) as client:
        ask(th, client, images(1), headers=headers)
        ask(th, client, images(1), headers={"traceparent": f"00-{trace}-{parent}-00"})
        with pytest.raises(InferenceServerException):
            client.get_model_metadata("another")
    with tg.InferenceServerClient(server.address) as client:
        ask(tg, client, images(1))
    lines, code = server.stop()
    collector.server.stop(1)
    assert code == 0
    # What was left went when the server was told to stop; what its caller does not keep is not kept.
    names = [span.name for span in collector.spans]
    infer = f"POST /v2/models/{MODEL}/infer"
    assert names == [infer, "GET", "inference.GRPCInferenceService/ModelInfer"]
    first = collector.spans[0]
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (trace, parent)
    attributes = {one.key: one.value for one in first.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["http.request.method"].string_value == "POST"
    assert first.end_time_unix_nano > first.start_time_unix_nano
    resource = collector.resources[0]
    assert (resource["service.name"], resource["service.version"]) == (MODEL, "digits-1")
    # The log names the span.
    logged = [line for line in lines if "httpRequest" in line]
    assert logged[0]["logging.googleapis.com/spanId"] == first.span_id.hex()
    assert logged[0]["logging.googleapis.com/trace"] == trace


def test_a_collector_that_is_not_there_holds_up_nobody(folder):
    address = f"http://127.0.0.1:{helpers.free_port()}"
    server = Server(folder, OTEL_EXPORTER_OTLP_ENDPOINT=address)
    with th.InferenceServerClient(server.address) as client:
        for _ in range(20):
            ask(th, client, images(1))
    lines, code = server.stop()
    assert code == 0
    assert any(line.get("message") == "spans were lost" for line in lines)
