"""The container's server against the Open Inference Protocol as other people's clients speak it, and against clients that
send too much, too slowly or at the wrong moment. The models are tests/fixtures/conformance (tests/fixtures/make.py)."""
import base64
import contextlib
import gzip
import http.client
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib

import grpc as grpclib
import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
import tritonclient.grpc as tg
import tritonclient.http as th
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import helpers
from test_protocol import Server

MODELS = helpers.HERE.parent / "fixtures/conformance"
MIB = 1 << 20
QUIET = {"SLSML_ACCESS_LOG": "false"}


# ---------------------------------------------------------------- servers


@pytest.fixture(scope="session")
def packaged(tmp_path_factory):
    """The folder of a packaged model, by its name in MODELS."""
    out = tmp_path_factory.mktemp("packaged")
    # Nobody runs this: it only has to look like a program for this processor.
    runtime = out / "bootstrap"
    with open(os.environ["SLSML_SERVER"], "rb") as server:
        runtime.write_bytes(server.read(64))
    runtime.chmod(0o755)
    folders = {}

    def package(name):
        if name not in folders:
            subprocess.run(
                [helpers.slsml_executable(), "--json", "package", MODELS / f"{name}.onnx", "--name", name,
                 "--out", out, "--runtime", runtime],
                check=True, capture_output=True, timeout=60,
            )
            folders[name] = out / name / "folder"
            with zipfile.ZipFile(out / name / "lambda.zip") as package:
                package.extractall(folders[name])
        return folders[name]

    return package


@contextlib.contextmanager
def running(folder, **settings):
    """A server of one's own, which must end well; its log is a pipe that nobody reads meanwhile."""
    server = Server(folder, **QUIET, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
    assert server.process.returncode == 0


@pytest.fixture(scope="module")
def serving(packaged):
    """A server of a model that tests share."""
    servers = {}

    def serve(name):
        if name not in servers:
            servers[name] = Server(packaged(name), **QUIET)
        return servers[name]

    yield serve
    # All at once: each waits for a moment in which nothing comes.
    for server in servers.values():
        server.process.send_signal(signal.SIGTERM)
    for server in servers.values():
        server.process.communicate(timeout=20)
    assert {name: server.process.returncode for name, server in servers.items()} == dict.fromkeys(servers, 0)


def memory(server, line="VmRSS"):
    """Bytes of memory in use; the most there ever were with VmHWM."""
    for field in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if field.startswith(line + ":"):
            return int(field.split()[1]) << 10
    raise AssertionError(f"no {line}")


def metrics(server):
    text = urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10).read().decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def post(server, model, body, headers=None, timeout=20):
    """Status, body as JSON, headers, and the seconds it took."""
    began = time.monotonic()
    url = f"http://{server.address}/v2/models/{model}/infer"
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer), answer.headers, time.monotonic() - began
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers, time.monotonic() - began


def infer_body(*inputs, **more):
    keys = ["name", "shape", "datatype", "data"]
    return json.dumps({"inputs": [dict(zip(keys, one)) for one in inputs], **more}).encode()


def at_once(count, work):
    """Runs `work(number)` in so many threads that begin together; what each returned."""
    barrier = threading.Barrier(count)
    results = [None] * count

    def run(number):
        barrier.wait()
        try:
            results[number] = work(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


# ---------------------------------------------------------------- tensors


def nans(kind, bits):
    """One quiet NaN with bits of its own."""
    return np.array([bits], {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(kind).itemsize]).view(kind)[0]


def integers(kind):
    return [np.iinfo(kind).min, np.iinfo(kind).max, 0, 1]


def floats(kind):
    of = np.finfo(kind)
    return [-0.0, of.max, of.min, of.smallest_subnormal, kind(1) / kind(3), of.tiny]


INTEGERS = {
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
}
FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
TEXTS = ["", "zw\u00f6lf", "a\0b", "\U0001f9ea", "quote \" backslash \\ line\n", "x" * 300]
# What JSON can hold.
VALUES = {"BOOL": np.array([True, False, False, True]).reshape(-1, 2)}
VALUES |= {name: np.array(integers(kind), kind).reshape(-1, 2) for name, kind in INTEGERS.items()}
VALUES |= {name: np.array(floats(kind), kind).reshape(-1, 2) for name, kind in FLOATS.items()}
VALUES["BYTES"] = np.array([text.encode() for text in TEXTS], np.object_).reshape(-1, 2)
# What it cannot.
NOT_FINITE = {
    "FP16": np.array([np.nan, np.inf, -np.inf, nans(np.float16, 0xFE05)], np.float16).reshape(-1, 2),
    "FP32": np.array([np.nan, np.inf, -np.inf, nans(np.float32, 0xFFC0_1234)], np.float32).reshape(-1, 2),
    "FP64": np.array([np.nan, np.inf, -np.inf, nans(np.float64, 0x7FF8_0000_DEAD_BEEF)]).reshape(-1, 2),
}
FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}


def bits(array):
    """What must be the same for two tensors to be the same."""
    if array.dtype == np.object_:
        elements = [one.encode() if isinstance(one, str) else bytes(one) for one in array.flatten()]
        return array.shape, "object", elements
    return array.shape, str(array.dtype), array.tobytes()


def given(module, name, datatype, array, binary=True):
    one = module.InferInput(name, list(array.shape), datatype)
    if module is th:
        one.set_data_from_numpy(array, binary_data=binary)
    else:
        one.set_data_from_numpy(array)
    return one


def typed(model, *inputs, **more):
    """A gRPC message with elements in the fields of their types: (name, datatype, array) each."""
    request = service_pb2.ModelInferRequest(model_name=model, **more)
    for name, datatype, array in inputs:
        one = request.inputs.add(name=name, datatype=datatype, shape=list(array.shape))
        getattr(one.contents, FIELDS[datatype]).extend(array.flatten().tolist())
    return request


@contextlib.contextmanager
def stub(server):
    with grpclib.insecure_channel(server.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refused_over_grpc(call, code, says):
    with pytest.raises(grpclib.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value
    assert says in caught.value.details(), caught.value.details()


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_comes_back_as_it_went(datatype, serving):
    name = f"same_{datatype.lower()}"
    server = serving(name)
    tensors = [(VALUES[datatype], True)]
    if datatype in NOT_FINITE:
        tensors.append((NOT_FINITE[datatype], False))
    with th.InferenceServerClient(server.address) as http, tg.InferenceServerClient(server.address) as grpc:
        metadata = http.get_model_metadata(name)
        assert metadata["inputs"] == [{"name": "x", "datatype": datatype, "shape": [-1, 2]}]
        assert metadata["outputs"] == [{"name": "x_out", "datatype": datatype, "shape": [-1, 2]}]
        for tensor, in_json in tensors:
            wanted = bits(tensor)
            for sent, asked in [(True, True), (True, False), (False, True), (False, False)]:
                # tritonclient sends no FP16 in JSON.
                if not (sent and asked) and not in_json or not sent and datatype == "FP16":
                    continue
                outputs = [th.InferRequestedOutput("x_out", binary_data=asked)]
                answer = http.infer(name, [given(th, "x", datatype, tensor, sent)], outputs=outputs)
                assert answer.get_output("x_out")["datatype"] == datatype
                assert ("data" in answer.get_output("x_out")) is not asked
                assert bits(answer.as_numpy("x_out")) == wanted, (sent, asked)
            answer = grpc.infer(name, [given(tg, "x", datatype, tensor)])
            assert answer.get_output("x_out").datatype == datatype
            assert bits(answer.as_numpy("x_out")) == wanted


@pytest.mark.parametrize("datatype", FIELDS)
def test_elements_in_the_fields_of_their_types_are_those_of_raw_contents(datatype, serving):
    name = f"same_{datatype.lower()}"
    tensors = [tensors[datatype] for tensors in [VALUES, NOT_FINITE] if datatype in tensors]
    with stub(serving(name)) as service:
        for tensor in tensors:
            answer = service.ModelInfer(typed(name, ("x", datatype, tensor)), timeout=10)
            got = tg.InferResult(answer).as_numpy("x_out")
            if tensor is NOT_FINITE.get(datatype):
                # On the way through Python's floats a NaN may lose its bits.
                assert got.dtype == tensor.dtype
                np.testing.assert_array_equal(got, tensor)
            else:
                assert bits(got) == bits(tensor)


def test_elements_in_fields_that_do_not_fit_are_refused(serving):
    too_large = {"UINT8": 256, "UINT16": 65536, "INT8": 128, "INT16": -32769}
    bad = grpclib.StatusCode.INVALID_ARGUMENT
    for datatype, value in too_large.items():
        name = f"same_{datatype.lower()}"
        with stub(serving(name)) as service:
            request = typed(name, ("x", datatype, np.array([[value, 0]])))
            refused_over_grpc(lambda: service.ModelInfer(request), bad, f"{value} is no {datatype}")
    name = "same_fp16"
    with stub(serving(name)) as service:
        request = service_pb2.ModelInferRequest(model_name=name)
        request.inputs.add(name="x", datatype="FP16", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
        refused_over_grpc(lambda: service.ModelInfer(request), bad, "raw_input_contents only")
    name = "same_int64"
    with stub(serving(name)) as service:
        wrong_field = service_pb2.ModelInferRequest(model_name=name)
        wrong_field.inputs.add(name="x", datatype="INT64", shape=[1, 2]).contents.int_contents.extend([1, 2])
        refused_over_grpc(lambda: service.ModelInfer(wrong_field), bad, "0 elements")
        both = typed(name, ("x", "INT64", np.array([[1, 2]])))
        both.raw_input_contents.append(bytes(16))
        refused_over_grpc(lambda: service.ModelInfer(both), bad, "use one of both")
        short = typed(name, ("x", "INT64", np.array([[1, 2]])))
        short.inputs[0].shape[:] = [2, 2]
        refused_over_grpc(lambda: service.ModelInfer(short), bad, "2 elements")
        raw = service_pb2.ModelInferRequest(model_name=name, raw_input_contents=[bytes(15)])
        raw.inputs.add(name="x", datatype="INT64", shape=[1, 2])
        refused_over_grpc(lambda: service.ModelInfer(raw), bad, "15 bytes")
        nothing = service_pb2.ModelInferRequest(model_name=name)
        nothing.inputs.add(name="x", datatype="INT64", shape=[1, 2])
        refused_over_grpc(lambda: service.ModelInfer(nothing), bad, "has no data")


def test_numbers_json_cannot_hold_are_an_error_and_no_null(serving):
    server = serving("same_fp32")
    with th.InferenceServerClient(server.address) as client:
        outputs = [th.InferRequestedOutput("x_out", binary_data=False)]
        for tensor in [NOT_FINITE["FP32"], np.array([[0, np.inf]], np.float32)]:
            with pytest.raises(InferenceServerException, match="not a finite number"):
                client.infer("same_fp32", [given(th, "x", "FP32", tensor)], outputs=outputs)
    for data in ["[NaN, 1]", "[1e39, 1]", "[1, null]", "[\"1\", 1]", "[true, 1]", "[1, 2, 3]", "[1]", "[[1], [2]]", "1", "{}"]:
        body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": %s}]}' % data.encode()
        status, answer, _, _ = post(server, "same_fp32", body)
        assert status == 400 and answer["error"], (data, answer)


def test_integers_beyond_their_type_are_refused_in_json(serving):
    for datatype, kind in INTEGERS.items():
        name = f"same_{datatype.lower()}"
        for value in [np.iinfo(kind).max + 1, np.iinfo(kind).min - 1]:
            status, answer, _, _ = post(serving(name), name, infer_body(("x", [1, 2], datatype, [int(value), 0])))
            assert status == 400 and "is not a" in answer["error"], (datatype, value, answer)
        status, answer, _, _ = post(serving(name), name, infer_body(("x", [1, 2], datatype, [0.5, 0])))
        assert status == 400 and "is not a" in answer["error"], (datatype, answer)


def test_texts_that_are_no_utf_8_or_lie_of_their_length_are_refused(serving):
    server = serving("same_bytes")
    with th.InferenceServerClient(server.address) as http, tg.InferenceServerClient(server.address) as grpc:
        array = np.array([[b"\xff\xfe", b"ok"]], np.object_)
        for module, client in [(th, http), (tg, grpc)]:
            with pytest.raises(InferenceServerException, match="not UTF-8"):
                client.infer("same_bytes", [given(module, "x", "BYTES", array)])
    for raw in [b"\xff\xff\xff\xff", b"\x01\0\0\0a\x05\0\0\0bcd", b"\x01\0\0\0a", b"\x01\0\0\0a\x01\0\0\0b\0"]:
        tensor = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [tensor]}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        status, answer, _, _ = post(server, "same_bytes", head + raw, length)
        assert status == 400 and "BYTES" in answer["error"], (raw, answer)


def test_scalars_are_tensors_of_no_dimension(serving):
    server = serving("same_scalar")
    x, n = np.array(-1.5, np.float32), np.array(-(2**63), np.int64)
    with th.InferenceServerClient(server.address) as http, tg.InferenceServerClient(server.address) as grpc:
        assert [one["shape"] for one in http.get_model_metadata("same_scalar")["inputs"]] == [[], []]
        answers = []
        for binary in [True, False]:
            inputs = [given(th, "x", "FP32", x, binary), given(th, "n", "INT64", n, binary)]
            outputs = [th.InferRequestedOutput(name, binary_data=binary) for name in ["x_out", "n_out"]]
            answers.append(http.infer("same_scalar", inputs, outputs=outputs))
        answers.append(grpc.infer("same_scalar", [given(tg, "x", "FP32", x), given(tg, "n", "INT64", n)]))
        with stub(server) as service:
            request = typed("same_scalar", ("x", "FP32", x), ("n", "INT64", n))
            answers.append(tg.InferResult(service.ModelInfer(request)))
        for answer in answers:
            assert bits(answer.as_numpy("x_out")) == bits(x) and bits(answer.as_numpy("n_out")) == bits(n)
        for module, client in [(th, http), (tg, grpc)]:
            inputs = [given(module, "x", "FP32", x.reshape(1)), given(module, "n", "INT64", n)]
            with pytest.raises(InferenceServerException, match="the model takes"):
                client.infer("same_scalar", inputs)


def test_shapes_that_cannot_be_are_refused(serving):
    server = serving("same_ranks")
    y = ("y", [3], "FP32", [1, 2, 3])
    huge = 2**63 - 1
    shapes = [
        ([0, 3, 2, 1], "1 or more"), ([1, 0, 2, 0], "1 or more"), ([1, 3, 0, 1], "the model takes"),
        ([1, 3, 2], "the model takes"), ([1, 3, 2, 1, 1], "the model takes"), ([], "the model takes"),
        ([-1, 3, 2, 1], "the model takes"), ([3, 1, 2, 1], "in this request"), ([1, 3, 3, 1], "the model takes"),
        # Of these the products overflow 64 bits, some to what the data has.
        ([2**32, 3, 2, 2**32], "elements"), ([huge, 3, 2, huge], "elements"), ([2**62, 3, 2, 2], "elements"),
        ([2**24, 3, 2, 1], "elements"), ([2**64, 3, 2, 1], ""), ([1.0, 3, 2, 1], ""), (["1", 3, 2, 1], ""), (6, ""),
    ]
    for shape, says in shapes:
        status, answer, _, _ = post(server, "same_ranks", infer_body(("x", shape, "FP32", [1, 2, 3, 4, 5, 6]), y))
        assert status == 400 and says in answer["error"] and answer["error"], (shape, answer)
        if not says:
            continue
        with stub(server) as service:
            request = service_pb2.ModelInferRequest(model_name="same_ranks", raw_input_contents=[bytes(24), bytes(12)])
            request.inputs.add(name="x", datatype="FP32", shape=shape)
            request.inputs.add(name="y", datatype="FP32", shape=[3])
            refused_over_grpc(lambda: service.ModelInfer(request), grpclib.StatusCode.INVALID_ARGUMENT, says)
    empty = np.zeros((0, 2), np.float32)
    server = serving("same_fp32")
    with th.InferenceServerClient(server.address) as http, tg.InferenceServerClient(server.address) as grpc:
        for module, client, binary in [(th, http, True), (th, http, False), (tg, grpc, True)]:
            with pytest.raises(InferenceServerException, match="1 or more"):
                client.infer("same_fp32", [given(module, "x", "FP32", empty, binary)])
        # It did no harm.
        some = np.ones((2, 2), np.float32)
        assert (http.infer("same_fp32", [given(th, "x", "FP32", some)]).as_numpy("x_out") == some).all()


def rows_of(array):
    return array[:2]


@pytest.mark.parametrize("module", [th, tg])
def test_inputs_may_come_in_any_order_but_each_just_once(module, serving):
    server = serving("same_all")
    names = [datatype.lower() for datatype in VALUES]

    def inputs(order, binary=lambda name: True):
        return [given(module, name, name.upper(), rows_of(VALUES[name.upper()]), binary(name)) for name in order]

    with module.InferenceServerClient(server.address) as client:
        ways = [lambda name: True]
        if module is th:
            # Some in JSON and some as bytes, and nothing as bytes but what JSON cannot hold.
            ways += [lambda name: len(name) % 2 == 0, lambda name: name == "fp16"]
        for order in [names, names[::-1], names[5:] + names[:5]]:
            for binary in ways:
                answer = client.infer("same_all", inputs(order, binary))
                for name in names:
                    assert bits(answer.as_numpy(f"{name}_out")) == bits(rows_of(VALUES[name.upper()])), name
        wanted = ["uint64_out", "bytes_out", "bool_out"]
        answer = client.infer("same_all", inputs(names), outputs=[module.InferRequestedOutput(one) for one in wanted])
        answer = answer.get_response(as_json=True) if module is tg else answer.get_response()
        assert [output["name"] for output in answer["outputs"]] == wanted
        table = [
            (names[1:], "`bool` is missing"), ([], "`bool` is missing"), (names + ["int8"], "`int8` is given twice"),
            (names[:1] + names, "`bool` is given twice"),
        ]
        for order, says in table:
            with pytest.raises(InferenceServerException, match=says) as caught:
                client.infer("same_all", inputs(order))
            assert caught.value.status() in ["400", "StatusCode.INVALID_ARGUMENT"]
        extra = given(module, "more", "INT8", rows_of(VALUES["INT8"]))
        with pytest.raises(InferenceServerException, match="no input `more`"):
            client.infer("same_all", inputs(names) + [extra])
        other = [given(module, "bool", "UINT8", np.ones((2, 2), np.uint8))] + inputs(names[1:])
        with pytest.raises(InferenceServerException, match="has datatype UINT8, the model takes BOOL"):
            client.infer("same_all", other)
        with pytest.raises(InferenceServerException, match="asked for twice"):
            client.infer("same_all", inputs(names), outputs=[module.InferRequestedOutput("bool_out")] * 2)
        longer = inputs(names[:-1]) + [given(module, "bytes", "BYTES", VALUES["BYTES"])]
        with pytest.raises(InferenceServerException, match="`n` is 2 in this request already"):
            client.infer("same_all", longer)


def test_all_types_in_their_fields_of_one_message(serving):
    names = list(FIELDS)
    with stub(serving("same_all")) as service:
        request = typed("same_all", *[(one.lower(), one, rows_of(VALUES[one])) for one in reversed(names)])
        request.inputs.add(name="fp16", datatype="FP16", shape=[2, 2])
        refused_over_grpc(
            lambda: service.ModelInfer(request), grpclib.StatusCode.INVALID_ARGUMENT, "`fp16` has no data",
        )
        # As the protocol wants it, FP16 takes all others along into raw contents.
        del request.inputs[-1]
        for one in request.inputs:
            one.ClearField("contents")
        sent = {}
        for one in [*reversed(names), "FP16"]:
            sent[one] = rows_of(VALUES[one])
            raw = sent[one].tobytes() if one != "BYTES" else b"".join(
                len(text).to_bytes(4, "little") + text for text in sent[one].flatten()
            )
            request.raw_input_contents.append(raw)
        request.inputs.add(name="fp16", datatype="FP16", shape=[2, 2])
        answer = tg.InferResult(service.ModelInfer(request))
        for one, array in sent.items():
            assert bits(answer.as_numpy(f"{one.lower()}_out")) == bits(array), one
        del request.raw_input_contents[-1]
        refused_over_grpc(
            lambda: service.ModelInfer(request), grpclib.StatusCode.INVALID_ARGUMENT, "12 raw_input_contents",
        )


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("module", [th, tg])
def test_a_version_in_the_path_is_this_models_or_unknown(module, packaged):
    with running(packaged("same_fp32"), K_REVISION="digits-00007-abc") as server:
        with module.InferenceServerClient(server.address) as client:
            some = np.ones((2, 2), np.float32)
            inputs = [given(module, "x", "FP32", some)]
            for version in ["digits-00007-abc", ""]:
                metadata = client.get_model_metadata("same_fp32", version)
                versions = metadata["versions"] if module is th else list(metadata.versions)
                assert versions == ["digits-00007-abc"]
                assert client.is_model_ready("same_fp32", version)
                answer = client.infer("same_fp32", inputs, model_version=version)
                assert (answer.as_numpy("x_out") == some).all()
                answer = answer.get_response()
                told = answer["model_version"] if module is th else answer.model_version
                assert told == "digits-00007-abc"
            for name, version in [("same_fp32", "1"), ("same_fp32", "digits-00007"), ("same", ""), ("other", "1")]:
                calls = [
                    lambda: client.get_model_metadata(name, version),
                    lambda: client.infer(name, inputs, model_version=version),
                ]
                for call in calls:
                    with pytest.raises(InferenceServerException, match="this is") as caught:
                        call()
                    assert caught.value.status() in ["404", "StatusCode.NOT_FOUND"]
                assert not client.is_model_ready(name, version)


TRITONS_OWN = {
    "get_inference_statistics": ["same_fp32"],
    "get_model_repository_index": [],
    "load_model": ["same_fp32"],
    "unload_model": ["same_fp32"],
    "get_model_config": ["same_fp32"],
    "get_trace_settings": [],
    "update_trace_settings": ["same_fp32", {"trace_level": ["OFF"]}],
    "get_log_settings": [],
    "update_log_settings": [{"log_info": True}],
    "get_system_shared_memory_status": [],
    "register_system_shared_memory": ["region", "/key", 64],
    "unregister_system_shared_memory": ["region"],
    "get_cuda_shared_memory_status": [],
    "unregister_cuda_shared_memory": ["region"],
}


@pytest.mark.parametrize("module", [th, tg])
def test_what_only_triton_offers_is_cleanly_refused(module, serving):
    server = serving("same_fp32")
    some = np.ones((1, 2), np.float32)
    with module.InferenceServerClient(server.address) as client:
        for method, arguments in TRITONS_OWN.items():
            with pytest.raises(InferenceServerException) as caught:
                getattr(client, method)(*arguments)
            error = caught.value
            assert error.status() in ["404", "405", "StatusCode.UNIMPLEMENTED"], (method, error.status())
            # The client says so where the body is no JSON with `error`.
            assert error.message() and "decoding the response" not in error.message(), (method, error)
        # Tensors in memory that is not shared.
        shared = module.InferInput("x", [1, 2], "FP32")
        shared.set_shared_memory("region", 8)
        with pytest.raises(InferenceServerException, match="has no data") as caught:
            client.infer("same_fp32", [shared])
        assert caught.value.status() in ["400", "StatusCode.INVALID_ARGUMENT"]
        answer = client.infer("same_fp32", [given(module, "x", "FP32", some)])
        assert (answer.as_numpy("x_out") == some).all()


@pytest.mark.parametrize("module", [th, tg])
def test_parameters_that_mean_nothing_here_are_left_alone(module, serving):
    server = serving("same_fp32")
    some = np.ones((1, 2), np.float32)
    more = {"parameters": {"text": "a", "whole": 5, "yes": True}, "sequence_id": 7, "sequence_start": True}
    with module.InferenceServerClient(server.address) as client:
        answer = client.infer("same_fp32", [given(module, "x", "FP32", some)], priority=3, timeout=5_000_000, **more)
        assert (answer.as_numpy("x_out") == some).all()


def test_an_answer_that_needs_no_body_is_read_by_who_still_sends_one(serving):
    server = serving("same_fp32")
    table = [
        ("/v2/models/nobody/infer", 4 * MIB, 404), ("/v2/models/same_fp32/versions/9/infer", 30 * MIB, 404),
        ("/v2", 4 * MIB, 405), ("/v2/models/same_fp32/infer", 48 * MIB, 413),
    ]
    for path, size, status in table:
        # As urllib and requests do, it reads no answer before all is sent.
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", path, bytes(size))
        answer = connection.getresponse()
        assert answer.status == status and json.loads(answer.read())["error"], (path, size)
        connection.close()


def test_a_method_that_is_not_allowed_is_told_which_are(serving):
    server = serving("same_fp32")
    infer = "/v2/models/same_fp32/infer"
    for method, path, allowed in [("POST", "/v2", "GET"), ("DELETE", "/v2/health/live", "GET"), ("GET", infer, "POST")]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request(method, path)
        answer = connection.getresponse()
        assert answer.status == 405 and json.loads(answer.read())["error"]
        assert allowed in answer.headers.get("allow", ""), (method, path)
        connection.close()


def test_a_grpc_stream_is_cleanly_refused(serving):
    server = serving("same_fp32")
    some = np.ones((1, 2), np.float32)
    told, came = [], threading.Event()

    def tell(result, error):
        told.append((result, error))
        came.set()

    with tg.InferenceServerClient(server.address) as client:
        client.start_stream(tell)
        # The client takes no more once it knows.
        with contextlib.suppress(InferenceServerException):
            client.async_stream_infer("same_fp32", [given(tg, "x", "FP32", some)])
        assert came.wait(10)
        client.stop_stream()
        result, error = told[0]
        assert result is None and error.status() == "StatusCode.UNIMPLEMENTED", error
        assert (client.infer("same_fp32", [given(tg, "x", "FP32", some)]).as_numpy("x_out") == some).all()


KSERVE = """
import asyncio, base64, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

address, model, path = sys.argv[1:]
tensors = {name: np.load(file) if datatype != "BYTES" else np.array(file, np.object_).reshape(-1, 2)
           for name, datatype, file in json.load(open(path))}
types = {name: datatype for name, datatype, _ in json.load(open(path))}

def request(binary, outputs=None, parameters=None):
    inputs = []
    for name, tensor in tensors.items():
        given = InferInput(name, list(tensor.shape), types[name])
        given.set_data_from_numpy(tensor, binary_data=binary or types[name] == "FP16")
        inputs.append(given)
    return InferRequest(model_name=model, infer_inputs=inputs, request_id="k-2", request_outputs=outputs, parameters=parameters)

def shown(answer):
    assert (answer.id, answer.model_name) == ("k-2", model), vars(answer)
    told = {}
    for output in answer.outputs:
        array = output.as_numpy()
        texts = [one.decode() if isinstance(one, bytes) else one for one in array.flatten()] if array.dtype == object else None
        bits = texts if texts is not None else base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        told[output.name] = [output.datatype, list(array.shape), bits]
    return told

async def rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    all_binary = [RequestedOutput(f"{name}_out", {"binary_data": True}) for name in tensors]
    got = {
        "bytes in, JSON out": request(True),
        "bytes in, bytes out": request(True, parameters={"binary_data_output": True}),
        "JSON in, bytes out": request(False, outputs=all_binary),
    }
    got = {what: shown(await client.infer(f"http://{address}", asked, model_name=model)) for what, asked in got.items()}
    await client.close()
    return got

async def grpc():
    client = InferenceGRPCClient(address)
    answer = await client.infer(request(True))
    assert answer.model_version == "1"
    await client.close()
    return {"grpc": shown(answer)}

print(json.dumps(asyncio.run(rest()) | asyncio.run(grpc())))
"""


def test_kserves_client_sends_and_reads_every_datatype_as_bytes(serving, tmp_path):
    server = serving("same_all")
    tensors = []
    for datatype, values in VALUES.items():
        file = [text.decode() for text in rows_of(values).flatten()] if datatype == "BYTES" else str(tmp_path / f"{datatype}.npy")
        if datatype != "BYTES":
            np.save(file, rows_of(values))
        tensors.append((datatype.lower(), datatype, file))
    (tmp_path / "tensors.json").write_text(json.dumps(tensors), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", KSERVE, server.address, "same_all", tmp_path / "tensors.json"],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == 4
    for what, answer in answers.items():
        for datatype, values in VALUES.items():
            array = rows_of(values)
            shown = [text.decode() for text in array.flatten()] if datatype == "BYTES" \
                else base64.b64encode(array.tobytes()).decode()
            assert answer[f"{datatype.lower()}_out"] == [datatype, [2, 2], shown], (what, datatype)


# ---------------------------------------------------------------- batches


def ask_rows(connection, model, datatype, array):
    body = infer_body((model[1], list(array.shape), datatype, array.flatten().tolist()))
    connection.request("POST", f"/v2/models/{model[0]}/infer", body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def runs_and_requests(server, work):
    """How often the model ran meanwhile, and for how many requests."""
    before = metrics(server)
    work()
    after = metrics(server)
    names = ["slsml_runs_total", "slsml_run_requests_total"]
    return [after[name] - before[name] for name in names]


def together(server, work, rounds=40):
    """Does so until most requests ran together with others; fails if they never do."""
    for _ in range(rounds):
        runs, requests = runs_and_requests(server, work)
        if runs < 0.7 * requests:
            return
    pytest.fail(f"nothing ran together, so nothing was shown: {runs} runs of {requests} requests")


def test_a_request_that_fails_has_no_others_of_its_batch_fail(packaged):
    inspected = subprocess.run(
        [helpers.slsml_executable(), "inspect", MODELS / "lookup_rows.onnx"], capture_output=True, text=True, check=True,
    )
    assert "requests that wait together run together" in inspected.stdout
    table = np.arange(30, dtype=np.float32).reshape(10, 3)
    clients = 8
    with running(packaged("lookup_rows"), SLSML_BATCH_DELAY_MS="20", SLSML_THREADS="1") as server:
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(clients)]
        with stub(server) as service:
            def one(number, indices):
                indices = np.array(indices)
                if number % 2:
                    return ask_rows(connections[number], ("lookup_rows", "index"), "INT64", indices)
                try:
                    answer = service.ModelInfer(typed("lookup_rows", ("index", "INT64", indices)), timeout=20)
                except grpclib.RpcError as error:
                    return error.code(), {"error": error.details()}
                return 200, {"outputs": [{"data": tg.InferResult(answer).as_numpy("y").flatten().tolist()}]}

            def round_of(which_fails, count, rows=lambda number: 1):
                wanted = [[(number + count + at) % 10 for at in range(rows(number))] for number in range(clients)]
                asked = [list(indices) for indices in wanted]
                if which_fails is not None:
                    asked[which_fails][-1] = [10, 99, -11, 2**40][count % 4]
                answers = at_once(clients, lambda number: one(number, asked[number]))
                for number, (status, answer) in enumerate(answers):
                    if number == which_fails:
                        assert status in [400, 500, grpclib.StatusCode.INVALID_ARGUMENT, grpclib.StatusCode.INTERNAL]
                        assert answer["error"], answer
                    else:
                        assert status == 200, (which_fails, asked, number, answer)
                        assert answer["outputs"][0]["data"] == table[wanted[number]].flatten().tolist()

            # At first what runs together is compared with what runs alone; later it is trusted.
            for count in range(clients):
                round_of(count, count, rows=lambda number: 1 + (count + number) % 3)
            together(server, lambda: round_of(None, 0))
            for count in range(24):
                round_of(count % clients, count)
            # And still is, though others failed.
            together(server, lambda: round_of(None, 1), rounds=1)
        for connection in connections:
            connection.close()


def test_a_request_that_fails_has_no_others_fail_that_are_read_at_the_same_moment(packaged):
    table = np.arange(30, dtype=np.float32).reshape(10, 3)
    with running(packaged("lookup_rows"), SLSML_THREADS="2") as server, stub(server) as service:
        for count in range(40):
            fails = {count, 63 - count} if count % 2 else set()
            pending = []
            for number in range(64):
                index = np.array([77 if number in fails else number % 10])
                pending.append(service.ModelInfer.future(typed("lookup_rows", ("index", "INT64", index)), timeout=20))
            for number, call in enumerate(pending):
                if number in fails:
                    assert call.exception().code() == grpclib.StatusCode.INTERNAL, call.exception()
                else:
                    got = tg.InferResult(call.result()).as_numpy("y")
                    assert (got == table[[number % 10]]).all(), number
        assert metrics(server)["slsml_run_requests_total"] == 40 * 64


def test_no_run_has_more_rows_than_it_may(packaged):
    clients = 12
    # Rows of a request, of a run at most, and how many requests may be in one.
    table = [(1, 4, 4), (2, 4, 2), (2, 5, 2), (3, 4, 1), (4, 4, 1), (9, 4, 1), (1, 1, 1)]
    for rows, most, requests in table:
        settings = {"SLSML_BATCH_SIZE": str(most), "SLSML_BATCH_DELAY_MS": "20", "SLSML_THREADS": "1"}
        with running(packaged("same_fp32"), **settings) as server:
            connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(clients)]

            def one(number):
                array = np.full((rows, 2), number, np.float32)
                status, answer = ask_rows(connections[number], ("same_fp32", "x"), "FP32", array)
                assert status == 200 and answer["outputs"][0]["data"] == array.flatten().tolist(), answer

            # What runs together is trusted after a while.
            if requests > 1:
                together(server, lambda: at_once(clients, one))
            runs, answered = runs_and_requests(server, lambda: [at_once(clients, one) for _ in range(3)])
            assert answered == 3 * clients
            assert runs >= 3 * clients / requests, (rows, most)
            for connection in connections:
                connection.close()


# ---------------------------------------------------------------- too much


SLOW = infer_body(("x", [1, 1, 64], "FP32", [0.5] * 64))


def test_overload_is_answered_with_503_and_the_server_stays_as_it_was(packaged):
    clients, seconds = 32, 3
    with running(packaged("slow"), SLSML_THREADS="1") as server:
        assert post(server, "slow", SLOW)[0] == 200

        def load(until):
            statuses = {}
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            while time.monotonic() < until:
                connection.request("POST", "/v2/models/slow/infer", SLOW)
                answer = connection.getresponse()
                body = json.loads(answer.read())
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                if answer.status == 503:
                    assert int(answer.headers["retry-after"]) >= 1 and body["error"], body
                    assert answer.headers["content-type"] == "application/json"
                else:
                    assert len(body["outputs"][0]["data"]) == 64
            connection.close()
            return statuses

        def all_of(seconds):
            until = time.monotonic() + seconds
            total = {}
            for statuses in at_once(clients, lambda _: load(until)):
                for status, count in statuses.items():
                    total[status] = total.get(status, 0) + count
            return total

        all_of(0.3)
        before = memory(server)
        total = all_of(seconds)
        assert set(total) == {200, 503}, total
        # A run takes ten milliseconds or so: while others are refused, the thread has work.
        assert total[200] > 10 * seconds, total
        assert memory(server, "VmHWM") - before < 64 * MIB
        assert post(server, "slow", SLOW)[0] == 200


def test_overload_over_grpc_is_unavailable(packaged):
    clients = 32
    array = np.full((1, 1, 64), 0.5, np.float32)
    with running(packaged("slow"), SLSML_THREADS="1") as server:
        until = time.monotonic() + 2

        def load(_):
            codes = {}
            with tg.InferenceServerClient(server.address) as client:
                while time.monotonic() < until:
                    try:
                        answer = client.infer("slow", [given(tg, "x", "FP32", array)], client_timeout=20)
                        assert answer.as_numpy("y").shape == (1, 1, 64)
                        code = "OK"
                    except InferenceServerException as error:
                        code = error.status()
                        assert "try again" in error.message(), error
                    codes[code] = codes.get(code, 0) + 1
            return codes

        total = {}
        for codes in at_once(clients, load):
            for code, count in codes.items():
                total[code] = total.get(code, 0) + count
        assert set(total) == {"OK", "StatusCode.UNAVAILABLE"}, total
        with tg.InferenceServerClient(server.address) as client:
            assert client.infer("slow", [given(tg, "x", "FP32", array)]).as_numpy("y").shape == (1, 1, 64)


class Call:
    """A gRPC call whose bytes are sent as one likes."""

    def __init__(self, server, method="ModelInfer", **headers):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.headers, self.ended, self.reset = {}, False, None
        asked = {
            ":method": "POST", ":scheme": "http", ":path": f"/inference.GRPCInferenceService/{method}",
            ":authority": server.address, "content-type": "application/grpc", "te": "trailers",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        self.http.send_headers(1, list(asked.items()))
        self.flush()

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def read(self, seconds):
        """What has come within so many seconds, if anything."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return
        data = self.socket.recv(1 << 16)
        if not data:
            self.ended = True
            return
        for event in self.http.receive_data(data):
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                self.headers |= dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.http.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
            elif isinstance(event, h2.events.StreamReset):
                self.reset = event.error_code
        self.flush()

    def send(self, data, seconds=20):
        """Sends as the server lets it; stops where it has ended the call."""
        end, data = time.monotonic() + seconds, memoryview(data)
        while data and not self.ended and self.reset is None:
            self.read(0)
            if self.ended or self.reset is not None:
                return
            size = min(self.http.local_flow_control_window(1), self.http.max_outbound_frame_size, len(data))
            if size == 0:
                assert time.monotonic() < end, "the server takes no more"
                self.read(0.05)
                continue
            self.http.send_data(1, bytes(data[:size]))
            self.flush()
            data = data[size:]

    def finish(self):
        if not self.ended and self.reset is None:
            self.http.end_stream(1)
            self.flush()

    def status(self, seconds=20):
        """What it ended with."""
        end = time.monotonic() + seconds
        while not self.ended and self.reset is None:
            assert time.monotonic() < end, "no answer"
            self.read(0.1)
        assert "grpc-status" in self.headers, (self.headers, self.reset)
        codes = {code.value[0]: code for code in grpclib.StatusCode}
        return codes[int(self.headers["grpc-status"])]

    def close(self):
        self.socket.close()


def framed(message, compressed=False):
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


LARGE = 30 * MIB
BUDGET = 128 * MIB

# What threads work on takes more while they do: tensors beside the bytes they are read from, and tract's beside them.
WORKED_ON = 8 * LARGE


def first_answers(server):
    """Whether a small request is answered, and how."""
    status, answer, headers, _ = post(server, "first", infer_body(("x", [1], "FP64", [7])))
    assert status in [200, 503], answer
    if status == 503:
        assert headers["retry-after"] and answer["error"]
    return status


def all_halfway(server, clients, begin, end):
    """What `end` returns for each client, once `begin` was done for all of them: memory is bounded all the time, and
    others are answered meanwhile and soon after."""
    assert first_answers(server) == 200
    before = memory(server)
    halfway = threading.Barrier(clients + 1)
    meanwhile = []

    def one(number):
        try:
            begin(number)
        finally:
            halfway.wait(60)
            halfway.wait(60)
        return end(number)

    def watch():
        halfway.wait(60)
        meanwhile.append(memory(server, "VmHWM") - before)
        meanwhile.append(first_answers(server))
        halfway.wait(60)

    ends = at_once(clients + 1, lambda number: watch() if number == clients else one(number))[:clients]
    waiting, grown = meanwhile[0], memory(server, "VmHWM") - before
    assert waiting < BUDGET + 64 * MIB and grown < BUDGET + WORKED_ON, (waiting // MIB, grown // MIB, ends)
    helpers.eventually(lambda: first_answers(server), until=lambda status: status == 200, seconds=5)
    return ends


def test_many_large_bodies_at_once_take_no_more_memory_than_all_may(packaged):
    tensor = {"name": "x", "shape": [LARGE // 8], "datatype": "FP64", "parameters": {"binary_data_size": LARGE}}
    json_head = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST /v2/models/first/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(json_head) + LARGE}\r\n"
        f"inference-header-content-length: {len(json_head)}\r\n\r\n"
    ).encode() + json_head
    most, rest = bytes(LARGE - MIB), bytes(MIB)
    with running(packaged("first")) as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        sockets = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(40)]

        def end(number):
            sockets[number].sendall(rest)
            answer = http.client.HTTPResponse(sockets[number], method="POST")
            answer.begin()
            body = json.loads(answer.read())
            if answer.status == 503:
                assert answer.headers["retry-after"] and body["error"], body
            else:
                assert answer.status == 200 and body["outputs"][0]["data"] == [0], body
            return answer.status

        statuses = all_halfway(server, len(sockets), lambda number: sockets[number].sendall(head + most), end)
        assert set(statuses) == {200, 503}, statuses


def test_many_large_messages_at_once_take_no_more_memory_than_all_may(packaged):
    request = service_pb2.ModelInferRequest(model_name="first", raw_input_contents=[bytes(LARGE)])
    request.inputs.add(name="x", datatype="FP64", shape=[LARGE // 8])
    message = framed(request.SerializeToString())
    most, rest = message[:-MIB], message[-MIB:]
    with running(packaged("first")) as server, contextlib.ExitStack() as stack:
        calls = [Call(server) for _ in range(40)]
        for call in calls:
            stack.callback(call.close)

        def end(number):
            calls[number].send(rest)
            calls[number].finish()
            return calls[number].status()

        codes = all_halfway(server, len(calls), lambda number: calls[number].send(most, seconds=30), end)
        assert set(codes) == {grpclib.StatusCode.OK, grpclib.StatusCode.UNAVAILABLE}, codes


# ---------------------------------------------------------------- too slow


def test_a_body_that_comes_too_slowly_is_refused_and_its_connection_ends(packaged):
    body = infer_body(("x", [1, 2], "FP32", [1, 2]))
    head = f"POST /v2/models/same_fp32/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body) + 1000}\r\n\r\n".encode()
    with running(packaged("same_fp32"), SLSML_REQUEST_TIMEOUT_S="1") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            began = time.monotonic()
            client.sendall(head + body)
            # A byte now and then until the answer is there.
            while not select.select([client], [], [], 0.05)[0]:
                assert time.monotonic() < began + 10, "it waits for ever"
                client.sendall(b" ")
            took = time.monotonic() - began
            answer = http.client.HTTPResponse(client, method="POST")
            answer.begin()
            told = json.loads(answer.read())
            assert 400 <= answer.status < 500 and "within 1 s" in told["error"], (answer.status, told)
            # It is listened to for some seconds more.
            assert 0.9 < took < 8
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b"", "the connection goes on"
        # Who is slow but in time is answered.
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(head.replace(str(len(body) + 1000).encode(), str(len(body)).encode()))
            for at in range(0, len(body), 8):
                client.sendall(body[at:at + 8])
                time.sleep(0.02)
            answer = http.client.HTTPResponse(client, method="POST")
            answer.begin()
            assert answer.status == 200 and json.loads(answer.read())["outputs"][0]["data"] == [1, 2]


def test_a_grpc_message_that_comes_too_slowly_ends_with_its_deadline(packaged):
    message = framed(typed("same_fp32", ("x", "FP32", np.ones((100, 2), np.float32))).SerializeToString())
    with running(packaged("same_fp32"), SLSML_REQUEST_TIMEOUT_S="1") as server:
        call = Call(server)
        began = time.monotonic()
        for at in range(len(message) - 1):
            call.send(message[at:at + 1])
            call.read(0.05)
            if call.ended or call.reset is not None:
                break
        assert call.status() == grpclib.StatusCode.DEADLINE_EXCEEDED, call.headers
        assert 0.9 < time.monotonic() - began < 4
        assert "within 1 s" in call.headers["grpc-message"].replace("%20", " ")
        call.close()
        in_time = Call(server)
        for at in range(0, len(message), 100):
            in_time.send(message[at:at + 100])
            time.sleep(0.02)
        in_time.finish()
        assert in_time.status() == grpclib.StatusCode.OK, in_time.headers
        in_time.close()


# ---------------------------------------------------------------- bombs


def zeros(size):
    """So many MiB of zeros, as gzip; a flushed block can be repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    begin = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return begin + block * (size - 1) + packer.flush()


def zlib_of(packed):
    """What gzip packed, with the head and the end that HTTP's `deflate` has; nobody comes as far as its checksum."""
    return b"\x78\xda" + packed[10:-8] + bytes(4)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_becomes_too_large_is_refused_before_it_does(coding, packaged):
    bomb = zeros(1024) if coding == "gzip" else zlib_of(zeros(1024))
    small = zeros(33) if coding == "gzip" else zlib.compress(bytes(33 * MIB))
    assert len(small) < 64 << 10 and len(bomb) < 2 * MIB
    with running(packaged("same_fp32")) as server:
        ok = infer_body(("x", [1, 2], "FP32", [1, 2]))
        assert post(server, "same_fp32", ok)[0] == 200
        before = memory(server)
        for body in [small, bomb]:
            status, answer, _, took = post(server, "same_fp32", body, {"Content-Encoding": coding})
            assert status == 413 and "decompressed" in answer["error"], (status, answer)
            assert took < 3
        assert memory(server, "VmHWM") - before < 100 * MIB
        # A whole one after another is one body, too.
        if coding == "gzip":
            parts = gzip.compress(ok[:20]) + gzip.compress(ok[20:])
            assert post(server, "same_fp32", parts, {"Content-Encoding": "gzip"})[0] == 200
            assert post(server, "same_fp32", 2 * gzip.compress(bytes(20 * MIB)), {"Content-Encoding": "gzip"})[0] == 413
        status, answer, _, _ = post(server, "same_fp32", ok, {"Content-Encoding": "gzip, gzip"})
        assert status == 400 and "not known" in answer["error"]


# The first is what gRPC says, the second tonic.
TOO_LARGE = [grpclib.StatusCode.RESOURCE_EXHAUSTED, grpclib.StatusCode.OUT_OF_RANGE]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_grpc_message_that_becomes_too_large_is_refused_before_it_does(coding, packaged):
    bombs = [zeros(size) if coding == "gzip" else zlib_of(zeros(size)) for size in [33, 1024]]
    with running(packaged("same_fp32")) as server:
        assert post(server, "same_fp32", infer_body(("x", [1, 2], "FP32", [1, 2])))[0] == 200
        before = memory(server)
        for bomb in bombs:
            call = Call(server, grpc_encoding=coding)
            began = time.monotonic()
            call.send(framed(bomb, compressed=True))
            call.finish()
            code = call.status()
            assert code in TOO_LARGE, (len(bomb), code, call.headers)
            assert time.monotonic() - began < 3
            call.close()
        assert memory(server, "VmHWM") - before < 100 * MIB
        # Nor is one that says it is large waited for.
        call = Call(server)
        call.send(b"\0" + (1 << 30).to_bytes(4, "big") + bytes(100))
        assert call.status() in TOO_LARGE
        call.close()
        with tg.InferenceServerClient(server.address) as client:
            some = np.ones((1, 2), np.float32)
            for way in ["gzip", "deflate", None]:
                answer = client.infer("same_fp32", [given(tg, "x", "FP32", some)], compression_algorithm=way)
                assert (answer.as_numpy("x_out") == some).all()


def test_arrays_nested_too_deep_are_refused(serving):
    for name in ["same_fp32", "same_bool", "same_bytes"]:
        server, datatype = serving(name), name.removeprefix("same_").upper()
        element = {"FP32": "1", "BOOL": "true", "BYTES": '"a"'}[datatype]
        row = f"[{element}, {element}]"
        x = f'"name":"x","shape":[1,2],"datatype":"{datatype}"'
        assert post(server, name, f'{{"inputs":[{{{x},"data":[{row}]}}]}}'.encode())[0] == 200
        for depth in [2, 3, 127, 128, 1000, 500_000]:
            deep = "[" * depth + row + "]" * depth
            body = f'{{"inputs":[{{{x},"data":{deep}}}]}}'
            status, answer, _, took = post(server, name, body.encode())
            assert status == 400 and answer["error"], (name, depth, answer)
            assert took < 5
        for field in ["parameters", "id", "inputs", "outputs", "nonsense"]:
            deep = '{"a":' * 200_000 + "1" + "}" * 200_000
            body = f'{{"{field}":{deep},"inputs":[{{{x},"data":[{row}]}}]}}'
            status, answer, _, took = post(server, name, body.encode())
            # What nobody reads may be as deep as it likes.
            unread = status == 200 and field in ["parameters", "nonsense"]
            assert unread or status == 400 and answer["error"], (field, status, answer)
            assert took < 5


# ---------------------------------------------------------------- the end


def stop_under_load(packaged, delay, clients, ask):
    """Clients go on asking until they find nobody; then what each saw last, and how the server ended. With a delay
    there is always a request that waits for its answer."""
    server = Server(packaged("same_fp32"), **QUIET, SLSML_DRAIN_S="3", SLSML_BATCH_DELAY_MS=delay)
    answered = [0] * clients
    last = [None] * clients

    def run(number):
        def count():
            answered[number] += 1
        last[number] = ask(server, count)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(clients)]
    try:
        for thread in threads:
            thread.start()
        helpers.eventually(lambda: min(answered), until=lambda least: least >= 20, every=0.005)
        before = sum(answered)
        server.process.send_signal(signal.SIGTERM)
        server.process.communicate(timeout=20)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "a client hangs"
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()
    return last, server.process.returncode, sum(answered) - before


@pytest.mark.parametrize("delay", ["0", "20"])
def test_no_grpc_call_is_lost_when_the_server_is_told_to_stop(delay, packaged):
    some = np.ones((1, 2), np.float32)

    def ask(server, count):
        # A channel of its own for each, with the connection that goes with it.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with tg.InferenceServerClient(server.address, channel_args=alone) as client:
            while True:
                try:
                    answer = client.infer("same_fp32", [given(tg, "x", "FP32", some)], client_timeout=20)
                except InferenceServerException as error:
                    return error.status(), error.message()
                assert (answer.as_numpy("x_out") == some).all()
                count()

    last, code, _ = stop_under_load(packaged, delay, 6, ask)
    nobody = [
        status == "StatusCode.UNAVAILABLE" and ("failed to connect" in message.lower() or "connection refused" in message.lower())
        for status, message in last
    ]
    assert all(nobody) and code == 0, (last, code)


@pytest.mark.parametrize("delay", ["0", "20"])
def test_no_http_request_is_lost_when_the_server_is_told_to_stop(delay, packaged):
    body = infer_body(("x", [1, 2], "FP32", [1, 2]))

    def ask(server, count):
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            try:
                connection.connect()
            except (ConnectionRefusedError, ConnectionResetError):
                # Either way nothing was asked yet.
                return "refused"
            some = False
            try:
                while True:
                    connection.request("POST", "/v2/models/same_fp32/infer", body)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        return f"status {answer.status}"
                    some = True
                    count()
                    if answer.headers.get("connection") == "close":
                        break
            except (OSError, http.client.HTTPException) as error:
                return f"lost, {'after' if some else 'without'} an answer on the same connection: {error!r}"
            finally:
                connection.close()

    last, code, after = stop_under_load(packaged, delay, 6, ask)
    assert set(last) == {"refused"} and code == 0, (last, code)
    assert after > 0
