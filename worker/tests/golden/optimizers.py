"""Writes optimizers.json: a weight after each of four steps of PyTorch's optimisers, in float32.

    pip install torch && python optimizers.py
"""

import json
import pathlib

import torch

torch.manual_seed(2)
HERE = pathlib.Path(__file__).parent

CASES = [
    ({"type": "sgd", "learning_rate": 0.1}, 0.0),
    ({"type": "sgd", "learning_rate": 0.1}, 0.01),
    ({"type": "momentum", "learning_rate": 0.1, "momentum": 0.8}, 0.01),
    ({"type": "nesterov", "learning_rate": 0.1, "momentum": 0.8}, 0.01),
    ({"type": "adam", "learning_rate": 0.05, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}, 0.0),
    ({"type": "adam", "learning_rate": 0.05}, 0.01),
    ({"type": "adamw", "learning_rate": 0.05}, 0.1),
]


def optimizer(description, decay, weight):
    settings = dict(description)
    kind, rate = settings.pop("type"), settings.pop("learning_rate")
    if kind in ("adam", "adamw"):
        betas = (settings.get("beta1", 0.9), settings.get("beta2", 0.999))
        rule = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        return rule([weight], rate, betas, settings.get("epsilon", 1e-8), decay)
    return torch.optim.SGD([weight], rate, settings.get("momentum", 0.0), 0.0, decay, kind == "nesterov")


cases = []
for description, decay in CASES:
    weight = torch.randn(5, requires_grad=True)
    case = {"optimizer": description, "weight_decay": decay, "start": weight.tolist(), "steps": []}
    rule = optimizer(description, decay, weight)
    for _ in range(4):
        weight.grad = torch.randn(5)
        rule.step()
        case["steps"].append({"gradient": weight.grad.tolist(), "after": weight.tolist()})
    cases.append(case)

(HERE / "optimizers.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
