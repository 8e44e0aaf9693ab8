"""Writes pictures/: tiny pictures of every kind, and in expected.safetensors what Pillow makes of them.

    pip install pillow==11.3.0 numpy safetensors && python pictures.py

Pillow 13 goes down before across where that is quicker, which moves bytes by one or more; every version before it,
and with it the pictures that networks were trained on, went across first.

`<file>/rgb` and `<file>/luma` are the decoded picture `[height, width, 3]` and `[height, width]`;
`resize/<filter>/<height>x<width>` is `resize/source` resized, `resize-luma/...` its luma.
"""

import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent / "pictures"
HERE.mkdir(exist_ok=True)
y, x = np.mgrid[0:11, 0:15]
SMOOTH = np.stack([x * 17, y * 23, (x + y) * 10], axis=-1).astype(np.uint8)
SMOOTH[:5, :7] = [200, 60, 30]
BASE = Image.fromarray(SMOOTH)
ALPHA = Image.fromarray(((x * 37 + y * 11) % 256).astype(np.uint8))
expected = {}


def keep(name, rgb, grey):
    expected[f"{name}/rgb"] = np.ascontiguousarray(rgb, dtype=np.uint8)
    expected[f"{name}/luma"] = np.ascontiguousarray(grey, dtype=np.uint8)


def add(name, picture, **options):
    picture.save(HERE / name, **options)
    expect(name)


def expect(name):
    with Image.open(HERE / name) as back:
        back = ImageOps.exif_transpose(back)
        keep(name, np.array(back.convert("RGB")), np.array(back.convert("RGB").convert("L")))


def png16(name, pixels):
    """Pillow writes no PNG of 3 x 16 bits; the expected bytes are scaled, not cut."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)
    (HERE / name).write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    rgb = np.rint(np.broadcast_to(pixels[:, :, :3], (height, width, 3)) / 257).astype(np.uint8)
    keep(name, rgb, np.array(Image.fromarray(rgb).convert("L")))


def palette4():
    """Pillow writes no palette of 4 bits: big-endian, two pixels a byte, the first one high."""
    palette = BASE.quantize(16)
    indices = np.pad(np.array(palette), ((0, 0), (0, 1)))
    rows = (indices[:, 0::2] << 4 | indices[:, 1::2]).astype(np.uint8).tobytes()
    colours = np.zeros((16, 3), np.uint16)
    found = np.array(palette.getpalette(), np.uint16).reshape(-1, 3)[:16]
    colours[: len(found)] = found * 257
    tags = [(256, 3, 15), (257, 3, 11), (258, 3, 4), (259, 3, 1), (262, 3, 3), (273, 4, 8), (277, 3, 1), (278, 3, 11)]
    tags += [(279, 4, len(rows)), (320, 3, None)]
    directory = 8 + len(rows)
    behind = directory + 2 + 12 * len(tags) + 4
    data = b"MM\0*" + struct.pack(">I", directory) + rows + struct.pack(">H", len(tags))
    for tag, kind, value in tags:
        if value is None:
            data += struct.pack(">HHII", tag, kind, 48, behind)
        else:
            data += struct.pack(">HHI" + ("HH" if kind == 3 else "I"), tag, kind, 1, value, *([0] if kind == 3 else []))
    (HERE / "palette4.tif").write_bytes(data + b"\0\0\0\0" + colours.T.astype(">u2").tobytes())
    expect("palette4.tif")


def decoded():
    add("rgb.jpg", BASE, quality=95, subsampling=0)
    add("progressive.jpg", BASE, quality=95, subsampling=0, progressive=True)
    add("sampled.jpg", BASE, quality=95, subsampling=2)
    add("grey.jpg", BASE.convert("L"), quality=95)
    add("cmyk.jpg", BASE.convert("CMYK"), quality=95, subsampling=0)
    adobe = (HERE / "cmyk.jpg").read_bytes()
    at = adobe.index(b"Adobe") + 11
    (HERE / "ycck.jpg").write_bytes(adobe[:at] + b"\2" + adobe[at + 1 :])
    expect("ycck.jpg")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        add(f"orientation-{orientation}.jpg", BASE, quality=95, subsampling=0, exif=exif)
    add("orientation.png", BASE, exif=exif)
    add("orientation.webp", BASE, lossless=True, exif=exif)
    add("rgb.png", BASE)
    add("rgba.png", Image.merge("RGBA", [*BASE.split(), ALPHA]))
    palette = BASE.quantize(17)
    add("palette.png", palette)
    add("palette-transparent.png", palette, transparency=3)
    add("grey.png", BASE.convert("L"))
    add("grey-alpha.png", Image.merge("LA", [BASE.convert("L"), ALPHA]))
    add("bilevel.png", BASE.convert("1"))
    wide = SMOOTH.astype(np.uint16) * 256 + SMOOTH[::-1]
    png16("rgb16.png", wide)
    png16("rgba16.png", np.dstack([wide, wide[:, :, 1]]))
    png16("grey16.png", wide[:, :, :1])
    add("rgb.bmp", BASE)
    add("rgba.bmp", Image.merge("RGBA", [*BASE.split(), ALPHA]))
    add("palette.bmp", palette)
    add("bilevel.bmp", BASE.convert("1"))
    add("lossy.webp", BASE, quality=95)
    add("lossless.webp", BASE, lossless=True)
    add("alpha.webp", Image.merge("RGBA", [*BASE.split(), ALPHA]), lossless=True, exact=True)
    frames = [BASE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    add("animated.webp", BASE, lossless=True, save_all=True, append_images=frames)
    add("palette.gif", palette)
    add("transparent.gif", palette, transparency=3)
    add("animated.gif", palette, save_all=True, append_images=[frame.quantize(17) for frame in frames])
    add("rgb.tif", BASE)
    add("lzw.tif", BASE, compression="tiff_lzw")
    add("deflate.tif", BASE, compression="tiff_adobe_deflate")
    add("orientation.tif", BASE, tiffinfo={274: 6})
    add("palette.tif", palette)
    add("palette-lzw.tif", palette, compression="tiff_lzw", tiffinfo={274: 8})
    palette4()
    add("rgba.tif", Image.merge("RGBA", [*BASE.split(), ALPHA]))
    add("grey.tif", BASE.convert("L"))
    add("bilevel.tif", BASE.convert("1"), compression="group4")
    add("cmyk.tif", BASE.convert("CMYK"))
    Image.fromarray(wide[:, :, 0]).save(HERE / "grey16.tif")
    grey = np.rint(wide[:, :, 0] / 257)
    keep("grey16.tif", np.repeat(grey[:, :, None], 3, axis=2), grey)


def resized():
    noise = np.random.default_rng(1).integers(0, 256, (41, 59, 3))
    yy, xx = np.mgrid[0:41, 0:59]
    source = np.where((xx < 30)[:, :, None], noise, np.stack([xx * 4, yy * 6, 255 - xx * 4], axis=-1)).astype(np.uint8)
    expected["resize/source"] = source
    picture = Image.fromarray(source)
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        for height, width in ((13, 20), (41, 17), (45, 31), (4, 90), (1, 1)):
            kind = getattr(Image.Resampling, name.upper())
            expected[f"resize/{name}/{height}x{width}"] = np.array(picture.resize((width, height), kind))
        expected[f"resize-luma/{name}/13x20"] = np.array(picture.convert("L").resize((20, 13), kind))


decoded()
resized()
save_file(expected, HERE / "expected.safetensors")
