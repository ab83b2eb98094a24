"""Times onnxruntime by itself: warm.py MODEL REQUEST.json RUNS [--threads 1]

Prints one line of JSON: load_ms is making the session, warm_ms is session.run, once for each run.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

WARM_UP = 3


def to_array(tensor):
    # FP32 is numpy's float32; the protocol's other names are numpy's but for the case.
    dtype = tensor["datatype"].lower().replace("fp", "float")
    return np.array(tensor["data"], dtype=dtype).reshape(tensor["shape"])


def milliseconds(work):
    began = time.perf_counter_ns()
    result = work()
    return (time.perf_counter_ns() - began) / 1e6, result


def main():
    parser = argparse.ArgumentParser(description="Times onnxruntime by itself.")
    parser.add_argument("model", type=Path)
    parser.add_argument("request", type=Path)
    parser.add_argument("runs", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    request = json.loads(args.request.read_text(encoding="utf-8"))
    feed = {tensor["name"]: to_array(tensor) for tensor in request["inputs"]}
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    load_ms, session = milliseconds(
        lambda: ort.InferenceSession(
            str(args.model), options, providers=["CPUExecutionProvider"]
        )
    )
    times = [milliseconds(lambda: session.run(None, feed))[0] for _ in range(WARM_UP + args.runs)]
    print(json.dumps({"load_ms": load_ms, "warm_ms": times[WARM_UP:]}))


if __name__ == "__main__":
    main()
