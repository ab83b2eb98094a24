"""`slsml local` itself: start, stop, crash, restart, and what it says when it cannot."""
import os
import re
import signal
import socket
import uuid

import pytest

import helpers
from helpers import create, create_with_versions, eventually, invoke, processes_with, weights


def lambda_of(cloud):
    return helpers.client(cloud.env(), "lambda")


def said(done):
    return done.stdout + done.stderr


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_env_prints_exports_for_a_shell_and_json_for_programs(own_cloud):
    own_cloud.up()
    env = own_cloud.env()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", env["AWS_ENDPOINT_URL"])
    assert env["AWS_REGION"] == env["AWS_DEFAULT_REGION"] == "us-east-1"
    assert env["AWS_ACCESS_KEY_ID"] and env["AWS_SECRET_ACCESS_KEY"]
    printed = own_cloud.must("env").stdout
    for key, value in env.items():
        assert re.search(rf"^export {key}=['\"]?{re.escape(value)}['\"]?$", printed, re.MULTILINE), printed


def test_status_tells_where_it_runs(own_cloud):
    own_cloud.up()
    status = own_cloud.status()
    assert status["running"] is True
    assert status["endpoint"] == own_cloud.env()["AWS_ENDPOINT_URL"]
    assert os.path.realpath(status["dir"]) == os.path.realpath(own_cloud.directory)
    assert alive(status["pid"])


def test_state_survives_down_and_up(own_cloud):
    own_cloud.up()
    lam = lambda_of(own_cloud)
    create_with_versions(lam, "kept", ["one", "two"], Environment={"Variables": {"AA": "1"}})
    lam.create_alias(
        FunctionName="kept", Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}},
    )
    lam.put_function_concurrency(FunctionName="kept", ReservedConcurrentExecutions=3)
    layer = lam.publish_layer_version(LayerName="words", Content={"ZipFile": helpers.zip_of({"a": b"a"})})
    s3 = helpers.client(own_cloud.env(), "s3")
    s3.create_bucket(Bucket="kept-bucket")
    s3.put_object(Bucket="kept-bucket", Key="a", Body=b"content")
    before = helpers.everything(lam, "kept")
    assert own_cloud.down().returncode == 0
    assert own_cloud.status()["running"] is False

    own_cloud.up()
    lam = lambda_of(own_cloud)
    assert helpers.everything(lam, "kept") == before
    assert weights(lam.get_alias(FunctionName="kept", Name="live")) == {"2": 0.5}
    assert lam.get_layer_version(LayerName="words", VersionNumber=1)["LayerVersionArn"] == layer["LayerVersionArn"]
    for version, marker in (("1", "one"), ("2", "two"), ("$LATEST", "two")):
        assert invoke(lam, "kept", {}, Qualifier=version)[0]["marker"] == marker
    s3 = helpers.client(own_cloud.env(), "s3")
    assert s3.get_object(Bucket="kept-bucket", Key="a")["Body"].read() == b"content"


def test_down_ends_the_cloud_and_every_process_of_its_functions(own_cloud):
    token = uuid.uuid4().hex
    own_cloud.up()
    lam = lambda_of(own_cloud)
    create(lam, "busy", Environment={"Variables": {"TOKEN": token}})
    invoke(lam, "busy", {"do": "pid"})
    assert processes_with(token)
    pid = own_cloud.status()["pid"]
    assert own_cloud.down().returncode == 0
    eventually(lambda: not alive(pid), seconds=10, what="the cloud still runs after down")
    eventually(lambda: not processes_with(token), seconds=10, what="a bootstrap still runs after down")


def test_down_when_nothing_runs_is_no_error(own_cloud):
    assert own_cloud.down().returncode == 0


def test_after_a_kill_the_next_up_recovers_and_no_old_bootstrap_is_left(own_cloud):
    token = uuid.uuid4().hex
    own_cloud.up()
    lam = lambda_of(own_cloud)
    create_with_versions(lam, "survivor", ["one"], Environment={"Variables": {"TOKEN": token}}, Timeout=60)
    lam.create_alias(FunctionName="survivor", Name="live", FunctionVersion="1")
    # One idle process and one in the middle of a request.
    old, _ = invoke(lam, "survivor", {"do": "pid"}, Qualifier="live")
    invoke(lam, "survivor", {"do": "sleep", "s": 50}, InvocationType="Event")
    eventually(lambda: len(processes_with(token)) >= 2)
    before = helpers.everything(lam, "survivor")

    pid = own_cloud.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), seconds=10)
    assert own_cloud.status()["running"] is False, "a dead process is not called running"

    own_cloud.up()
    eventually(lambda: not processes_with(token), seconds=10, what="a bootstrap of the killed cloud is left")
    lam = lambda_of(own_cloud)
    assert helpers.everything(lam, "survivor") == before
    new, answer = invoke(lam, "survivor", {"do": "pid"}, Qualifier="live")
    assert "FunctionError" not in answer
    assert new["process"] != old["process"]


def test_an_update_cut_off_by_a_kill_does_not_stay_in_progress(own_cloud):
    own_cloud.up()
    lam = lambda_of(own_cloud)
    create(lam, "half", "one")
    lam.update_function_code(FunctionName="half", ZipFile=helpers.code_zip("two"))
    os.kill(own_cloud.status()["pid"], signal.SIGKILL)
    own_cloud.up()
    lam = lambda_of(own_cloud)
    helpers.wait_updated(lam, "half")
    marker = invoke(lam, "half", {})[0]["marker"]
    sha256 = lam.get_function_configuration(FunctionName="half")["CodeSha256"]
    assert sha256 == helpers.sha256(helpers.code_zip(marker)), "what runs is what is described"


def test_a_second_up_on_the_same_folder_fails_and_leaves_the_first_alone(own_cloud):
    own_cloud.up()
    status = own_cloud.status()
    done = own_cloud.run("up", "--detach", "--port", "0")
    assert done.returncode != 0
    assert "already" in said(done) and str(own_cloud.directory) in said(done), said(done)
    assert own_cloud.status() == status
    lambda_of(own_cloud).list_functions()


def test_two_clouds_in_two_folders_know_nothing_of_each_other(own_cloud, tmp_path):
    other = helpers.LocalCloud(tmp_path / "other")
    try:
        own_cloud.up()
        other.up()
        create(lambda_of(own_cloud), "mine")
        assert lambda_of(other).list_functions()["Functions"] == []
        other.down()
        assert [item["FunctionName"] for item in lambda_of(own_cloud).list_functions()["Functions"]] == ["mine"]
    finally:
        other.down()


def test_a_port_in_use_is_named_with_the_way_out(own_cloud):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = own_cloud.run("up", "--detach", "--port", str(port))
    assert done.returncode != 0
    assert str(port) in said(done) and "--port" in said(done), said(done)
    assert own_cloud.status()["running"] is False
    own_cloud.up()


def test_up_listens_on_the_port_it_is_given(own_cloud):
    port = helpers.free_port()
    own_cloud.up(port)
    assert own_cloud.env()["AWS_ENDPOINT_URL"] == f"http://127.0.0.1:{port}"


def test_status_when_nothing_runs_is_an_answer_and_no_error(own_cloud):
    done = own_cloud.run("status", "--json")
    assert done.returncode == 0
    assert own_cloud.status() == {"running": False}


def test_env_when_nothing_runs_says_how_to_start_it(own_cloud):
    for arguments in (["env"], ["env", "--json"]):
        done = own_cloud.run(*arguments)
        assert done.returncode == 4
        assert "slsml local up" in said(done), said(done)


@pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="needs Linux's /proc")
def test_it_listens_on_loopback_only(own_cloud):
    own_cloud.up()
    lam = lambda_of(own_cloud)
    create(lam, "any")
    invoke(lam, "any", {})
    addresses = helpers.listening_addresses(own_cloud.status()["pid"])
    assert addresses, "no listening socket found"
    # /proc/net writes addresses as little-endian 32-bit words in hexadecimal.
    loopback = re.compile(r"[0-9A-F]{6}7F|0{24}01000000|0{16}FFFF0000[0-9A-F]{6}7F")
    assert all(loopback.fullmatch(address) for address in addresses), addresses
