"""Writes architectures.json: torchvision's logits, in float64, of weights that a formula gives.

    pip install torch torchvision && python architectures.py

No weights are stored: a number is a hash of its tensor's name and its place (`noise`), scaled so that
activations neither vanish nor explode. `worker/src/compute/tests/architectures.rs` has the same formula.
"""

import json
import math
import pathlib

import numpy as np
import torch
import torchvision

HERE = pathlib.Path(__file__).parent
CASES = {"squeezenet1_1": 64, "resnet18": 64, "resnet34": 64, "resnet50": 64, "inception_v3": 96}
CLASSES = 10


def noise(name, count):
    """`count` numbers in -1 to 1: FNV-1a of the name, then splitmix64, 24 bits each."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def tensor(name, shape):
    values = noise(name, math.prod(shape))
    if len(shape) > 1:
        values = values * math.sqrt(6 / math.prod(shape[1:]))
    elif name.endswith(("running_var", ".weight")):
        values = 1 + values / 2
    else:
        values = values / 10
    # The weights are fp32 numbers; only the sums are in float64.
    return torch.tensor(values.astype(np.float32).astype(np.float64)).reshape(shape)


cases = []
for name, side in CASES.items():
    extra = {"aux_logits": True, "transform_input": False, "init_weights": False} if name == "inception_v3" else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **extra).double().eval()
    state = {key: tensor(key, tuple(value.shape)) for key, value in model.state_dict().items() if value.is_floating_point()}
    model.load_state_dict(state, strict=False)
    picture = torch.tensor(noise("input", 3 * side * side).astype(np.float32).astype(np.float64)).reshape(1, 3, side, side)
    with torch.no_grad():
        logits = model(picture)[0]
    print(name, logits)
    assert logits.isfinite().all() and logits.std() > 1e-3
    cases.append({"architecture": name, "input": [3, side, side], "logits": logits.tolist()})

(HERE / "architectures.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
