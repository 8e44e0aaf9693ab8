"""Writes layers.json and layers.safetensors: PyTorch's outputs of every layer, in float64.

    pip install torch safetensors && python layers.py

A case has a network as the contract describes it, tensors in Gannet's names, an input and PyTorch's output.
With "train" the network runs in training mode; its running statistics afterwards are `after/<name>`.
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(1)
HERE = pathlib.Path(__file__).parent


def pair(value):
    return [value, value] if isinstance(value, int) else list(value)


def tensor(state, name, *shape, positive=False):
    if name not in state:
        values = torch.randn(*shape, dtype=torch.float64)
        state[name] = values.abs() + 0.5 if positive else values
    return state[name]


def conv(x, op, state, prefix):
    kernel, stride, dilation = (pair(op.get(key, 1)) for key in ("kernel", "stride", "dilation"))
    padding, groups = op.get("padding", "valid"), op.get("groups", 1)
    pads = []
    for axis in (0, 1):
        if padding == "same":
            size = x.shape[2 + axis]
            reach = dilation[axis] * (kernel[axis] - 1) + 1
            total = max(0, (math.ceil(size / stride[axis]) - 1) * stride[axis] + reach - size)
            pads.append([total // 2, total - total // 2])
        else:
            pads.append([0, 0] if padding == "valid" else [pair(padding)[axis]] * 2)
    x = F.pad(x, (*pads[1], *pads[0]))
    weight = tensor(state, f"{prefix}.weight", op["filters"], x.shape[1] // groups, *kernel)
    bias = tensor(state, f"{prefix}.bias", op["filters"]) if op.get("bias", True) else None
    return F.conv2d(x, weight, bias, stride, 0, dilation, groups)


def norm(x, op, state, prefix, train):
    epsilon, channels = op.get("epsilon", 1e-5), x.shape[1]
    if op["type"] == "layer_norm":
        shape = x.shape[1:]
        return F.layer_norm(x, shape, tensor(state, f"{prefix}.weight", *shape), tensor(state, f"{prefix}.bias", *shape), epsilon)
    weight, bias = (tensor(state, f"{prefix}.{name}", channels) for name in ("weight", "bias"))
    if op["type"] == "group_norm":
        return F.group_norm(x, op["groups"], weight, bias, epsilon)
    mean = tensor(state, f"{prefix}.running_mean", channels)
    var = tensor(state, f"{prefix}.running_var", channels, positive=True)
    after = [mean.clone(), var.clone()]
    y = F.batch_norm(x, *after, weight, bias, train, op.get("momentum", 0.1), epsilon)
    state[f"after/{prefix}.running_mean"], state[f"after/{prefix}.running_var"] = after
    return y


ACTIVATIONS = {
    "relu": F.relu, "relu6": F.relu6, "leaky_relu": F.leaky_relu, "gelu": F.gelu, "silu": F.silu,
    "hard_swish": F.hardswish, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
}


def run(x, layers, state, prefix, train):
    for index, op in enumerate(layers):
        kind, name = op["type"], op.get("name", f"{prefix}{index}")
        if kind == "conv":
            x = conv(x, op, state, name)
        elif kind == "linear":
            weight = tensor(state, f"{name}.weight", op["units"], x.shape[1])
            x = F.linear(x, weight, tensor(state, f"{name}.bias", op["units"]) if op.get("bias", True) else None)
        elif kind.endswith("_norm"):
            x = norm(x, op, state, name, train)
        elif kind == "activation":
            x = ACTIVATIONS[op["function"]](x)
        elif kind == "relu":
            x = F.relu(x)
        elif kind == "max_pool":
            x = F.max_pool2d(x, op["kernel"], op.get("stride"), op.get("padding", 0), 1, op.get("ceil", False))
        elif kind == "avg_pool":
            x = F.avg_pool2d(x, op["kernel"], op.get("stride"), op.get("padding", 0), False, op.get("count_padding", True))
        elif kind == "global_avg_pool":
            x = x.mean((2, 3))
        elif kind == "flatten":
            x = x.flatten(1)
        elif kind == "residual":
            x = run(x, op["layers"], state, f"{name}.layers.", train) + run(x, op.get("shortcut", []), state, f"{name}.shortcut.", train)
        elif kind == "parallel":
            x = torch.cat([run(x, b, state, f"{name}.branches.{i}.", train) for i, b in enumerate(op["branches"])], 1)
        else:
            raise ValueError(kind)
    return x


CASES = {
    "conv same, stride 2": ([2, 7, 6], [{"type": "conv", "filters": 3, "kernel": [3, 4], "stride": 2, "padding": "same"}]),
    "conv dilated groups": ([4, 8, 9], [{"type": "conv", "filters": 6, "kernel": 3, "padding": [2, 1], "dilation": [2, 1], "stride": [1, 2], "groups": 2}]),
    "conv depthwise": ([3, 6, 5], [{"type": "conv", "filters": 6, "kernel": 3, "padding": 1, "groups": 3, "stride": [2, 1]}]),
    "conv 1x1 no bias": ([3, 4, 4], [{"type": "conv", "filters": 2, "kernel": 1, "bias": False}, {"type": "relu"}]),
    "linear": ([5], [{"type": "linear", "units": 3}]),
    "linear relu no bias": ([5], [{"type": "linear", "units": 4, "bias": False}, {"type": "activation", "function": "relu"}]),
    "batch norm train": ([3, 4, 2], [{"type": "batch_norm", "momentum": 0.3, "epsilon": 0.001}], "train"),
    "batch norm infer": ([3, 4, 2], [{"type": "batch_norm"}]),
    "batch norm rows": ([6], [{"type": "batch_norm"}], "train"),
    "layer norm": ([2, 3, 3], [{"type": "layer_norm"}]),
    "layer norm rows": ([7], [{"type": "layer_norm", "epsilon": 0.01}]),
    "group norm": ([4, 3, 3], [{"type": "group_norm", "groups": 2}]),
    "max pool": ([2, 6, 5], [{"type": "max_pool", "kernel": 2}]),
    "max pool ceil padding": ([2, 6, 7], [{"type": "max_pool", "kernel": [3, 2], "stride": [2, 2], "padding": 1, "ceil": True}]),
    "avg pool counted": ([2, 6, 5], [{"type": "avg_pool", "kernel": 3, "stride": 2, "padding": 1}]),
    "avg pool not counted": ([2, 6, 5], [{"type": "avg_pool", "kernel": 3, "stride": 2, "padding": 1, "count_padding": False}]),
    "global avg pool": ([3, 4, 5], [{"type": "global_avg_pool"}]),
    "residual": ([2, 4, 4], [{"type": "residual", "layers": [{"type": "conv", "filters": 3, "kernel": 3, "padding": "same"}, {"type": "relu"}], "shortcut": [{"type": "conv", "filters": 3, "kernel": 1}]}]),
    "residual identity": ([2, 4, 4], [{"type": "residual", "layers": [{"type": "conv", "name": "c", "filters": 2, "kernel": 3, "padding": 1}]}, {"type": "relu"}, {"type": "flatten"}, {"type": "linear", "units": 2}]),
    "parallel": ([2, 4, 4], [{"type": "parallel", "branches": [[{"type": "conv", "filters": 2, "kernel": 1}], [{"type": "max_pool", "kernel": 3, "stride": 1, "padding": 1}], []]}]),
}
for function in ACTIVATIONS:
    CASES[f"activation {function}"] = ([9], [{"type": "activation", "function": function}])

cases, tensors = [], {}
for name, (shape, layers, *mode) in CASES.items():
    x = 2 * torch.randn(3, *shape, dtype=torch.float64)
    state = {}
    y = run(x, layers, state, "", bool(mode))
    assert all(after.shape for after in state.values())
    cases.append({"name": name, "input": shape, "train": bool(mode), "network": {"layers": layers}})
    for key, value in {"input": x, "output": y, **state}.items():
        tensors[f"{name}/{key}"] = value.contiguous()

logits = 5 * torch.randn(4, 3, dtype=torch.float64)
labels = torch.tensor([0, 2, 1, 1])
tensors["loss/logits"], tensors["loss/labels"] = logits, labels.to(torch.int32)
tensors["loss/value"] = F.cross_entropy(logits, labels).reshape(1)

(HERE / "layers.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
save_file(tensors, HERE / "layers.safetensors")
