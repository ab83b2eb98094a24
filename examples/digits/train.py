"""Train the three versions of the digits model and write the example requests.

Makes, next to this file:

  models/v1.onnx  multinomial logistic regression
  models/v2.onnx  a network with one hidden layer
  models/v3.onnx  v2 with a per-class temperature whose table lacks classes 8 and 9
  requests.json   held-out samples with the answers of onnxruntime;
                  null where onnxruntime fails
  request.json    one request body

Needs Python 3.11 or later and the packages pinned in requirements.txt:

  pip install numpy==2.4.6 scikit-learn==1.9.1 onnx==1.23.2 onnxruntime==1.31.1

The data is scikit-learn's own copy of the digits, so nothing is downloaded.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits  # comes with scikit-learn

HERE = Path(__file__).resolve().parent
VERSIONS = ("v1", "v2", "v3")
PIXEL_MAX = 16
SEED = 0
PER_CLASS = 12
MIN_MARGIN = 0.05


# --- training ---------------------------------------------------------------


def split_data():
    """Row numbers for training (958), calibration (240) and the held-out part (599)."""
    images, labels = load_digits(return_X_y=True)
    rows = np.arange(len(labels))
    rest, held_out = train_test_split(
        rows, test_size=1 / 3, stratify=labels, random_state=SEED
    )
    train, calibration = train_test_split(
        rest, test_size=0.2, stratify=labels[rest], random_state=SEED
    )
    return images, labels, train, calibration, held_out


def with_shifts(images):
    """The images, then moved by one pixel in four directions; the number of copies."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    moves = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return np.concatenate(
        [padded[:, y : y + 8, x : x + 8].reshape(-1, 64) for y, x in moves]
    ), len(moves)


def fit_temperatures(logits, labels, classes):
    """For each predicted class, the temperature with the least log loss.

    A class without a calibration error gets the lowest temperature of the grid.
    """
    grid = np.geomspace(0.25, 4.0, 81)
    predicted = logits.argmax(axis=1)
    table = []
    for c in classes:
        chosen = predicted == c
        scaled = logits[chosen][None] / grid[:, None, None]
        scaled -= scaled.max(axis=2, keepdims=True)
        log_probs = scaled - np.log(np.exp(scaled).sum(axis=2, keepdims=True))
        loss = -log_probs[:, np.arange(chosen.sum()), labels[chosen]].mean(axis=1)
        table.append(grid[loss.argmin()])
    return np.array(table)


# --- ONNX graphs ------------------------------------------------------------


class Graph:
    """The nodes and weights of one ONNX graph, in the order they are added."""

    def __init__(self):
        self.nodes = []
        self.weights = []

    def weight(self, name, value):
        value = np.asarray(value, dtype=np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=output, **attributes)
        )
        return output

    def normalize(self, mean):
        scale = self.weight("scale", 1 / PIXEL_MAX)
        scaled = self.node("Mul", ["image", scale], "scaled")
        return self.node("Sub", [scaled, self.weight("mean", mean)], "centered")

    def dense(self, x, output, weights, bias):
        w = self.weight(f"{output}.weight", weights)
        b = self.weight(f"{output}.bias", bias)
        return self.node("Gemm", [x, w, b], output)

    def mlp(self, mlp, mean):
        hidden = self.dense(
            self.normalize(mean), "hidden", mlp.coefs_[0], mlp.intercepts_[0]
        )
        active = self.node("Relu", [hidden], "active")
        return self.dense(active, "logits", mlp.coefs_[1], mlp.intercepts_[1])

    def argmax(self, logits):
        return self.node("ArgMax", [logits], "class", axis=1, keepdims=0)

    def softmax(self, logits):
        return self.node("Softmax", [logits], "probabilities", axis=1)

    def save(self, path, description):
        def value(name, kind, *shape):
            return helper.make_tensor_value_info(name, kind, shape)

        graph = helper.make_graph(
            self.nodes,
            "digits",
            [value("image", TensorProto.FLOAT, "batch", 64)],
            [
                value("probabilities", TensorProto.FLOAT, "batch", 10),
                value("class", TensorProto.INT64, "batch"),
            ],
            self.weights,
        )
        model = helper.make_model(
            graph,
            producer_name="slsml-examples",
            doc_string=description,
            ir_version=8,
            opset_imports=[helper.make_opsetid("", 17)],
        )
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


def write_v1(path, regression, mean):
    g = Graph()
    logits = g.dense(
        g.normalize(mean), "logits", regression.coef_.T, regression.intercept_
    )
    g.softmax(logits)
    g.argmax(logits)
    g.save(path, "Digits: multinomial logistic regression")


def write_v2(path, mlp, mean):
    g = Graph()
    logits = g.mlp(mlp, mean)
    g.softmax(logits)
    g.argmax(logits)
    g.save(path, "Digits: one hidden layer of 128")


def write_v3(path, mlp, mean, temperatures):
    g = Graph()
    logits = g.mlp(mlp, mean)
    predicted = g.argmax(logits)
    # One row per class. The bug is here: the table has 8 rows, a class may be 9.
    table = g.weight("temperatures", temperatures.reshape(-1, 1))
    temperature = g.node("Gather", [table, predicted], "temperature", axis=0)
    g.softmax(g.node("Div", [logits, temperature], "calibrated"))
    g.save(path, "Digits: one hidden layer of 128, temperature per class")


# --- the reference answers --------------------------------------------------


def load(path):
    options = ort.SessionOptions()
    options.log_severity_level = 4  # the failures of v3 are expected
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session, image):
    """(class, probabilities) of one image, or None when the run fails."""
    feed = {"image": image.astype(np.float32).reshape(1, 64)}
    try:
        probabilities, predicted = session.run(["probabilities", "class"], feed)
    except Exception as error:
        if "out of data bounds" not in str(error):
            raise
        return None
    return int(predicted[0]), probabilities[0]


def margin(probabilities):
    second, first = np.sort(probabilities)[-2:]
    return first - second


def choose(answers, labels, held_out):
    """PER_CLASS rows of each class; first those where v1 and v2 disagree."""
    sure = [
        row
        for row in held_out
        if all(a is None or margin(a[1]) > MIN_MARGIN for a in answers[row].values())
    ]
    sure.sort(key=lambda row: answers[row]["v1"][0] == answers[row]["v2"][0])
    chosen = [
        row for c in range(10) for row in [r for r in sure if labels[r] == c][:PER_CLASS]
    ]
    return sorted(chosen)


def infer_body(row, image):
    return {
        "id": f"digit-{row}",
        "inputs": [
            {
                "name": "image",
                "shape": [1, 64],
                "datatype": "FP32",
                "data": [int(pixel) for pixel in image],
            }
        ],
    }


def expected(answer):
    if answer is None:
        return None
    predicted, probabilities = answer
    return {
        "class": predicted,
        "probabilities": [round(float(p), 6) for p in probabilities],
    }


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def main():
    images, labels, train, calibration, held_out = split_data()
    scaled = images / PIXEL_MAX
    mean = scaled[train].mean(axis=0)

    regression = LogisticRegression(max_iter=1000, random_state=SEED)
    regression.fit(scaled[train] - mean, labels[train])

    mlp = MLPClassifier((128,), alpha=1e-2, max_iter=500, random_state=SEED)
    shifted, copies = with_shifts(scaled[train])
    mlp.fit(shifted - mean, np.tile(labels[train], copies))

    centered = scaled[calibration] - mean
    logits = np.maximum(centered @ mlp.coefs_[0] + mlp.intercepts_[0], 0)
    logits = logits @ mlp.coefs_[1] + mlp.intercepts_[1]
    temperatures = fit_temperatures(logits, labels[calibration], range(8))

    models = HERE / "models"
    models.mkdir(exist_ok=True)
    paths = {version: models / f"{version}.onnx" for version in VERSIONS}
    write_v1(paths["v1"], regression, mean)
    write_v2(paths["v2"], mlp, mean)
    write_v3(paths["v3"], mlp, mean, temperatures)

    sessions = {version: load(path) for version, path in paths.items()}
    answers = {
        row: {version: run(s, images[row]) for version, s in sessions.items()}
        for row in held_out.tolist()
    }
    for of_row in answers.values():
        # v3 fails exactly where v2 answers 8 or 9, and else gives v2's class.
        if of_row["v2"][0] >= 8:
            assert of_row["v3"] is None
        else:
            assert of_row["v3"][0] == of_row["v2"][0]

    print(f"trained on {len(train)}, calibrated on {len(calibration)}", end=", ")
    print(f"held out {len(held_out)}")
    for version, path in paths.items():
        given = [(row, a[version][0]) for row, a in answers.items() if a[version]]
        right = sum(labels[row] == predicted for row, predicted in given)
        failed = len(answers) - len(given)
        print(
            f"{version}: held-out accuracy {right / len(answers):.4f}"
            f" ({right} right, {len(given) - right} wrong, {failed} failed),"
            f" {path.stat().st_size} bytes"
        )

    chosen = choose(answers, labels, list(answers))
    lines = [
        compact(
            {
                "request": infer_body(row, images[row]),
                "label": int(labels[row]),
                "expected": {v: expected(a) for v, a in answers[row].items()},
            }
        )
        for row in chosen
    ]
    requests = HERE / "requests.json"
    requests.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    disagree = sum(answers[r]["v1"][0] != answers[r]["v2"][0] for r in chosen)
    failing = sum(answers[r]["v3"] is None for r in chosen)
    print(
        f"requests.json: {len(chosen)} requests, v1 and v2 disagree on {disagree},"
        f" v3 fails on {failing}, {requests.stat().st_size} bytes"
    )

    # A plain case: every version gives the true class.
    row = next(
        r for r in chosen if all(a and a[0] == labels[r] for a in answers[r].values())
    )
    (HERE / "request.json").write_text(compact(infer_body(row, images[row])) + "\n")
    print(f"request.json: digit-{row}, class {labels[row]}")


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # one thread: the same sums on every run
        main()
