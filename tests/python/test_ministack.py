"""The same zip on a Lambda that others wrote.

SLSML_MINISTACK names the ministack executable (requirements-ministack.txt, in a virtual
environment of its own); SLSML_DIGITS_ZIP the zip that `slsml package` made of the example.
"""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess

import pytest

import helpers
from helpers import code_zip, create, eventually, invoke

MINISTACK = os.environ.get("SLSML_MINISTACK")
if not MINISTACK:
    pytest.skip("SLSML_MINISTACK does not name a ministack executable", allow_module_level=True)

REQUESTS = helpers.HERE / ".." / ".." / "examples" / "digits" / "requests.json"


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture(scope="module")
def ministack(tmp_path_factory):
    executable = shutil.which(MINISTACK)
    assert executable, f"SLSML_MINISTACK={MINISTACK} is not an executable file"
    home = tmp_path_factory.mktemp("ministack")
    port = helpers.free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0",
        "HOME": str(home), "TMPDIR": str(home),
    }
    log = home / "ministack.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [executable], env=environment, cwd=home, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )
    try:
        eventually(
            lambda: answers(port) or process.poll() is not None, seconds=60, what="ministack does not listen",
        )
        assert process.poll() is None, log.read_text(errors="replace")
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": helpers.REGION,
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def lam(ministack):
    return helpers.client(ministack, "lambda")


@pytest.fixture
def role(ministack, unique):
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    iam = helpers.client(ministack, "iam")
    created = iam.create_role(RoleName=unique, AssumeRolePolicyDocument=json.dumps(trust))
    yield created["Role"]["Arn"]
    iam.delete_role(RoleName=unique)


def outputs(answer):
    """An Open Inference Protocol answer as name → flat data."""
    return {output["name"]: output["data"] for output in answer["outputs"]}


def flat(value):
    if isinstance(value, list):
        return [item for each in value for item in flat(each)]
    return [value]


def test_the_tests_own_bootstrap_runs_there(lam, role, name):
    create(lam, name, "elsewhere", role=role)
    payload, answer = invoke(lam, name, {"a": 1})
    assert "FunctionError" not in answer
    assert payload == {"marker": "elsewhere", "version": "$LATEST", "event": {"a": 1}}
    told, _ = invoke(lam, name, {"do": "env"})
    assert told["env"]["AWS_LAMBDA_FUNCTION_NAME"] == name
    payload, answer = invoke(lam, name, {"do": "fail"})
    assert answer["FunctionError"] == "Unhandled"
    assert (payload["errorType"], payload["errorMessage"]) == ("Test.Failure", "asked to fail")


def test_the_tests_own_bootstrap_is_published_and_updated_there(lam, role, name):
    assert helpers.code_zip("one") != helpers.code_zip("two") and code_zip("one") == code_zip("one")
    create(lam, name, "one", role=role)
    assert helpers.publish(lam, name) == "1"
    helpers.update_code(lam, name, "two")
    assert helpers.publish(lam, name) == "2"
    assert [invoke(lam, name, {}, Qualifier=version)[0]["marker"] for version in ("1", "2")] == ["one", "two"]


def test_the_digits_zip_answers_there_as_expected(lam, role, name):
    path = os.environ.get("SLSML_DIGITS_ZIP")
    if not path:
        pytest.skip("SLSML_DIGITS_ZIP does not name the packaged example")
    cases = json.loads(REQUESTS.read_text(encoding="utf-8"))
    assert cases
    code = {"ZipFile": pathlib.Path(path).read_bytes()}
    create(lam, name, code=code, role=role, MemorySize=512, Timeout=30)
    for index, case in enumerate(cases):
        answer, told = invoke(lam, name, case["request"])
        assert "FunctionError" not in told, f"request {index}: {answer}"
        seen, expected = outputs(answer), case["expected"]["v1"]
        assert seen["class"] == flat(expected["class"]), f"request {index}"
        assert seen["probabilities"] == pytest.approx(flat(expected["probabilities"]), abs=1e-4), f"request {index}"
