"""The data plane: invokes, function URLs, processes, and the metrics they leave."""
import base64
import collections
import concurrent.futures
import datetime
import json
import os
import re
import time
import urllib.error
import urllib.request

import pytest

from helpers import (
    ACCOUNT, CANARY, REGION, create, create_with_versions, eventually, invoke, publish, refused, update_code, zip_of,
)


def together(count, work):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work, index) for index in range(count)]]


def executed_version(answer):
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-executed-version"] == answer["ExecutedVersion"]
    return answer["ExecutedVersion"]


# ---------------------------------------------------------------- invoke


def test_a_synchronous_invoke_answers_and_says_which_version_did(lam, name):
    create(lam, name, "one")
    payload, answer = invoke(lam, name, {"a": [1, "zwölf", None]})
    assert payload == {"marker": "one", "version": "$LATEST", "event": {"a": [1, "zwölf", None]}}
    assert (answer["StatusCode"], executed_version(answer)) == (200, "$LATEST")
    assert "FunctionError" not in answer and "LogResult" not in answer
    assert answer["ResponseMetadata"]["RequestId"]


def test_a_function_is_invoked_by_version_by_alias_and_by_arn(lam, name):
    create_with_versions(lam, name, ["one", "two"])
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    update_code(lam, name, "three")
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
    cases = {
        "latest": ({"FunctionName": name}, "three", "$LATEST"),
        "latest by qualifier": ({"FunctionName": name, "Qualifier": "$LATEST"}, "three", "$LATEST"),
        "version": ({"FunctionName": name, "Qualifier": "2"}, "two", "2"),
        "alias": ({"FunctionName": name, "Qualifier": "live"}, "one", "1"),
        "name and alias": ({"FunctionName": f"{name}:live"}, "one", "1"),
        "ARN": ({"FunctionName": arn}, "three", "$LATEST"),
        "ARN of a version": ({"FunctionName": f"{arn}:2"}, "two", "2"),
        "ARN of an alias": ({"FunctionName": f"{arn}:live"}, "one", "1"),
        "partial ARN": ({"FunctionName": f"{ACCOUNT}:function:{name}:live"}, "one", "1"),
    }
    for case, (target, marker, version) in cases.items():
        answer = lam.invoke(Payload=b"{}", **target)
        payload = json.loads(answer["Payload"].read())
        assert (payload["marker"], payload["version"], executed_version(answer)) == (marker, version, version), case


def test_an_invoke_without_a_payload_is_answered(lam, name):
    create(lam, name, "one")
    answer = lam.invoke(FunctionName=name)
    assert json.loads(answer["Payload"].read())["marker"] == "one"


def test_an_event_is_accepted_at_once_and_runs_later(lam, name, tmp_path):
    create(lam, name)
    seen = tmp_path / "seen"
    payload, answer = invoke(lam, name, {"do": "touch", "path": str(seen)}, InvocationType="Event")
    assert (payload, answer["StatusCode"]) == (None, 202)
    eventually(seen.exists, what="the event never ran")


def test_an_event_does_not_wait_for_its_function(lam, name, tmp_path):
    create(lam, name)
    invoke(lam, name, {"do": "pid"})
    start = time.monotonic()
    invoke(lam, name, {"do": "sleep", "s": 3, "touch": str(tmp_path / "seen")}, InvocationType="Event")
    assert time.monotonic() - start < 2


def test_a_dry_run_answers_204_and_runs_nothing(lam, name, tmp_path):
    create(lam, name)
    seen = tmp_path / "seen"
    payload, answer = invoke(lam, name, {"do": "touch", "path": str(seen)}, InvocationType="DryRun")
    assert (payload, answer["StatusCode"]) == (None, 204)
    invoke(lam, name, {"do": "touch", "path": str(tmp_path / "after")})
    assert (tmp_path / "after").exists() and not seen.exists()


def test_the_log_tail_holds_start_the_printed_line_end_and_report(lam, name):
    create(lam, name)
    _, answer = invoke(lam, name, {"do": "log", "line": "a line of its own"}, LogType="Tail")
    log = base64.b64decode(answer["LogResult"]).decode()
    request = answer["ResponseMetadata"]["RequestId"]
    pattern = (
        rf"START RequestId: {request} Version: \$LATEST\n.*a line of its own\n.*"
        rf"END RequestId: {request}\n"
        rf"REPORT RequestId: {request}\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\t"
        r"Memory Size: 256 MB\tMax Memory Used: \d+ MB"
    )
    assert re.search(pattern, log, re.DOTALL), log
    assert "Init Duration" in log, "the first request of a process reports its init"
    _, answer = invoke(lam, name, {"do": "log", "line": "second"}, LogType="Tail")
    log = base64.b64decode(answer["LogResult"]).decode()
    assert "second" in log and "a line of its own" not in log and "Init Duration" not in log


def test_what_processes_print_is_in_the_log_group_by_page_and_time(lam, logs, name):
    create(lam, name)
    before = int(time.time() * 1000)
    for number in range(3):
        invoke(lam, name, {"do": "log", "line": f"line {number}"})
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName=f"/aws/lambda/{name}", startTime=before, PaginationConfig={"PageSize": 2})
    events = [event for page in pages for event in page["events"]]
    assert len({event["eventId"] for event in events}) == len(events)
    assert all("[$LATEST]" in event["logStreamName"] and event["timestamp"] >= before for event in events)
    printed = [event["message"] for event in events if "line " in event["message"]]
    assert [text.split("line ")[1][0] for text in printed] == ["0", "1", "2"], printed
    later = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", startTime=before + 3_600_000)
    assert later["events"] == []
    with refused(400, "ResourceNotFoundException"):
        logs.filter_log_events(logGroupName="/aws/lambda/another")
    with refused(501, "NotImplementedException"):
        logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern="ERROR")


def test_the_log_tail_holds_at_most_4_kb(lam, name):
    create(lam, name)
    _, answer = invoke(lam, name, {"do": "log", "line": "x" * 10_000}, LogType="Tail")
    log = base64.b64decode(answer["LogResult"])
    assert len(log) <= 4096 and b"REPORT" in log, "the tail is the end of the log"


# ---------------------------------------------------------------- failures


def test_a_functions_own_error_is_told_and_the_process_lives_on(lam, name):
    create(lam, name)
    before, _ = invoke(lam, name, {"do": "pid"})
    payload, answer = invoke(lam, name, {"do": "fail"})
    assert (answer["StatusCode"], answer["FunctionError"], executed_version(answer)) == (200, "Unhandled", "$LATEST")
    assert (payload["errorType"], payload["errorMessage"]) == ("Test.Failure", "asked to fail")
    after, _ = invoke(lam, name, {"do": "pid"})
    assert after["process"] == before["process"]


def test_an_exit_in_a_request_is_an_exit_error_and_the_next_request_works(lam, name):
    create(lam, name)
    before, _ = invoke(lam, name, {"do": "pid"})
    payload, answer = invoke(lam, name, {"do": "exit", "code": 3}, LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert payload["errorType"] == "Runtime.ExitError"
    assert answer["ResponseMetadata"]["RequestId"] in payload["errorMessage"]
    assert "exit status 3" in payload["errorMessage"]
    after, answer = invoke(lam, name, {"do": "pid"})
    assert "FunctionError" not in answer
    assert after["process"] != before["process"]


def test_an_exit_in_init_is_an_exit_error(lam, name):
    create(lam, name, mode="exit-in-init")
    payload, answer = invoke(lam, name, {}, LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert payload["errorType"] == "Runtime.ExitError"
    assert "leaving during init" in base64.b64decode(answer["LogResult"]).decode()


def test_an_error_reported_in_init_is_told_by_its_own_type(lam, name):
    create(lam, name, mode="error-in-init")
    payload, answer = invoke(lam, name, {})
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert (payload["errorType"], payload["errorMessage"]) == ("Test.InitFailed", "the model could not be read")


def test_an_init_that_never_ends_is_a_timeout_and_no_hang(lam, name):
    create(lam, name, mode="never-ready", Timeout=2)
    start = time.monotonic()
    payload, answer = invoke(lam, name, {})
    took = time.monotonic() - start
    assert answer["FunctionError"] == "Unhandled"
    assert "timed out" in payload["errorMessage"].lower()
    assert took < 25, "init has 10 s, and then the function's own timeout in the first invoke"


def test_a_new_version_serves_after_one_that_could_not_start(lam, name):
    create(lam, name, mode="exit-in-init")
    assert invoke(lam, name, {})[1]["FunctionError"] == "Unhandled"
    update_code(lam, name, "better")
    assert invoke(lam, name, {})[0]["marker"] == "better"


def test_a_request_over_its_timeout_fails_and_its_process_is_replaced(lam, name):
    create(lam, name, Timeout=1)
    before, _ = invoke(lam, name, {"do": "pid"})
    start = time.monotonic()
    payload, answer = invoke(lam, name, {"do": "sleep", "s": 30})
    assert time.monotonic() - start < 5
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert "Task timed out after 1.00 seconds" in payload["errorMessage"]
    assert answer["ResponseMetadata"]["RequestId"] in payload["errorMessage"]
    after, answer = invoke(lam, name, {"do": "pid"})
    assert "FunctionError" not in answer
    assert after["process"] != before["process"]


def test_an_answer_over_6_mb_is_a_function_error(lam, name):
    create(lam, name)
    payload, answer = invoke(lam, name, {"do": "large", "bytes": 7 * 1024 * 1024})
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == "Function.ResponseSizeTooLarge"
    assert len(invoke(lam, name, {"do": "large", "bytes": 5 * 1024 * 1024})[0]["padding"]) == 5 * 1024 * 1024


# ---------------------------------------------------------------- processes and concurrency


def test_requests_one_after_another_are_served_by_the_same_process(lam, name):
    create(lam, name)
    assert len({invoke(lam, name, {"do": "pid"})[0]["process"] for _ in range(10)}) == 1


def test_concurrent_requests_get_processes_of_their_own(lam, name):
    create(lam, name, Timeout=20)
    start = time.monotonic()
    answers = together(4, lambda _: invoke(lam, name, {"do": "sleep", "s": 1})[0])
    took = time.monotonic() - start
    assert len({answer["process"] for answer in answers}) == 4
    assert took < 3.2, f"four requests of 1 s took {took:.1f} s"


def test_a_process_serves_one_request_at_a_time(lam, name):
    create(lam, name, Timeout=20)
    answers = together(12, lambda _: invoke(lam, name, {"do": "sleep", "s": 0.2})[0])
    served = collections.defaultdict(list)
    for answer in answers:
        served[answer["process"]].append((answer["start"], answer["end"]))
    for spans in served.values():
        spans.sort()
        assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:]))


def test_versions_never_share_a_process(lam, name):
    create_with_versions(lam, name, ["one", "two"])
    processes = {version: invoke(lam, name, {"do": "pid"}, Qualifier=version)[0]["process"] for version in ("1", "2")}
    assert processes["1"] != processes["2"]


def test_reserved_concurrency_throttles_the_request_beyond_it(lam, strict, name, tmp_path):
    create(lam, name, Timeout=20)
    lam.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=2)
    started = [tmp_path / "0", tmp_path / "1"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [pool.submit(invoke, lam, name, {"do": "sleep", "s": 3, "touch": str(path)}) for path in started]
        eventually(lambda: all(path.exists() for path in started), every=0.02)
        with refused(429, "TooManyRequestsException") as caught:
            invoke(strict, name, {"do": "pid"})
        assert caught.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        assert all("FunctionError" not in future.result()[1] for future in running), "the running ones are untouched"
    assert "FunctionError" not in invoke(strict, name, {"do": "pid"})[1]


def test_reserved_concurrency_is_shared_by_all_versions(lam, strict, name, tmp_path):
    create_with_versions(lam, name, ["one", "two"], Timeout=20)
    lam.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            invoke, lam, name, {"do": "sleep", "s": 2, "touch": str(tmp_path / "on")}, Qualifier="1",
        )
        eventually((tmp_path / "on").exists, every=0.02)
        with refused(429, "TooManyRequestsException"):
            invoke(strict, name, {"do": "pid"}, Qualifier="2")
        running.result()


def test_reserved_concurrency_of_zero_throttles_everything(lam, strict, name):
    create(lam, name)
    lam.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    for _ in range(3):
        with refused(429, "TooManyRequestsException") as caught:
            invoke(strict, name, {"do": "pid"})
        assert caught.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    lam.delete_function_concurrency(FunctionName=name)
    assert "process" in invoke(strict, name, {"do": "pid"})[0]


# ---------------------------------------------------------------- what a process finds


def test_a_process_has_the_documented_environment_and_not_the_hosts(lam, name):
    create(lam, name, Environment={"Variables": {"COLOUR": "green", "EMPTY": ""}})
    publish(lam, name)
    told, _ = invoke(lam, name, {"do": "env"}, Qualifier="1")
    environment = told["env"]
    expected = {
        "AWS_LAMBDA_FUNCTION_NAME": name, "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "_HANDLER": "bootstrap",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "COLOUR": "green", "EMPTY": "",
    }
    assert {key: environment.get(key) for key in expected} == expected
    assert re.fullmatch(r"127\.0\.0\.1:\d+|localhost:\d+", environment["AWS_LAMBDA_RUNTIME_API"])
    assert "[1]" in environment["AWS_LAMBDA_LOG_STREAM_NAME"]
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PATH", "LANG", "TZ"):
        assert key in environment
    assert told["task_root"] == told["cwd"]
    assert CANARY not in environment
    for key in ("HOME", "PYTEST_CURRENT_TEST", "SLSML_BIN", "VIRTUAL_ENV", "OLDPWD"):
        assert key not in environment or environment[key] != os.environ.get(key), f"{key} is the host's own"


def test_each_version_runs_in_a_folder_of_its_own(lam, name):
    create_with_versions(lam, name, ["one", "two"])
    told = [invoke(lam, name, {"do": "env"}, Qualifier=version)[0] for version in ("1", "2")]
    streams = {each["env"]["AWS_LAMBDA_LOG_STREAM_NAME"] for each in told}
    assert len(streams) == 2
    if told[0]["cwd"] != "/var/task":
        assert told[0]["cwd"] != told[1]["cwd"]


def test_layers_are_found_below_opt_and_a_later_one_wins(lam, name, unique):
    if os.geteuid() != 0:
        pytest.skip("mounting layers at /opt needs root or user namespaces")
    contents = [{"lib/first.txt": b"first", "lib/both.txt": b"lower"}, {"lib/both.txt": b"upper"}]
    arns = [
        lam.publish_layer_version(
            LayerName=f"{unique}-{index}", Content={"ZipFile": zip_of(files)},
        )["LayerVersionArn"]
        for index, files in enumerate(contents)
    ]
    try:
        create(lam, name, Layers=arns)
        for path, content in (("lib/first.txt", "first"), ("lib/both.txt", "upper")):
            payload, answer = invoke(lam, name, {"do": "opt", "path": path})
            assert "FunctionError" not in answer, payload
            assert payload["content"] == content
    finally:
        for index in range(len(contents)):
            lam.delete_layer_version(LayerName=f"{unique}-{index}", VersionNumber=1)


# ---------------------------------------------------------------- weighted aliases


def test_an_alias_with_20_percent_on_version_2_sends_it_20_percent(lam, name):
    create_with_versions(lam, name, ["one", "two"], Timeout=30)
    lam.create_alias(
        FunctionName=name, Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.2}},
    )

    def once(_):
        payload, answer = invoke(lam, name, {"n": 1}, Qualifier="live")
        assert "FunctionError" not in answer, payload
        assert payload["marker"] == {"1": "one", "2": "two"}[payload["version"]]
        assert executed_version(answer) == payload["version"]
        return payload["version"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        served = collections.Counter(pool.map(once, range(1000)))
    assert sum(served.values()) == 1000
    assert 150 <= served["2"] <= 250, served


@pytest.mark.parametrize("weight, expected", [(0.0, "1"), (1.0, "2")])
def test_a_weight_of_none_or_all_is_exact(lam, name, weight, expected):
    create_with_versions(lam, name, ["one", "two"])
    lam.create_alias(
        FunctionName=name, Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": weight}},
    )
    assert {executed_version(invoke(lam, name, {}, Qualifier="live")[1]) for _ in range(50)} == {expected}


def test_moving_an_alias_takes_effect_for_the_next_request(lam, name):
    create_with_versions(lam, name, ["one", "two"])
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    for version in ("2", "1", "2"):
        lam.update_alias(FunctionName=name, Name="live", FunctionVersion=version)
        assert executed_version(invoke(lam, name, {}, Qualifier="live")[1]) == version


# ---------------------------------------------------------------- function URLs


def fetch(url, data=None, headers=None, method=None):
    request = urllib.request.Request(url, data=data, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.fixture
def url(lam, name):
    create_with_versions(lam, name, ["one", "two"], Timeout=30)
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    return lam.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="NONE")["FunctionUrl"]


def test_a_function_url_passes_a_get_as_a_version_2_event(url):
    status, headers, body = fetch(url + "some/path?a=1&b=two%20words&a=2", headers={"X-Own": "yes", "Cookie": "c=1"})
    assert status == 200
    assert headers["X-Amz-Executed-Version"] == "1"
    event = json.loads(body)["event"]
    assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", "$default", "/some/path")
    assert event["rawQueryString"] == "a=1&b=two%20words&a=2"
    assert event["queryStringParameters"] == {"a": "1,2", "b": "two words"}
    assert event["headers"]["x-own"] == "yes"
    assert event["cookies"] == ["c=1"]
    assert event["isBase64Encoded"] is False and "body" not in event
    context = event["requestContext"]
    assert (context["http"]["method"], context["http"]["path"]) == ("GET", "/some/path")
    assert context["http"]["sourceIp"] == "127.0.0.1"
    assert context["requestId"] and context["timeEpoch"] > 1_600_000_000_000


def test_a_function_url_passes_a_posted_body(url):
    status, _, body = fetch(url, data=b'{"inputs": []}', headers={"Content-Type": "application/json"})
    event = json.loads(body)["event"]
    assert status == 200
    assert (event["requestContext"]["http"]["method"], event["rawPath"]) == ("POST", "/")
    assert (event["body"], event["isBase64Encoded"]) == ('{"inputs": []}', False)
    status, _, body = fetch(url, data=b"\x00\xff", headers={"Content-Type": "application/octet-stream"})
    event = json.loads(body)["event"]
    assert event["isBase64Encoded"] is True and base64.b64decode(event["body"]) == b"\x00\xff"


def test_a_function_url_honours_status_headers_cookies_and_body(url):
    status, headers, body = fetch(url + "teapot")
    assert status == 418
    assert (headers["content-type"], headers["x-marker"]) == ("application/json", "one")
    assert headers["set-cookie"] == "taste=good"
    assert json.loads(body)["marker"] == "one"


def test_a_function_url_honours_a_base64_body_and_a_bare_answer(url):
    status, headers, body = fetch(url + "bytes")
    assert (status, headers["content-type"], body) == (200, "application/octet-stream", b"\x00\xffbytes")
    status, headers, body = fetch(url + "plain")
    assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", {"hello": "world"})


def test_a_function_url_answers_502_when_the_function_fails(url):
    status, headers, _ = fetch(url + "fail")
    assert status == 502
    assert headers["X-Amz-Executed-Version"] == "1"
    assert fetch(url)[0] == 200


def test_a_function_url_answers_429_when_throttled_and_404_when_deleted(lam, url, name):
    lam.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    assert fetch(url)[0] == 429
    lam.delete_function_concurrency(FunctionName=name)
    assert fetch(url)[0] == 200
    lam.delete_function_url_config(FunctionName=name, Qualifier="live")
    assert fetch(url)[0] in (403, 404)


def test_a_function_url_routes_by_the_aliass_weights_for_each_request(lam, url, name):
    lam.update_alias(
        FunctionName=name, Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}},
    )
    served = collections.Counter()
    for _ in range(100):
        status, headers, body = fetch(url)
        assert (status, json.loads(body)["version"]) == (200, headers["X-Amz-Executed-Version"])
        served[headers["X-Amz-Executed-Version"]] += 1
    assert set(served) == {"1", "2"} and min(served.values()) >= 25, served


# ---------------------------------------------------------------- metrics


DAY = 3600 * 24


def window(period=60):
    """The last hour in whole minutes, or for a period of a day: today."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(second=0, microsecond=0)
    if period == DAY:
        today = now.replace(hour=0, minute=0)
        return {"StartTime": today, "EndTime": today + datetime.timedelta(days=1)}
    return {"StartTime": now - datetime.timedelta(hours=1), "EndTime": now + datetime.timedelta(minutes=5)}


def values(cloudwatch, namespace, metric, dimensions, stat, period=60):
    query = {
        "Id": "q",
        "MetricStat": {
            "Metric": {
                "Namespace": namespace, "MetricName": metric,
                "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
            },
            "Period": period, "Stat": stat,
        },
    }
    answer = cloudwatch.get_metric_data(MetricDataQueries=[query], **window(period))
    result = answer["MetricDataResults"][0]
    assert (result["Id"], result["StatusCode"]) == ("q", "Complete")
    assert len(result["Values"]) == len(result["Timestamps"])
    return result["Values"]


def expect_total(cloudwatch, namespace, metric, dimensions, stat, total):
    eventually(
        lambda: sum(values(cloudwatch, namespace, metric, dimensions, stat)), lambda seen: seen == total,
        what=f"{stat} of {namespace} {metric} for {dimensions} should be {total}",
    )


def test_invokes_are_counted_by_function_by_alias_and_by_version(lam, cloudwatch, name):
    create_with_versions(lam, name, ["one", "two"])
    lam.create_alias(
        FunctionName=name, Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.4}},
    )
    count, failures = 30, 9
    invocations, errors = collections.Counter(), collections.Counter()
    for index in range(count):
        fails = index < failures
        _, answer = invoke(lam, name, {"do": "fail"} if fails else {"do": "pid"}, Qualifier="live")
        invocations[answer["ExecutedVersion"]] += 1
        errors[answer["ExecutedVersion"]] += fails
    by_alias = {"FunctionName": name, "Resource": f"{name}:live"}
    for dimensions in ({"FunctionName": name}, by_alias):
        expect_total(cloudwatch, "AWS/Lambda", "Invocations", dimensions, "Sum", count)
        expect_total(cloudwatch, "AWS/Lambda", "Errors", dimensions, "Sum", failures)
        expect_total(cloudwatch, "AWS/Lambda", "Duration", dimensions, "SampleCount", count)
    for version in invocations:
        dimensions = by_alias | {"ExecutedVersion": version}
        expect_total(cloudwatch, "AWS/Lambda", "Invocations", dimensions, "Sum", invocations[version])
        expect_total(cloudwatch, "AWS/Lambda", "Errors", dimensions, "Sum", errors[version])
        expect_total(cloudwatch, "AWS/Lambda", "Duration", dimensions, "SampleCount", invocations[version])


def test_a_directly_invoked_version_is_its_own_resource(lam, cloudwatch, name):
    create_with_versions(lam, name, ["one"])
    for _ in range(3):
        invoke(lam, name, {}, Qualifier="1")
    invoke(lam, name, {})
    expect_total(cloudwatch, "AWS/Lambda", "Invocations", {"FunctionName": name}, "Sum", 4)
    expect_total(
        cloudwatch, "AWS/Lambda", "Invocations", {"FunctionName": name, "Resource": f"{name}:1"}, "Sum", 3,
    )


def test_every_kind_of_failed_invoke_counts_as_an_error(lam, cloudwatch, name):
    create(lam, name, Timeout=1)
    invoke(lam, name, {"do": "fail"})
    invoke(lam, name, {"do": "exit"})
    invoke(lam, name, {"do": "sleep", "s": 10})
    invoke(lam, name, {"do": "pid"})
    expect_total(cloudwatch, "AWS/Lambda", "Invocations", {"FunctionName": name}, "Sum", 4)
    expect_total(cloudwatch, "AWS/Lambda", "Errors", {"FunctionName": name}, "Sum", 3)


def test_durations_are_in_milliseconds(lam, cloudwatch, name):
    create(lam, name)
    invoke(lam, name, {"do": "sleep", "s": 0.5})
    expect_total(cloudwatch, "AWS/Lambda", "Duration", {"FunctionName": name}, "SampleCount", 1)
    (longest,) = values(cloudwatch, "AWS/Lambda", "Duration", {"FunctionName": name}, "Maximum", period=DAY)
    assert 500 <= longest < 1500


def test_throttled_requests_are_counted_as_throttles_and_not_as_invocations(lam, strict, cloudwatch, name):
    create(lam, name)
    invoke(lam, name, {})
    lam.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    for _ in range(3):
        with refused(429, "TooManyRequestsException"):
            invoke(strict, name, {})
    expect_total(cloudwatch, "AWS/Lambda", "Throttles", {"FunctionName": name}, "Sum", 3)
    expect_total(cloudwatch, "AWS/Lambda", "Invocations", {"FunctionName": name}, "Sum", 1)


def test_requests_through_a_function_url_and_events_are_counted_too(lam, cloudwatch, url, name):
    fetch(url)
    fetch(url + "fail")
    invoke(lam, name, {"do": "pid"}, InvocationType="Event", Qualifier="live")
    alias = {"FunctionName": name, "Resource": f"{name}:live"}
    expect_total(cloudwatch, "AWS/Lambda", "Invocations", alias, "Sum", 3)
    expect_total(cloudwatch, "AWS/Lambda", "Errors", alias, "Sum", 1)


def test_an_emf_line_becomes_a_metric_in_its_own_namespace(lam, cloudwatch, name):
    create(lam, name)
    invoke(lam, name, {"do": "emf"})
    expect_total(cloudwatch, "test", "Things", {"FunctionName": name}, "Sum", 3)
    expect_total(cloudwatch, "test", "Things", {"FunctionName": name}, "SampleCount", 1)


def test_an_event_is_seen_by_the_emf_metric_it_writes(lam, cloudwatch, name):
    create(lam, name)
    invoke(lam, name, {"do": "emf"}, InvocationType="Event")
    expect_total(cloudwatch, "test", "Things", {"FunctionName": name}, "Sum", 3)


def one(cloudwatch, metric, dimensions, stat):
    """The metric's one value over a period that holds everything."""
    found = eventually(lambda: values(cloudwatch, "round-trip", metric, dimensions, stat, period=DAY))
    assert len(found) == 1
    return found[0]


def put(cloudwatch, unique, **datum):
    datum = {"MetricName": "m", "Dimensions": [{"Name": "who", "Value": unique}], "Timestamp": datetime.datetime.now(datetime.timezone.utc)} | datum
    cloudwatch.put_metric_data(Namespace="round-trip", MetricData=[datum])
    return {"who": unique}


def test_values_and_counts_come_back_as_every_statistic(cloudwatch, unique):
    put(cloudwatch, unique, Values=[float(value) for value in range(1, 101)], Counts=[1.0] * 100)
    who = {"who": unique}
    expected = {
        "SampleCount": 100, "Sum": 5050, "Average": 50.5, "Minimum": 1, "Maximum": 100,
        "TC(:25)": 25, "TC(25:)": 75, "TC(10:25)": 15, "PR(:25)": 25.0, "PR(25:)": 75.0,
    }
    assert {stat: one(cloudwatch, "m", who, stat) for stat in expected} == pytest.approx(expected)
    for stat, value in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert one(cloudwatch, "m", who, stat) == pytest.approx(value, abs=1.5), stat


def test_counts_weigh_their_values(cloudwatch, unique):
    put(cloudwatch, unique, Values=[1.0, 10.0], Counts=[99.0, 1.0])
    who = {"who": unique}
    expected = {"SampleCount": 100, "Sum": 109, "TC(:1)": 99, "PR(:1)": 99.0}
    assert {stat: one(cloudwatch, "m", who, stat) for stat in expected} == pytest.approx(expected)
    assert one(cloudwatch, "m", who, "p50") == pytest.approx(1)


def test_single_values_and_statistic_values_add_up(cloudwatch, unique):
    put(cloudwatch, unique, Value=5.0)
    put(cloudwatch, unique, StatisticValues={"SampleCount": 10, "Sum": 55, "Minimum": 1, "Maximum": 10})
    expected = {"SampleCount": 11, "Sum": 60, "Minimum": 1, "Maximum": 10}
    assert {stat: one(cloudwatch, "m", {"who": unique}, stat) for stat in expected} == pytest.approx(expected)


def test_dimensions_must_match_exactly(cloudwatch, unique):
    put(cloudwatch, unique, Value=5.0)
    assert one(cloudwatch, "m", {"who": unique}, "Sum") == 5
    for dimensions in ({}, {"who": "somebody-else"}, {"who": unique, "more": "x"}):
        assert sum(values(cloudwatch, "round-trip", "m", dimensions, "Sum")) == 0


def test_many_values_survive_the_clients_compression(cloudwatch, unique):
    """boto3 compresses a PutMetricData body of 10 KiB or more."""
    data = [
        {"MetricName": f"metric-{index}", "Dimensions": [{"Name": "who", "Value": unique}], "Value": float(index)}
        for index in range(500)
    ]
    cloudwatch.put_metric_data(Namespace="round-trip", MetricData=data)
    assert one(cloudwatch, "metric-499", {"who": unique}, "Sum") == 499


def test_several_metrics_are_read_in_one_call(lam, cloudwatch, name):
    create(lam, name)
    invoke(lam, name, {"do": "fail"})
    expect_total(cloudwatch, "AWS/Lambda", "Errors", {"FunctionName": name}, "Sum", 1)
    queries = [
        {
            "Id": metric.lower(),
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/Lambda", "MetricName": metric,
                    "Dimensions": [{"Name": "FunctionName", "Value": name}],
                },
                "Period": 60, "Stat": "Sum",
            },
        }
        for metric in ("Invocations", "Errors", "Throttles")
    ]
    answer = cloudwatch.get_metric_data(MetricDataQueries=queries, **window())
    totals = {result["Id"]: sum(result["Values"]) for result in answer["MetricDataResults"]}
    assert totals == {"invocations": 1, "errors": 1, "throttles": 0}
