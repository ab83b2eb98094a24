"""What a warm-up run and batches are worth: serving.py PROGRAMS MODEL.onnx...

PROGRAMS is the folder with slsml and slsml-server (`make ship`); the models have one input of FP32. For each
model: the start and the first answers with and without SLSML_WARM_UP, medians of processes in turn; then requests
a second of 16 callers with SLSML_BATCH_SIZE 1 and 8 in turn, with the model's first dimension made free.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx

PROCESSES = 14
CALLERS = 16
SECONDS = 4


def packaged(programs, model, folder):
    """The folder with the packaged model, and what an infer request to it is."""
    command = [programs / "slsml", "--json", "package", model, "--name", "model", "--out", folder / "dist"]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(folder / "dist/model/lambda.zip") as archive:
        archive.extractall(folder / "model")
    given = json.loads((folder / "dist/model/artifact.json").read_text())["model"]["signature"]["inputs"][0]
    shape = [length if isinstance(length, int) and length > 0 else 1 for length in given["shape"]]
    numbers = np.random.default_rng(0).standard_normal(shape).astype(np.float32).tobytes()
    tensor = {"name": given["name"], "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": len(numbers)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lines = [
        "POST /v2/models/model/infer HTTP/1.1", "host: localhost", f"content-length: {len(head) + len(numbers)}",
        f"inference-header-content-length: {len(head)}", "", "",
    ]
    return folder / "model", "\r\n".join(lines).encode() + head + numbers


class Server:
    def __init__(self, programs, model, **settings):
        environment = {"PORT": "0", "SLSML_MODEL_DIR": str(model), "SLSML_ACCESS_LOG": "false", **settings}
        began = time.perf_counter()
        self.process = subprocess.Popen([programs / "slsml-server"], env=environment, stdout=subprocess.PIPE, text=True)
        self.port = int(json.loads(self.process.stdout.readline())["message"].rsplit(" ", 1)[1])
        self.start = time.perf_counter() - began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Caller:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request):
        """The status of an answer that is there as a whole, and how long it took."""
        began = time.perf_counter()
        self.socket.sendall(request)
        head, body = b"", b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(1 << 20)
        head, _, body = head.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(lengths[0]):
            body += self.socket.recv(1 << 20)
        return int(head.split()[1]), time.perf_counter() - began


def warm_up(programs, model, request):
    found = {"false": [], "true": []}
    for _ in range(PROCESSES):
        for warm, rows in found.items():
            with Server(programs, model, SLSML_WARM_UP=warm) as server:
                caller = Caller(server.port)
                first, second = (caller.ask(request)[1] for _ in range(2))
                rows.append([1e3 * took for took in (server.start, first, second)])
    for warm, rows in found.items():
        start, first, second = (statistics.median(column) for column in zip(*rows))
        print(f"  warm-up {warm}: start {start:.1f} ms, first answer {first:.2f}, second {second:.2f}")


def load(server, request):
    answered, refused, end = [0] * CALLERS, [0] * CALLERS, time.perf_counter() + SECONDS

    def call(number):
        caller = Caller(server.port)
        while time.perf_counter() < end:
            status, _ = caller.ask(request)
            (answered if status == 200 else refused)[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / SECONDS, sum(refused)


def batches(programs, model, request):
    found = {"1": [], "8": []}
    for _ in range(3):
        for size, rows in found.items():
            with Server(programs, model, SLSML_BATCH_SIZE=size) as server:
                load(server, request)
                rows.append(load(server, request))
    for size, rows in found.items():
        answered, refused = (statistics.median(column) for column in zip(*rows))
        print(f"  batches of {size}: {answered:.0f} answered a second, {refused:.0f} refused in {SECONDS} s")


def with_free_rows(model, path):
    model = onnx.load(model)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    onnx.save(model, path)
    return path


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    programs = Path(sys.argv[1]).resolve()
    for model in sys.argv[2:]:
        print(model)
        with tempfile.TemporaryDirectory() as folder:
            warm_up(programs, *packaged(programs, model, Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            free = with_free_rows(model, Path(folder) / "free.onnx")
            inspected = subprocess.run([programs / "slsml", "inspect", free], capture_output=True, text=True)
            if inspected.returncode != 0:
                print("  no batches: its first dimension cannot be free")
                continue
            why = [line for line in inspected.stdout.splitlines() if line.startswith("batches")]
            if not why or "none:" in why[0]:
                print(f"  {(why or ['no batches'])[0]}")
                continue
            batches(programs, *packaged(programs, free, Path(folder)))


if __name__ == "__main__":
    main()
