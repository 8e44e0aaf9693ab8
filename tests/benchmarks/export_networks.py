"""torchvision's networks with seeded random weights as ONNX and for ncnn: export_networks.py FOLDER

The weights are drawn with He's scale, and the statistics of norms are drawn too: with torchvision's own first values logits hardly depend on the picture, and
would hide errors. Nothing is downloaded.
"""

import pathlib
import sys
import warnings

import torch
import torchvision

warnings.filterwarnings("ignore")
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for name, size in (("squeezenet1_1", 224), ("mobilenet_v2", 224), ("resnet50", 224), ("inception_v3", 299)):
    torch.manual_seed(0)
    extra = {"init_weights": False, "aux_logits": True} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, **extra).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, torch.nn.BatchNorm2d):
                # Residual sums would grow without bounds.
                module.weight.uniform_(0.4, 0.8)
                module.bias.uniform_(-0.1, 0.1)
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
    torch.onnx.export(net, torch.randn(2, 3, size, size), folder / f"{name}.onnx", dynamo=False, opset_version=13,
                      input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}})
    import pnnx

    pnnx.export(net, str(folder / f"{name}.pt"), torch.rand(1, 3, size, size), fp16=False)
    for file in folder.glob(f"{name}*"):
        if not file.name.endswith((".onnx", ".ncnn.param", ".ncnn.bin")) or file.name.endswith(".pnnx.onnx"):
            file.unlink()
