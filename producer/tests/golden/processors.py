"""Writes processors.json and processors.safetensors: what Hugging Face's image processors and timm's transforms make of a picture.

    pip install torch torchvision transformers==5.24.0 timm==1.0.31 pillow==11.3.0 && python processors.py

`source` is the picture, bytes `[height, width, 3]`; each case of the JSON file is a document of a model's folder, and the tensor of its
name what comes out, `[3, height, width]`. Nothing is downloaded.
"""

import json
import pathlib

import numpy as np
import timm.data
import transformers
from PIL import Image
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
y, x = np.mgrid[0:41, 0:59]
noise = np.random.default_rng(7).integers(0, 256, (41, 59, 3))
SOURCE = np.where((x < 30)[:, :, None], noise, np.stack([x * 4, y * 6, 255 - x * 4], axis=-1)).astype(np.uint8)
PICTURE = Image.fromarray(SOURCE)
MEAN = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SQUARE = {"height": 16, "width": 16}

HUGGING_FACE = {
    "vit": ("ViTImageProcessor", {"size": SQUARE, "resample": 2, "do_normalize": True, **HALVES}),
    "vit-oblong": ("ViTImageProcessor", {"size": {"height": 17, "width": 24}, "resample": 3, **MEAN}),
    "vit-bytes": ("ViTImageProcessor", {"size": SQUARE, "resample": 2, "do_rescale": False, "image_mean": [123, 117, 104], "image_std": [1, 1, 1]}),
    "vit-plain": ("ViTImageProcessor", {"size": SQUARE, "resample": 1, "do_normalize": False, "rescale_factor": 0.00784313725490196}),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 19}, "crop_size": SQUARE, "resample": 3, "do_center_crop": True, **MEAN}),
    "bit": ("BitImageProcessor", {"size": {"shortest_edge": 23}, "crop_size": SQUARE, "resample": 2, "do_center_crop": True, **HALVES}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 16}, "crop_pct": 0.8, "resample": 3, **MEAN}),
    "convnext-default": ("ConvNextImageProcessor", {"size": {"shortest_edge": 16}, "resample": 3, **MEAN}),
    "levit": ("LevitImageProcessor", {"size": {"shortest_edge": 16}, "crop_size": SQUARE, "resample": 3, **MEAN}),
    "mobilevit": ("MobileViTImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": SQUARE, "resample": 2}),
    # What is not said is the class's.
    "deit-lone": ("DeiTImageProcessor", {"size": 20, "crop_size": 16, "do_center_crop": True, **HALVES}),
    "beit-lone": ("BeitImageProcessor", {"size": 18, "crop_size": 16, "do_center_crop": True, **HALVES}),
    "beit-whole": ("BeitImageProcessor", {"size": 16, "crop_size": 12, **HALVES}),
    "clip-lone": ("CLIPImageProcessor", {"size": 20, "crop_size": 16, **MEAN}),
    "mobilenet-lone": ("MobileNetV2ImageProcessor", {"size": 20, "crop_size": 16, **HALVES}),
    "efficientnet": ("EfficientNetImageProcessor", {"size": SQUARE, **MEAN}),
    "efficientnet-once": ("EfficientNetImageProcessor", {"size": SQUARE, "include_top": False, **MEAN}),
}
TIMM = {
    "timm-center": {"input_size": [3, 16, 16], "interpolation": "bicubic", "crop_pct": 0.84, "crop_mode": "center"},
    "timm-plain": {"input_size": [3, 16, 16]},
    "timm-squash": {"input_size": [3, 16, 16], "interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": "squash"},
    "timm-border": {"input_size": [3, 16, 16], "interpolation": "lanczos", "crop_pct": 0.95, "crop_mode": "border", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]},
    "timm-box": {"input_size": [3, 16, 16], "interpolation": "box", "crop_pct": 1.0},
    "timm-hamming": {"input_size": [3, 15, 15], "interpolation": "hamming", "crop_pct": 0.9},
}
cases, tensors = {}, {"source": SOURCE}
for name, (kind, config) in HUGGING_FACE.items():
    made = getattr(transformers, kind)(**config)(PICTURE, return_tensors="np")["pixel_values"][0]
    tensors[name] = np.ascontiguousarray(made, dtype=np.float32)
    cases[name] = {"image_processor_type": kind, **config}
for name, config in TIMM.items():
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config), is_training=False)
    tensors[name] = transform(PICTURE).numpy()
    cases[name] = {"architecture": "resnet18", "pretrained_cfg": config}
(HERE / "processors.json").write_text(json.dumps(cases, indent=2) + "\n")
save_file(tensors, HERE / "processors.safetensors")
