"""Writes models with random weights into a folder, those that are not there: make_models.py DIR

  encoder.onnx  a transformer encoder, as exporters write it: many small operators
  resnet.onnx   a residual convolutional network
  deep.onnx     some 1,400 operators with few weights
  wide.onnx     90 MB of weights in few operators

The weights are the same on every run. To get a changed model, delete its file.
"""

import math
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
SEED = 0


class Net:
    """A graph in the making; `op` adds an operator and says what its output is called."""

    def __init__(self, name, input_name, input_shape):
        self.name = name
        self.input = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, input_shape)
        self.nodes = []
        self.initializers = []
        self.random = np.random.default_rng(SEED)

    def op(self, kind, *inputs, **attributes):
        made = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [made], name=made, **attributes))
        return made

    def constant(self, value, dtype=np.float32):
        return self.op("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def tensor(self, values):
        name = f"weight_{len(self.initializers)}"
        array = np.asarray(values, np.float32)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, *shape, fan_in, gain=1.0):
        """Scaled so that what comes out is about as large as what went in, times `gain`."""
        return self.tensor(self.random.normal(0, gain / math.sqrt(fan_in), shape))

    def around(self, middle, count, spread=0.1):
        return self.tensor(self.random.uniform(middle - spread, middle + spread, count))

    def model(self, output_name, output_shape):
        self.nodes[-1].output[0] = output_name
        output = helper.make_tensor_value_info(output_name, TensorProto.FLOAT, output_shape)
        graph = helper.make_graph(
            self.nodes, self.name, [self.input], [output], self.initializers
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="slsml-bench",
        )


# --- layers -----------------------------------------------------------------


def conv(net, x, channels, to, kernel, stride=1, groups=1, bias=False, gain=math.sqrt(2)):
    fan_in = channels // groups * kernel * kernel
    inputs = [x, net.weights(to, channels // groups, kernel, kernel, fan_in=fan_in, gain=gain)]
    if bias:
        inputs.append(net.around(0, to))
    return net.op(
        "Conv",
        *inputs,
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[kernel // 2] * 4,
        group=groups,
    )


# The scale of what a block adds to its input; with 1 the sums over all blocks would grow too large.
RESIDUAL = 0.3


def batch_norm(net, x, channels, scale=1.0):
    scales, biases = net.around(scale, channels), net.around(0, channels)
    means, variances = net.around(0, channels), net.around(1, channels)
    return net.op("BatchNormalization", x, scales, biases, means, variances, epsilon=1e-5)


def classifier(net, x, channels, classes):
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    weights = net.weights(classes, channels, fan_in=channels)
    return net.op("Gemm", x, weights, net.around(0, classes), transB=1)


def linear(net, x, size, to):
    return net.op("Add", net.op("MatMul", x, net.weights(size, to, fan_in=size)), net.around(0, to))


def layer_norm(net, x, size):
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    squared = net.op("Pow", centred, net.constant(2))
    variance = net.op("ReduceMean", squared, axes=[-1])
    deviation = net.op("Sqrt", net.op("Add", variance, net.constant(1e-5)))
    x = net.op("Mul", net.op("Div", centred, deviation), net.around(1, size))
    return net.op("Add", x, net.around(0, size))


def gelu(net, x):
    erf = net.op("Erf", net.op("Div", x, net.constant(math.sqrt(2))))
    x = net.op("Mul", x, net.op("Add", erf, net.constant(1)))
    return net.op("Mul", x, net.constant(0.5))


# --- models -----------------------------------------------------------------


def encoder():
    tokens, size, layers, heads = 64, 192, 8, 4
    head = size // heads
    net = Net("encoder", "hidden", [1, tokens, size])

    def split(x, order):
        shape = net.constant([1, tokens, heads, head], np.int64)
        return net.op("Transpose", net.op("Reshape", x, shape), perm=order)

    def attention(x):
        query = split(linear(net, x, size, size), [0, 2, 1, 3])
        key = split(linear(net, x, size, size), [0, 2, 3, 1])
        value = split(linear(net, x, size, size), [0, 2, 1, 3])
        scores = net.op("Div", net.op("MatMul", query, key), net.constant(math.sqrt(head)))
        mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
        mixed = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = net.op("Reshape", mixed, net.constant([1, tokens, size], np.int64))
        return linear(net, mixed, size, size)

    def feed_forward(x):
        return linear(net, gelu(net, linear(net, x, size, 2 * size)), 2 * size, size)

    x = "hidden"
    for _ in range(layers):
        x = net.op("Add", x, attention(layer_norm(net, x, size)))
        x = net.op("Add", x, feed_forward(layer_norm(net, x, size)))
    layer_norm(net, x, size)
    return net.model("encoded", [1, tokens, size])


def resnet():
    stages = [(16, 4), (32, 5), (64, 6), (128, 4)]
    net = Net("resnet", "images", [1, 3, 96, 96])

    def block(x, channels, to, stride):
        y = net.op("Relu", batch_norm(net, conv(net, x, channels, to, 3, stride), to))
        y = batch_norm(net, conv(net, y, to, to, 3), to, RESIDUAL)
        if channels != to:
            x = batch_norm(net, conv(net, x, channels, to, 1, stride, gain=1.0), to)
        return net.op("Relu", net.op("Add", y, x))

    channels = stages[0][0]
    x = net.op("Relu", batch_norm(net, conv(net, "images", 3, channels, 7, 2), channels))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for to, blocks in stages:
        for _ in range(blocks):
            x = block(x, channels, to, stride=1 if channels == to else 2)
            channels = to
    classifier(net, x, channels, 100)
    return net.model("logits", [1, 100])


def deep():
    stages = [(16, 22), (24, 22), (40, 22)]
    net = Net("deep", "images", [1, 3, 64, 64])
    zero, three, six = (net.tensor(value) for value in (0, 3, 6))

    def hard_swish(x):
        gate = net.op("Clip", net.op("Add", x, three), zero, six)
        return net.op("Div", net.op("Mul", x, gate), six)

    def squeeze_excite(x, channels):
        y = net.op("GlobalAveragePool", x)
        y = net.op("Relu", conv(net, y, channels, channels // 4, 1, bias=True))
        y = conv(net, y, channels // 4, channels, 1, bias=True)
        return net.op("Mul", x, net.op("HardSigmoid", y, alpha=1 / 6, beta=0.5))

    def block(x, channels, to, stride):
        wide = 4 * channels
        y = hard_swish(batch_norm(net, conv(net, x, channels, wide, 1), wide))
        y = hard_swish(batch_norm(net, conv(net, y, wide, wide, 3, stride, groups=wide), wide))
        y = squeeze_excite(y, wide)
        scale = RESIDUAL if channels == to else 1.0
        y = batch_norm(net, conv(net, y, wide, to, 1), to, scale)
        return net.op("Add", y, x) if channels == to else y

    channels = stages[0][0]
    x = hard_swish(batch_norm(net, conv(net, "images", 3, channels, 3, 2), channels))
    for to, blocks in stages:
        for _ in range(blocks):
            x = block(x, channels, to, stride=1 if channels == to else 2)
            channels = to
    classifier(net, x, channels, 100)
    return net.model("logits", [1, 100])


def wide():
    size = 2368
    net = Net("wide", "x", [1, size])
    x = "x"
    for _ in range(3):
        weights = net.weights(size, size, fan_in=size, gain=math.sqrt(2))
        x = net.op("Relu", net.op("MatMul", x, weights))
    net.op("MatMul", x, net.weights(size, size, fan_in=size))
    return net.model("y", [1, size])


# --- writing ----------------------------------------------------------------


def check(content):
    """A model that others refuse, or whose answers are not numbers, measures nothing."""
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    x = np.random.default_rng(SEED).normal(size=given.shape).astype(np.float32)
    (y,) = session.run(None, {given.name: x})
    if not (np.isfinite(y).all() and y.std() > 0):
        sys.exit(f"the outputs {y} are of no use")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_models.py DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for build in (encoder, resnet, deep, wide):
        path = folder / f"{build.__name__}.onnx"
        if path.exists():
            continue
        model = build()
        content = model.SerializeToString(deterministic=True)
        check(content)
        part = path.with_suffix(".part")
        part.write_bytes(content)
        os.replace(part, path)
        size = len(content) / 1e6
        print(f"{path.name}: {len(model.graph.node)} operators, {size:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
