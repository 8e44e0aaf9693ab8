"""A peer of the benchmark of pictures: decodes and resizes a photograph for a while on one thread and prints a line of JSON.

    picture_peer.py make FROM TO            writes the photographs of the benchmark, of those in FROM
    picture_peer.py CONTENDER FILE SECONDS

What comes out is RGB whose shorter edge has 256 pixels. `…-scaled` lets libjpeg-turbo decode to a half, a quarter or an eighth, at
least as large as what is wanted.
"""

import json
import pathlib
import statistics
import sys
import time

import numpy as np
from PIL import Image

EDGE = 256


def make(source, folder):
    """500 x 375, each a photograph made smaller; 4000 x 3000, photographs side by side in their own size, as sharp as they are."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = ["dog.jpg", "kite_and_cold.jpg", "hot_dog.jpg", "owl.jpg"]
    photos = [Image.open(pathlib.Path(source) / name).convert("RGB") for name in names]
    for name, photo in zip(names, photos):
        height, width = photo.height, photo.width
        cut = min(width, height * 4 // 3), min(height, width * 3 // 4)
        left, top = (width - cut[0]) // 2, (height - cut[1]) // 2
        small = photo.crop((left, top, left + cut[0], top + cut[1])).resize((500, 375), Image.Resampling.LANCZOS)
        small.save(folder / f"500x375-{name}", quality=90)
    large = Image.new("RGB", (4000, 3000))
    x = y = row = at = 0
    while y < 3000:
        photo = photos[at % len(photos)]
        large.paste(photo, (x, y))
        x, row, at = x + photo.width, max(row, photo.height), at + 1
        if x >= 4000:
            x, y, row = 0, y + row, 0
    large.save(folder / "4000x3000.jpg", quality=90)


def target(width, height):
    short = min(width, height)
    return width * EDGE // short, height * EDGE // short


def contender(name):
    if name.startswith("pillow"):
        import io

        def step(data):
            picture = Image.open(io.BytesIO(data))
            size = target(*picture.size)
            if name.endswith("scaled"):
                picture.draft("RGB", size)
            return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))

        return step
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)

    def turbo(data):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        size = target(width, height)
        least = {"min_width": size[0], "min_height": size[1]} if name.endswith("scaled") else {}
        return cv2.resize(simplejpeg.decode_jpeg(data, "RGB", **least), size, interpolation=cv2.INTER_AREA)

    def opencv(data):
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        size = target(picture.shape[1], picture.shape[0])
        return cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)

    return {"turbo": turbo, "turbo-scaled": turbo, "opencv": opencv}[name]


def main():
    if sys.argv[1] == "make":
        return make(*sys.argv[2:])
    step, data, seconds = contender(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes(), float(sys.argv[3])
    step(data)
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        step(data)
        times.append(time.perf_counter() - start)
    print(json.dumps({"milliseconds": statistics.median(times) * 1000}))


main()
