"""A peer of the benchmark of outputs: runs an exported network for a while in this process and prints a line of JSON.

    infer_peer.py ort|openvino|ncnn FOLDER NETWORK SECONDS THREADS

FOLDER is what export_networks.py wrote. fp32, each example alone; the pixels are those of our side.
"""

import time

START = time.time()
import json
import resource
import sys

import numpy as np

engine, folder, name = sys.argv[1:4]
seconds, threads = float(sys.argv[4]), int(sys.argv[5])
size = 299 if name == "inception_v3" else 224
n = 3 * size * size
x = (((np.arange(n, dtype=np.uint64) * 2654435761) % 1000).astype(np.float32) / 500 - 1).reshape(1, 3, size, size)
if engine == "ort":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    step = lambda: session.run(None, {"x": x})[0][0]
elif engine == "openvino":
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
    model = core.read_model(f"{folder}/{name}.onnx")
    model.reshape([1, 3, size, size])
    compiled = core.compile_model(model, "CPU")
    step = lambda: list(compiled([x]).values())[0][0]
elif engine == "ncnn":
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    net.load_param(f"{folder}/{name}.ncnn.param")
    net.load_model(f"{folder}/{name}.ncnn.bin")

    def step():
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x[0]))
        return np.array(extractor.extract("out0")[1])

else:
    sys.exit(f"no contender {engine}: ort, openvino or ncnn")
logits = step()
first = time.time() - START
step()
begun, count = time.time(), 0
while time.time() - begun < seconds:
    step()
    count += 1
print(json.dumps({
    "images_per_second": count / (time.time() - begun),
    "first_seconds": first,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "logits": [float(logit) for logit in np.ravel(logits)],
}))
