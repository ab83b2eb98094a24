#!/usr/bin/env python3
"""A Lambda `bootstrap` on the Runtime API, standard library only.

The tests put this file into their zips under the name `bootstrap`, with MARKER
and MODE replaced, so that every version has its own bytes and its own answer.
"""
import base64
import http.client
import json
import os
import sys
import time
import uuid

MARKER = "@MARKER@"
MODE = "@MODE@"
PREFIX = "/2018-06-01/runtime"
# A process id can repeat in a process namespace; this cannot.
PROCESS = str(uuid.uuid4())


class Failure(Exception):
    pass


def call(method, path, body=None):
    host = os.environ["AWS_LAMBDA_RUNTIME_API"]
    connection = http.client.HTTPConnection(host)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, PREFIX + path, body=body, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def report(path, error_type, message):
    body = json.dumps({"errorType": error_type, "errorMessage": message, "stackTrace": []})
    call("POST", path, body)


def touch(path):
    with open(path, "a", encoding="utf-8") as file:
        file.write(PROCESS + "\n")


def emf():
    name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    line = {
        "_aws": {
            "Timestamp": int(time.time() * 1000),
            "CloudWatchMetrics": [
                {
                    "Namespace": "test",
                    "Dimensions": [["FunctionName"]],
                    "Metrics": [{"Name": "Things", "Unit": "Count"}],
                }
            ],
        },
        "FunctionName": name,
        "Things": 3,
    }
    print(json.dumps(line), flush=True)


def echo(event):
    return {
        "marker": MARKER,
        "version": os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
        "event": event,
    }


def over_http(event):
    """Answers a request that came in through a function URL."""
    path = event.get("rawPath")
    if path == "/fail":
        raise Failure("asked to fail")
    if path == "/plain":
        return {"hello": "world"}
    if path == "/bytes":
        return {
            "statusCode": 200,
            "headers": {"content-type": "application/octet-stream"},
            "body": base64.b64encode(b"\x00\xffbytes").decode(),
            "isBase64Encoded": True,
        }
    return {
        "statusCode": 418 if path == "/teapot" else 200,
        "headers": {"content-type": "application/json", "x-marker": MARKER},
        "cookies": ["taste=good"],
        "body": json.dumps(echo(event)),
    }


def handle(event):
    if not isinstance(event, dict):
        return echo(event)
    if "http" in (event.get("requestContext") or {}):
        return over_http(event)
    do = event.get("do")
    if do == "sleep":
        start = time.monotonic()
        if "touch" in event:
            touch(event["touch"])
        time.sleep(event["s"])
        return {"process": PROCESS, "pid": os.getpid(), "start": start, "end": time.monotonic()}
    if do == "env":
        root = os.environ.get("LAMBDA_TASK_ROOT", "")
        return {"env": dict(os.environ), "cwd": os.getcwd(), "task_root": os.path.realpath(root)}
    if do == "fail":
        raise Failure("asked to fail")
    if do == "exit":
        sys.stdout.flush()
        os._exit(event.get("code", 1))
    if do == "log":
        print(event["line"], flush=True)
        return {"logged": event["line"]}
    if do == "emf":
        emf()
        return {"emf": True}
    if do == "opt":
        with open(os.path.join("/opt", event["path"]), encoding="utf-8") as file:
            return {"content": file.read()}
    if do == "touch":
        touch(event["path"])
        return {"touched": event["path"]}
    if do == "pid":
        return {"pid": os.getpid(), "process": PROCESS}
    if do == "large":
        return {"padding": "x" * event["bytes"]}
    return echo(event)


def main():
    if MODE == "exit-in-init":
        print("leaving during init", file=sys.stderr, flush=True)
        sys.exit(1)
    if MODE == "error-in-init":
        report("/init/error", "Test.InitFailed", "the model could not be read")
        sys.exit(1)
    if MODE == "never-ready":
        while True:
            time.sleep(1)
    while True:
        response, content = call("GET", "/invocation/next")
        request = response.getheader("Lambda-Runtime-Aws-Request-Id")
        try:
            answer = handle(json.loads(content) if content else None)
        except Exception as error:
            name = "Test.Failure" if isinstance(error, Failure) else type(error).__name__
            report(f"/invocation/{request}/error", name, str(error))
        else:
            call("POST", f"/invocation/{request}/response", json.dumps(answer))


if __name__ == "__main__":
    main()
