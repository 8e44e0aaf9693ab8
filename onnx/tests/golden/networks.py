"""Networks with seeded random weights, as ONNX files: full size for comparisons, reduced for the tree.

Weights are normal with He's variance (2 / fan-in), and everything else is random too, statistics and scales of norms
among it: what is left at its initial value hides errors. Nothing is downloaded.
"""

import math
import pathlib
import warnings

import torch
import torchvision.models as models
from torch import nn

warnings.filterwarnings("ignore")


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Sets all parameters and statistics of a network."""
    random = torch.Generator().manual_seed(seed)

    def normal(tensor, std):
        return torch.randn(tensor.shape, generator=random) * std

    def uniform(tensor, low, high):
        return torch.rand(tensor.shape, generator=random) * (high - low) + low

    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if tensor.dim() > 1 and name.endswith("weight"):
                tensor.copy_(normal(tensor, math.sqrt(2 / tensor[0].numel())))
            elif name.endswith(("in_proj_weight", "class_token", "pos_embedding")):
                tensor.copy_(normal(tensor, 1 / math.sqrt(tensor.shape[-1])))
            elif name.endswith("bias"):
                tensor.copy_(normal(tensor, 0.1))
            else:
                tensor.copy_(uniform(tensor, 0.5, 1.5))
        for name, tensor in net.named_buffers():
            if name.endswith("running_mean"):
                tensor.copy_(normal(tensor, 0.1))
            elif name.endswith("running_var"):
                tensor.copy_(uniform(tensor, 0.5, 1.5))
    return net.eval()


def export(net, path, size, opset, batch=None, dynamo=False, external=False):
    """Writes a network as ONNX; without a batch it is open."""
    path = pathlib.Path(path)
    x = torch.zeros(batch or 2, 3, size, size)
    extra = {}
    if batch is None:
        if dynamo:
            extra["dynamic_shapes"] = ({0: torch.export.Dim("n", min=1, max=64)},)
        else:
            extra["dynamic_axes"] = {"x": {0: "n"}, "y": {0: "n"}}
    if dynamo:
        extra["external_data"] = external
        extra["verbose"] = False
    torch.onnx.export(net, (x,), str(path), dynamo=dynamo, opset_version=opset, input_names=["x"], output_names=["y"], **extra)
    return path


FULL = {
    "resnet18": (models.resnet18, 224),
    "resnet50": (models.resnet50, 224),
    "mobilenet_v2": (models.mobilenet_v2, 224),
    "mobilenet_v3_large": (models.mobilenet_v3_large, 224),
    "efficientnet_b0": (models.efficientnet_b0, 224),
    "inception_v3": (lambda: models.inception_v3(weights=None, init_weights=False), 299),
    "squeezenet1_1": (models.squeezenet1_1, 224),
    "densenet121": (models.densenet121, 224),
    "convnext_tiny": (models.convnext_tiny, 224),
    "vit_b_16": (models.vit_b_16, 224),
}


def randomise_keras(net, seed: int = 0):
    """The same of a Keras network."""
    import numpy as np

    random = np.random.default_rng(seed)
    for layer in net.layers:
        new = []
        for weight in layer.weights:
            shape, name = weight.shape, weight.path
            if "kernel" in name:
                fan = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
                new.append(random.normal(0, math.sqrt(2 / fan), shape))
            elif "variance" in name or "gamma" in name:
                new.append(random.uniform(0.5, 1.5, shape))
            else:
                new.append(random.normal(0, 0.1, shape))
        if new:
            layer.set_weights(new)


def export_keras(net, path, shape, opset):
    """Writes a Keras network as ONNX by tf2onnx, with an open batch."""
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, *shape), tf.float32, name="x")]
    function = tf.function(lambda x: net(x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, opset=opset, output_path=str(path))


def keras_inception(path, opset=15):
    """Keras's Inception-v3, channels last, with random weights."""
    import tensorflow as tf

    net = tf.keras.applications.InceptionV3(weights=None, classifier_activation=None)
    randomise_keras(net)
    export_keras(net, path, (299, 299, 3), opset)
