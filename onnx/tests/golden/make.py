"""Writes the golden files beside it: reduced networks as ONNX files, and what ONNX Runtime computes with them.

    python make.py [NAME…]

needs torch, torchvision, onnx, onnxscript, onnxruntime, and for the Keras network tensorflow and tf2onnx. Weights are stored as
float16 with a Cast, but where a name says otherwise, to keep the files small. `logits.txt` has a line a network: its name,
the number of examples, and their outputs. Input number i of example e is ((i + 31 e) * 7919 mod 1009) / 504.5 - 1.
"""

import math
import pathlib
import sys
from functools import partial

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision.models import ConvNeXt, DenseNet, EfficientNet, MobileNetV2, MobileNetV3, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.googlenet import Inception
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1
from torchvision.models.squeezenet import Fire

import networks
import operators

HERE = pathlib.Path(__file__).parent


def resnet():
    def down(a, b):
        return nn.Sequential(conv1x1(a, b, 2), nn.BatchNorm2d(b))

    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        BasicBlock(16, 16), BasicBlock(16, 24, 2, down(16, 24)),
        Bottleneck(24, 8, 2, down(24, 32), groups=4, base_width=128), Bottleneck(32, 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )


def squeezenet():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 6, 20, 20), Fire(40, 6, 20, 20),
        nn.MaxPool2d(3, 2, ceil_mode=True), Fire(40, 8, 24, 24), nn.Dropout(0.5), nn.Conv2d(48, 10, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )


class Mixed(nn.Module):
    """Blocks of Inception: odd kernels, an average pool with and without counted padding, a strided one with a pool beside it."""

    def __init__(self):
        super().__init__()
        self.a = Inception(12, 8, 6, 10, 4, 8, 7)
        self.left = nn.Sequential(nn.Conv2d(33, 9, (1, 7), padding=(0, 3)), nn.Conv2d(9, 11, (7, 1), padding=(3, 0)), nn.ReLU())
        self.strided = nn.Conv2d(33, 13, 3, 2)

    def forward(self, x):
        x = self.a(x)
        pool = nn.functional.avg_pool2d(x, 3, 1, 1)
        other = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        x = torch.cat([self.left(x), pool * 0.5 + other], 1)[:, 5:38]
        return torch.cat([self.strided(x), nn.functional.max_pool2d(x, 3, 2)], 1)


def inception():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 2), nn.BatchNorm2d(12, eps=0.001), nn.ReLU(), Mixed(),
        nn.AvgPool2d(5, 3, 1, ceil_mode=True), nn.Flatten(), nn.Linear(46 * 36, 10),
    )


def mobilenet_v2():
    setting = [[1, 16, 1, 1], [6, 16, 2, 2], [6, 24, 1, 2]]
    return MobileNetV2(num_classes=10, width_mult=0.5, inverted_residual_setting=setting, round_nearest=4)


def mobilenet_v3():
    config = partial(InvertedResidualConfig, width_mult=1.0)
    setting = [
        config(16, 3, 16, 16, True, "RE", 2, 1), config(16, 3, 24, 20, False, "RE", 1, 1),
        config(20, 5, 40, 20, True, "HS", 1, 1), config(20, 5, 48, 24, True, "HS", 2, 1),
    ]
    return MobileNetV3(setting, 64, num_classes=10)


def efficientnet():
    setting = [
        MBConvConfig(1, 3, 1, 16, 12, 1, 1.0, 1.0), MBConvConfig(4, 3, 2, 12, 20, 2, 1.0, 1.0),
        MBConvConfig(4, 5, 2, 20, 24, 1, 1.0, 1.0),
    ]
    return EfficientNet(setting, 0.2, last_channel=64, num_classes=10)


def densenet():
    return DenseNet(growth_rate=8, block_config=(2, 3, 2), num_init_features=16, bn_size=2, num_classes=10)


def convnext():
    setting = [CNBlockConfig(16, 24, 1), CNBlockConfig(24, 40, 2), CNBlockConfig(40, None, 1)]
    return ConvNeXt(setting, num_classes=10)


def vit():
    return VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=60, mlp_dim=80, num_classes=10)


class Parts(nn.Module):
    """What networks rarely have: activations in parts, norms over other axes, tokens mixed, channels shuffled, halves swapped."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 20, 3, 2)
        self.group, self.instance = nn.GroupNorm(4, 20), nn.InstanceNorm2d(20, affine=True)
        self.mix, self.back = nn.Linear(36, 24), nn.Linear(24, 36)
        self.norm, self.last = nn.LayerNorm(20), nn.Linear(20 * 36, 10)
        self.position = nn.Parameter(torch.zeros(1, 36, 20))

    def forward(self, x):
        functional = nn.functional
        x = functional.pad(self.first(functional.pad(x, (1, 2, 0, 1))), (0, 1, 1, 0))[:, :, :6, 1:7]
        x = self.group(functional.leaky_relu(x, 0.2)) - 0.25 * self.instance(x)
        n, c, h, w = x.shape
        x = x.view(n, 4, 5, h, w).transpose(1, 2).reshape(n, c, h, w)
        a, b = x.chunk(2, 1)
        x = torch.cat([functional.elu(b), functional.gelu(a, approximate="tanh")], 1)
        t = x.flatten(2)
        x = (t + self.back(functional.mish(self.mix(t)))).transpose(1, 2) + self.position
        x = self.norm(x) * 1.5
        x = torch.clamp(x, min=-2.0, max=1.5) + functional.hardsigmoid(x).amax(1, keepdim=True)
        x = x / (1 + x.abs()) * functional.softmax(x, -1)
        return self.last(x.flatten(1)) / 3


def keras(path):
    import tensorflow as tf
    import tf2onnx

    layers = tf.keras.layers

    def conv(x, filters, kernel, strides=1, padding="same"):
        x = layers.Conv2D(filters, kernel, strides, padding, use_bias=False)(x)
        return layers.Activation("relu")(layers.BatchNormalization(scale=False)(x))

    x = inputs = layers.Input((43, 40, 3))
    x = conv(x, 12, 3, 2, "valid")
    x = layers.MaxPooling2D(3, 2)(conv(x, 16, 3))
    branches = [conv(x, 10, 1), conv(conv(x, 8, 1), 12, 5), conv(layers.AveragePooling2D(3, 1, "same")(x), 7, 1)]
    x = layers.Concatenate()(branches)
    branches = [conv(x, 14, 3, 2, "same"), conv(conv(conv(x, 8, 1), 8, (1, 7)), 9, (7, 1), 2), layers.MaxPooling2D(3, 2, "same")(x)]
    x = layers.Concatenate(axis=3)(branches)
    x = layers.ZeroPadding2D(((0, 1), (1, 0)))(x)
    x = layers.DepthwiseConv2D(3, 2, "valid")(x)
    x = layers.Multiply()([x, layers.Dense(52, "sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))])
    x = layers.LayerNormalization()(layers.Activation("swish")(x))
    net = tf.keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))
    networks.randomise_keras(net)
    networks.export_keras(net, path, (43, 40, 3), 15)


# Network, size of the input, version of the operators, batch (open without one), exporter, storage of weights.
ALL = {
    "resnet-11": (resnet, 64, 11, None, False, "float16"),
    "resnet-13-batch3": (resnet, 64, 13, 3, False, "float32"),
    "resnet-18": (resnet, 64, 18, None, True, "external"),
    "squeezenet-12": (squeezenet, 64, 12, 1, False, "float16"),
    "inception-13": (inception, 75, 13, None, False, "float16"),
    "mobilenet_v2-11": (mobilenet_v2, 64, 11, None, False, "float16"),
    "mobilenet_v3-13": (mobilenet_v3, 64, 13, None, False, "float16"),
    "mobilenet_v3-17": (mobilenet_v3, 64, 17, 2, False, "float16"),
    "efficientnet-17": (efficientnet, 64, 17, None, False, "half"),
    "densenet-13": (densenet, 64, 13, None, False, "float16"),
    "convnext-11": (convnext, 64, 11, None, False, "float16"),
    "convnext-18": (convnext, 64, 18, None, True, "float16"),
    "vit-14": (vit, 32, 14, None, False, "float16"),
    "vit-17-batch2": (vit, 32, 17, 2, False, "float16"),
    "vit-18": (vit, 32, 18, None, True, "half"),
    "parts-13": (Parts, 12, 13, None, False, "float16"),
    "parts-18": (Parts, 12, 18, None, True, "float16"),
    "activations-17": (operators.activations, 8, 17, None, False, "float32"),
    "activations-17-half": (operators.half_activations, 8, 17, None, False, "float32"),
    "norms-17": (operators.norms, 8, 17, None, False, "float32"),
    "constants-17": (operators.constants, 4, 17, None, False, "float32"),
    "keras-15": (keras, None, 15, None, False, "float16"),
}


def store(path, how):
    """Stores weights another way."""
    model = onnx.load(path)
    graph = model.graph
    if how == "external":
        path.with_suffix(".data").unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location=path.with_suffix(".data").name, size_threshold=256)
        return
    if how == "half":
        # All of it: inputs, constants, casts. The reference is the same network with all of it made float32 again.
        for tensor in graph.initializer:
            halve(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    halve(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        for value in [*graph.input, *graph.output]:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    elif how == "float16":
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) > 64:
                name = tensor.name
                halve(tensor)
                tensor.name = f"{name} half"
                graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    del graph.value_info[:]
    model.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.save(model, path)


def halve(tensor):
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def session(path, how):
    model = onnx.load(path)
    if how == "half":
        graph = model.graph
        wide = lambda tensor: tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16:
                wide(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                    wide(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                    attribute.i = TensorProto.FLOAT
        for value in [*graph.input, *graph.output]:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main():
    names = sys.argv[1:] or list(ALL)
    lines = {}
    table = HERE / "logits.txt"
    if table.exists():
        lines = {line.split()[0]: line for line in table.read_text().splitlines()}
    for name in names:
        make, size, opset, batch, dynamo, how = ALL[name]
        path = HERE / f"{name}.onnx"
        if make is keras:
            make(path)
            shape = (43, 40, 3)
        elif make.__module__ == "operators":
            make(path)
            shape = (3, size, size)
        else:
            networks.export(networks.randomise(make()), path, size, opset, batch, dynamo)
            shape = (3, size, size)
        store(path, how)
        run = session(path, how)
        count = math.prod(shape)
        examples = [((np.arange(count) + 31 * e) * 7919 % 1009 / 504.5 - 1).astype(np.float32).reshape(shape) for e in range(2)]
        outputs = []
        for example in examples:
            x = np.stack([example] * (batch or 1))
            y = run.run(None, {run.get_inputs()[0].name: x})[0]
            outputs += [f"{value:.8e}" for value in y.reshape(batch or 1, -1)[0]]
        lines[name] = " ".join([name, str(len(examples)), *outputs])
        table.write_text("\n".join(lines[name] for name in sorted(lines)) + "\n")
        print(name, path.stat().st_size)


if __name__ == "__main__":
    main()
