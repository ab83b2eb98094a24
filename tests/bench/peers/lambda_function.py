"""A Lambda function behind a function URL that answers Open Inference Protocol requests.

One model, loaded once for each execution environment, from the file MODEL_PATH names.
"""

import base64
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

# What a request that does not fit raises, in json and numpy or in onnxruntime.
UNFIT = (KeyError, TypeError, ValueError, OverflowError, InvalidArgument, RuntimeException, Fail)


def load(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


MODEL_PATH = os.environ["MODEL_PATH"]
MODEL_NAME = Path(MODEL_PATH).stem
session = load(MODEL_PATH)
output_names = [output.name for output in session.get_outputs()]


def handler(event, context):
    try:
        if not event["rawPath"].endswith("/infer"):
            raise ValueError("ask for /v2/models/NAME/infer")
        answer = infer(read_body(event))
    except UNFIT as error:
        return respond(400, {"error": f"{type(error).__name__}: {error}"})
    return respond(200, answer)


def read_body(event):
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        body = base64.b64decode(body)
    request = json.loads(body)
    if not isinstance(request, dict):
        raise ValueError("the body is not an infer request")
    return request


def infer(request):
    feed = {tensor["name"]: to_array(tensor) for tensor in request["inputs"]}
    names = [output["name"] for output in request.get("outputs") or []] or output_names
    arrays = session.run(names, feed)
    response = {
        "model_name": MODEL_NAME,
        "outputs": [to_tensor(name, array) for name, array in zip(names, arrays)],
    }
    if "id" in request:
        response["id"] = request["id"]
    return response


def to_array(tensor):
    """Data may be flat or nested as the shape is."""
    datatype = tensor["datatype"]
    if datatype not in DTYPES:
        raise ValueError(f"unknown datatype {datatype}")
    return np.array(tensor["data"], dtype=DTYPES[datatype]).reshape(tensor["shape"])


def to_tensor(name, array):
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": DATATYPES[array.dtype],
        "data": array.ravel().tolist(),
    }


def respond(status, body):
    # Without allow_nan json writes NaN, which is not JSON.
    text = json.dumps(body, allow_nan=False)
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": text}
