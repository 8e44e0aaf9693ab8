"""Small networks written node by node: what exporters write in many ways, far from zero, and what only looks like it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writer:
    """Nodes and constants, named by their number."""

    def __init__(self, seed):
        self.nodes, self.constants, self.random = [], [], np.random.default_rng(seed)

    def constant(self, value, kind=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def ints(self, *values):
        return self.constant(values, np.int64)

    def normal(self, *shape, std=1.0):
        return self.constant(self.random.normal(0, std, shape))

    def __call__(self, op, *inputs, outputs=1, **attributes):
        """Adds a node; numbers among its inputs become constants."""
        inputs = [self.constant(x) if isinstance(x, (int, float)) else x for x in inputs]
        names = [f"v{len(self.nodes)}.{output}" for output in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def write(self, path, y, size, opset):
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        graph = helper.make_graph(
            self.nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], self.constants,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


def activations(path, half=False):
    """Functions of numbers up to 300, on either side."""
    w = Writer(1)
    x = w("Conv", "x", w.normal(3, 3, 1, 1, std=150))
    far = w("Sub", x, 100)
    tanh = lambda x: w("Tanh", w("Mul", w("Add", x, w("Mul", w("Pow", x, 3), 0.044715)), 0.7978845608))
    other = lambda x: w("Tanh", w("Mul", w("Mul", x, 0.7978845608), w("Add", w("Mul", w("Mul", x, 0.044715), x), 1)))
    softplus = lambda x: w("Log", w("Add", w("Exp", x), 1))
    tenth = w("Mul", x, 0.1)
    all = [
        w("Div", w("Clip", x, -20, 20), 20), w("Div", w("Min", x, 20), 300), w("Div", w("Max", x, 100), 300),
        w("Relu", w("Sub", w("Div", x, 255), 0.5)), w("Div", w("Abs", far), 400), w("HardSigmoid", far, alpha=0.25),
        w("Div", w("PRelu", far, w.constant([[[0.3]]])), 400), w("Mul", w("Relu", w("Mul", x, 1e-7)), 1e5),
        w("Sigmoid", w("Mul", x, 0.02)), w("Mul", w("Tanh", w("Div", x, 100)), 1),
        w("Div", w("Mul", w("Mul", tenth, 0.5), w("Add", w("Erf", w("Div", tenth, 2**0.5)), 1)), 30),
        w("Div", w("Mul", tenth, w("Mul", w("Add", w("Erf", w("Mul", tenth, 0.5**0.5)), 1), 0.5)), 30),
        w("Div", w("Mul", x, w("Sigmoid", x)), 300), w("Mul", w("Mul", tenth, w("Sigmoid", w("Mul", tenth, 1.702))), 0.03),
        w("Div", tenth, w("Mul", w("Add", w("Exp", w("Neg", tenth)), 1), 30)),
        w("Div", w("Div", w("Mul", x, w("Clip", w("Add", x, 3), 0, 6)), 6), 300),
        w("Div", w("Mul", w("HardSigmoid", tenth, alpha=1 / 6), tenth), 30), w("Div", w("HardSwish", x), 300),
        w("Div", w("Mul", w("Mul", x, 0.5), w("Add", tanh(x), 1)), 300), w("Div", w("Mul", w("Add", other(x), 1), x), 600),
        w("Div", w("Mul", tenth, w("Tanh", softplus(tenth))), 30), w("Div", w("Max", x, w("Mul", x, 0.1)), 300),
        w("Div", w("Clip", tenth, 0, 6), 6), w("Elu", tenth, alpha=0.5), w("Div", x, w("Add", w("Abs", x), 1)),
        w("Clip", w("Sub", w("Relu", w("Sub", w("Relu", x), 120)), 7), -1, 1), w("Div", w("LeakyRelu", far, alpha=0.01), 400),
        # What only looks like an activation.
        w("Div", w("Mul", x, w("Clip", w("Add", x, 3), 0, 7)), 2000), w("Div", w("Mul", far, w("Sigmoid", x)), 400),
        w("Mul", w("Mul", x, w("Add", w("Erf", w("Div", x, 2**0.5)), 0.9)), 1e-3),
    ]
    y = w("Concat", *all, axis=1)
    if half:
        # Somewhere a number of half precision.
        y = w("Mul", y, w("Cast", w.constant(np.full((1, 3 * len(all), 1, 1), 0.5), np.float16), to=TensorProto.FLOAT))
    y = w("Concat", w("GlobalAveragePool", y), w("GlobalMaxPool", y), axis=1)
    w.write(path, w("Flatten", y), 8, 17)


def half_activations(path):
    activations(path, True)


def norms(path):
    """Layer norms in parts, over the axes that they should go along and over others."""
    w = Writer(2)
    x = w("Conv", "x", w.normal(8, 3, 1, 1), w.normal(8))
    last = w("Transpose", x, perm=[0, 2, 3, 1])

    def norm(x, mean, variance, keep=1):
        centred = w("Sub", x, w("ReduceMean", x, axes=mean, keepdims=keep))
        square = w("ReduceMean", w("Mul", centred, centred), axes=variance, keepdims=keep)
        return w("Div", centred, w("Sqrt", w("Add", square, 1e-5)))

    whole = w("Add", w("Mul", norm(last, [-1], [-1]), w.normal(8)), w.normal(8))
    # Along height, and by the mean of another axis: `[N, 8, 8]` beside `[N, 8, 8, 8]` is one place further right.
    all = [whole, norm(last, [-1], [1, 2]), norm(last, [1, 2], [-1]), norm(last, [-1], [-1], 0), norm(last, [1], [1], 0)]
    # RMS norm, and a mean that is needed alone.
    square = w("ReduceMean", w("Pow", last, 2), axes=[-1])
    all += [w("Div", last, w("Sqrt", w("Add", square, 1e-5))), w("Sub", w("ReduceMean", last, axes=[-1]), last)]
    # Keras's order, with a weight of another axis.
    mean = w("ReduceMean", last, axes=[-1])
    centred = w("Sub", last, mean)
    deviation = w("Sqrt", w("Add", w("ReduceMean", w("Mul", centred, centred), axes=[-1]), 1e-3))
    for shape in [(8,), (8, 1)]:
        inverse = w("Mul", w("Reciprocal", deviation), w.normal(*shape))
        all.append(w("Add", w("Mul", last, inverse), w("Add", w("Mul", w("Neg", mean), inverse), w.normal(8))))
    # One with two readers.
    normed = w("LayerNormalization", last, w.normal(8), w.normal(8), axis=-1)
    all += [w("Mul", w("Relu", normed), normed), w("Div", last, w("Add", w("ReduceL2", last, axes=[1, 2]), 1))]
    y = w("Concat", *all, axis=-1)
    y = w("Transpose", y, perm=[0, 3, 1, 2])
    y = w("Concat", w("GlobalAveragePool", y), w("GlobalMaxPool", y), axis=1)
    # The output keeps its height and width of one.
    w.write(path, y, 8, 17)


def constants(path):
    """What is computed from constants, in a product of 3 channels each."""
    w = Writer(3)
    each = lambda kind, *values: w.constant(np.array(values).reshape(1, 3, 1, 1), kind)
    a, b, c = each(np.float32, 1, -2, 3), each(np.float32, 2, -7, 0.5), each(np.float32, 0, 5, 1)
    i, j = each(np.int64, 7, -7, 300), each(np.int64, -3, 3, -200)
    number = lambda x: w("Cast", x, to=TensorProto.FLOAT)
    two = w.constant(2, np.int64)
    all = [
        w("Max", a, b, c), w("Min", a, b, c), w("Sum", a, b, c), w("ReduceSum", a, noop_with_empty_axes=1),
        w("ReduceMean", b, axes=[1], keepdims=1), number(w("Mod", i, j)), number(w("Mod", i, j, fmod=1)), w("Mod", b, a, fmod=1),
        number(w("Div", w("CastLike", w.constant([[[[2.5]], [[-3.5]], [[9]]]]), two), two)), w("Div", w("CastLike", i, a), 2),
        number(w("Cast", i, to=TensorProto.UINT8)), number(w("Cast", j, to=TensorProto.INT8)), w("Clip", b, -1, 1),
        number(w("Pow", i, two)), w("Expand", 0.5, w.ints(1, 3, 1, 1)),
    ]
    # Standardised weights, and a plain norm of them.
    ones = [w.constant([1.5, 0.5]), w.constant([0.1, 0.2]), w.constant([0.3, 0.0]), w.constant([1.0, 2.0])]
    weights = w.normal(1, 2, 3)
    standard = w("BatchNormalization", weights, *ones, outputs=3, training_mode=1)[0]
    for weights in [standard, w("BatchNormalization", weights, *ones)]:
        filters = w("Reshape", weights, w.ints(2, 3, 1, 1))
        all.append(w("Reshape", w("ReduceMean", filters, axes=[0]), w.ints(1, 3, 1, 1)))
    y = w("Concat", *[w("Mul", "x", w("Div", x, 10)) for x in all], axis=1)
    # Three constants around a computed value.
    y = w("Concat", y, w("Max", a, b, "x", c), w("Sum", a, "x", b), axis=1)
    w.write(path, w("Flatten", w("GlobalMaxPool", y)), 4, 17)
