"""A peer of the training benchmark: trains a network for a while in this process and prints a line of JSON.

    train_peer.py torch|torch-channels-last|tensorflow cnn|resnet|mlp FOLDER IMAGES THREADS [DEVICE]

FOLDER holds `inputs.u8` and `labels.u8`. Batches of 64, SGD, fp32, the pictures in the order of the file. A
DEVICE is PyTorch's alone; each batch goes there as bytes.
"""

import time

START = time.time()
import json
import os
import pathlib
import resource
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
contender, network, folder = sys.argv[1:4]
images, threads = int(sys.argv[4]), int(sys.argv[5])
device = sys.argv[6] if len(sys.argv) > 6 else "cpu"
BATCH, WARM_UP = 64, 640
import numpy as np

SHAPE = (3, 32, 32) if network == "resnet" else (1, 28, 28)
inputs = np.fromfile(pathlib.Path(folder) / "inputs.u8", np.uint8).reshape(-1, *SHAPE)
labels = np.fromfile(pathlib.Path(folder) / "labels.u8", np.uint8).astype(np.int64)
BLOCKS = [(16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)]


def torch_side():
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    channels_last = contender.endswith("channels-last")

    class Block(nn.Module):
        def __init__(self, ins, outs, stride):
            super().__init__()
            self.main = nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU(),
                                      nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs))
            self.shortcut = nn.Identity()
            if stride > 1:
                self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

        def forward(self, x):
            return F.relu(self.main(x) + self.shortcut(x))

    if network == "cnn":
        net = nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(),
                            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))
    elif network == "mlp":
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    else:
        layers, ins = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
        for outs, stride in BLOCKS:
            layers.append(Block(ins, outs, stride))
            ins = outs
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    net = net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)

    def step(at):
        rows = x[at:at + BATCH].to(device).float() / 255
        if channels_last:
            rows = rows.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(rows), y[at:at + BATCH].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def tensorflow_side():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    L = tf.keras.layers
    x = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    shape = x.shape[1:]
    if network == "cnn":
        net = tf.keras.Sequential([tf.keras.Input(shape), L.Conv2D(32, 5, padding="same", activation="relu"), L.MaxPool2D(),
                                   L.Conv2D(64, 5, padding="same", activation="relu"), L.MaxPool2D(), L.Flatten(),
                                   L.Dense(512, activation="relu"), L.Dense(10)])
    elif network == "mlp":
        net = tf.keras.Sequential([tf.keras.Input(shape), L.Flatten(), L.Dense(512, activation="relu"),
                                   L.Dense(256, activation="relu"), L.Dense(10)])
    else:
        first = tf.keras.Input(shape)

        def conv(value, outs, kernel, stride):
            return L.BatchNormalization()(L.Conv2D(outs, kernel, stride, padding="same", use_bias=False)(value))

        value = L.ReLU()(conv(first, 16, 3, 1))
        for outs, stride in BLOCKS:
            main = conv(L.ReLU()(conv(value, outs, 3, stride)), outs, 3, 1)
            value = L.ReLU()(L.Add()([main, conv(value, outs, 1, stride) if stride > 1 else value]))
        net = tf.keras.Model(first, L.Dense(10)(L.GlobalAveragePooling2D()(value)))
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf.keras.optimizers.SGD(0.01)
    data, marks = tf.constant(x), tf.constant(labels)

    # A function of its own, compiled once: less for each step than `fit` does.
    @tf.function
    def compiled(at):
        rows = tf.cast(data[at:at + BATCH], tf.float32) / 255
        with tf.GradientTape() as tape:
            loss = loss_of(marks[at:at + BATCH], net(rows, training=True))
        optimizer.apply_gradients(zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables))

    return lambda at: compiled(tf.constant(at))


step = tensorflow_side() if contender == "tensorflow" else torch_side()


def wait():
    # A GPU computes behind the program's back.
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


batches = len(labels) // BATCH
steps = -(-(WARM_UP + images) // BATCH)
for number in range(steps):
    step(number % batches * BATCH)
    if number == 0:
        wait()
        first_step = time.time() - START
    if (number + 1) * BATCH == WARM_UP:
        wait()
        clock = time.time()
wait()
print(json.dumps({
    "images_per_second": (steps * BATCH - WARM_UP) / (time.time() - clock),
    "first_step_seconds": first_step,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
