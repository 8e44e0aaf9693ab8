#!/usr/bin/env python3
"""Compares logits of full-size networks with ONNX Runtime's.

    cargo build --release -p onnx --example logits
    python tests/benchmarks/onnx_logits.py [--networks resnet50,…] [--opsets 13,18] [--program target/release/examples/logits]

Networks are torchvision's and Keras's Inception-v3, with seeded random weights of He's variance (`onnx/tests/golden/networks.py`): nothing
is downloaded but the packages of onnx-requirements.txt. Up to version 17 of the operators torch's TorchScript exporter
writes the file, from 18 its newer one; a network that it cannot write at a version is passed over, and said so. The error is the largest
difference beside the largest logit; one above 1e-3 fails.
"""

import argparse
import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "onnx/tests/golden"))
import networks  # noqa: E402

KERAS = "keras_inception_v3"


def write(name, opset, path):
    """Exports a network and says which shape an example has."""
    if name == KERAS:
        networks.keras_inception(path, min(opset, 17))
        return (299, 299, 3)
    make, size = networks.FULL[name]
    net = make() if name == "inception_v3" else make(weights=None)
    with contextlib.redirect_stdout(io.StringIO()):
        networks.export(networks.randomise(net), path, size, opset, dynamo=opset >= 18, external=opset >= 18)
    return (3, size, size)


def main():
    parser = argparse.ArgumentParser(description="Compares logits of full-size networks with ONNX Runtime's.")
    parser.add_argument("--networks", default=",".join([*networks.FULL, KERAS]))
    parser.add_argument("--opsets", default="13")
    parser.add_argument("--program", default=ROOT / "target/release/examples/logits", type=pathlib.Path)
    arguments = parser.parse_args()
    failed = False
    print(f"{'network':20} {'opset':>5} {'largest logit':>14} {'error':>9}  top-1")
    for name in arguments.networks.split(","):
        for opset in map(int, arguments.opsets.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                path, rows = pathlib.Path(folder) / "model.onnx", pathlib.Path(folder) / "input.f32"
                try:
                    shape = write(name, opset, path)
                except Exception as error:  # noqa: BLE001: whatever an exporter raises
                    print(f"{name:20} {opset:5} not exported: {type(error).__name__}: {str(error).strip().splitlines()[-1][:120]}")
                    continue
                x = np.random.default_rng(1).normal(0, 1, (2, *shape)).astype(np.float32)
                x.tofile(rows)
                session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
                expected = session.run(None, {session.get_inputs()[0].name: x})[0]
                run = subprocess.run([arguments.program, path, rows], capture_output=True, text=True)
                if run.returncode:
                    print(f"{name:20} {opset:5} {run.stderr.strip()}")
                    failed = True
                    continue
                found = np.array([line.split() for line in run.stdout.splitlines()], dtype=np.float64)
                largest = np.abs(expected).max()
                error = np.abs(found - expected).max() / largest
                same = (found.argmax(1) == expected.argmax(1)).all()
                failed |= not error <= 1e-3
                print(f"{name:20} {opset:5} {largest:14.4g} {error:9.1e}  {'same' if same else 'differs'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
