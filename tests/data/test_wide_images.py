"""Images of 16 bits a channel, and those with much beside their pixels."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mede2_jax.config import UserError
from mede2_jax.data.images import decode_image, image_size

LIMIT = 1_000_000

# The module silences Pillow's warnings for the process; pytest brings its own filters.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def wide_png(values, *, interlaced=False, chunks=b""):
    """A PNG of 16 bits a channel, which Pillow does not write: [H, W, C], C 1 (grey) to 4 (colours and alpha)."""
    height, width, channels = values.shape
    passes = (
        [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]
    )
    parts = [values[y::dy, x::dx] for y, x, dy, dx in passes]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def wide_tiff(values, order, *, deflate=False, extra=None, photometric=2):
    """A TIFF of 16 bits a channel; `order` < or >."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if deflate else data
    tags = {256: (3, width), 257: (3, height), 259: (3, 8 if deflate else 1), 262: (3, photometric), 273: (4, 8), 277: (3, channels)}
    tags |= {278: (3, height), 279: (4, len(data)), 284: (3, 1)} | ({338: (3, extra)} if extra is not None else {})
    after = 8 + len(data) + len(data) % 2
    tags[258] = (3, None)
    bits = after + 2 + 12 * len(tags) + 4
    directory = struct.pack(f"{order}H", len(tags))
    for tag, (kind, value) in sorted(tags.items()):
        if tag == 258:
            directory += struct.pack(f"{order}HHII", tag, 3, channels, bits)
        else:
            directory += struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(
                f"{order}I" if kind == 4 else f"{order}HH", *([value] if kind == 4 else [value, 0])
            )
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, after)
    return (
        magic
        + data
        + b"\0" * (len(data) % 2)
        + directory
        + struct.pack(f"{order}I", 0)
        + struct.pack(f"{order}{channels}H", *[16] * channels)
    )


RAMP = np.tile(np.linspace(100, 4095, 64), (48, 1)).astype(np.uint16)[..., None]
"""A 12-bit scan: the high byte of its numbers is at most 15."""
FULL = np.full_like(RAMP, 65535)


def wide_files():
    colours = np.dstack([RAMP, RAMP[:, ::-1], RAMP[::-1]])
    return {
        "grey": (wide_png(RAMP), RAMP),
        "grey and alpha": (wide_png(np.dstack([RAMP, FULL])), RAMP),
        "colours": (wide_png(colours), colours),
        "colours and alpha": (wide_png(np.dstack([colours, FULL])), colours),
        "interlaced": (wide_png(colours, interlaced=True), colours),
        "interlaced grey and alpha": (wide_png(np.dstack([RAMP, FULL]), interlaced=True), RAMP),
        "TIFF, little end first": (wide_tiff(colours, "<"), colours),
        "TIFF, big end first": (wide_tiff(colours, ">"), colours),
        "TIFF, compressed": (wide_tiff(colours, "<", deflate=True), colours),
        "TIFF, compressed, big end first": (wide_tiff(colours, ">", deflate=True), colours),
        "TIFF with alpha": (wide_tiff(np.dstack([colours, FULL]), "<", extra=2), colours),
        "TIFF with alpha, compressed": (wide_tiff(np.dstack([colours, FULL]), ">", extra=2, deflate=True), colours),
    }


@pytest.mark.parametrize("name", wide_files())
def test_sixteen_bits_a_channel_are_stretched_in_every_mode(name):
    """Never to the nearly black picture that the high bytes of a 12-bit scan are; all colours alike, so that hues stay."""
    data, values = wide_files()[name]
    decoded = np.asarray(decode_image(data, "scan", LIMIT)).astype(int)
    expected = np.round((values.astype(float) - 100) * 255 / 3995)
    assert np.array_equal(decoded, np.broadcast_to(expected, decoded.shape))


def test_transparent_places_of_a_wide_image_are_white():
    alpha = FULL.copy()
    alpha[:, :32] = 0
    for planes in ([RAMP, alpha], [RAMP, RAMP, RAMP, alpha]):
        decoded = np.asarray(decode_image(wide_png(np.dstack(planes)), "scan", LIMIT))
        assert (decoded[:, :32] == 255).all() and decoded[:, 40].max() < 200


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("key", [100, 4095, 9999])
def test_the_transparent_colour_of_a_wide_image_is_white(key, channels, interlaced):
    """As of a picture of 8 bits; all else is stretched as it is without one."""
    values = np.dstack([RAMP] * channels)
    block = struct.pack(f">{channels}H", *[key] * channels)
    chunk = struct.pack(">I", len(block)) + b"tRNS" + block + struct.pack(">I", zlib.crc32(b"tRNS" + block))
    decoded = np.asarray(decode_image(wide_png(values, interlaced=interlaced, chunks=chunk), "scan", LIMIT))
    plain = np.asarray(decode_image(wide_png(values, interlaced=interlaced), "scan", LIMIT))
    assert np.array_equal(decoded, np.where(key != RAMP, plain, 255))


def test_a_wide_image_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    data = wide_png(np.dstack([RAMP] * 3), chunks=chunk)
    assert image_size(data, "scan", LIMIT) == (64, 48)
    decoded = np.asarray(decode_image(data, "scan", LIMIT))
    assert decoded.shape == (64, 48, 3) and decoded[0].max() == 0 and decoded[-1].min() == 255


def test_wide_forms_that_are_not_read_are_refused():
    ink = wide_tiff(np.dstack([RAMP] * 4), "<", photometric=5)
    premultiplied = wide_tiff(np.dstack([RAMP] * 4), "<", extra=1)
    for data in (ink, premultiplied):
        with pytest.raises(
            UserError, match=r"image 'scan' has 16 bits a channel in a form \(.*;16.\) that is not read; convert it to 8 bits"
        ):
            decode_image(data, "scan", LIMIT)


def test_a_wide_file_that_is_cut_short_is_a_user_error():
    for name, (data, _) in wide_files().items():
        with pytest.raises(UserError, match=r"truncated or damaged|not an image"):
            decode_image(data[: len(data) // 2], name, LIMIT)


def test_large_metadata_are_no_damage():
    """Colour profiles of slide scanners, notes of image editors; what is larger still is told for what it is."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)

    def saved(format, **options):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format, **options)
        return stream.getvalue()

    def notes(letters, compressed):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", "y" * letters, zip=compressed)
        return info

    profile = b"\0" * (3 * 2**20)
    for data in (
        saved("PNG", icc_profile=profile),
        saved("PNG", pnginfo=notes(2**21, True)),
        saved("PNG", pnginfo=notes(2**21, False)),
        saved("TIFF", icc_profile=profile),
        saved("WEBP", icc_profile=profile, lossless=True),
        saved("JPEG", icc_profile=profile, quality=100),
    ):
        assert image_size(data, "tile", LIMIT) == (64, 64)
        assert np.asarray(decode_image(data, "tile", LIMIT)).shape == (64, 64, 3)
    bomb = saved("PNG", pnginfo=notes(2**26, True))
    assert len(bomb) < 2**20
    with pytest.raises(UserError, match=r"image 'tile' holds too much beside its pixels .*; save it without metadata"):
        decode_image(bomb, "tile", LIMIT)


SIDE = 4000


def as_tiff(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF")
    return stream.getvalue()


def large_files(form):
    ramp = np.broadcast_to(np.arange(SIDE, dtype=np.uint16), (SIDE, SIDE))
    if form.startswith("PNG"):
        return wide_png(np.broadcast_to(ramp[..., None], (SIDE, SIDE, int(form.split()[1]))), interlaced=form.endswith("interlaced"))
    if form == "TIFF of 3 planes":
        return wide_tiff(np.broadcast_to(ramp[..., None], (SIDE, SIDE, 3)), "<")
    return as_tiff(ramp.astype({"TIFF": np.uint16, "TIFF in float": np.float32, "TIFF of 32 bits": np.int32}[form]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "bytes_a_pixel"),
    [
        *(("PNG 1", 9), ("PNG 2", 18), ("PNG 3", 24), ("PNG 4", 30), ("PNG 3 interlaced", 24)),
        *(("TIFF", 9), ("TIFF in float", 13), ("TIFF of 32 bits", 13), ("TIFF of 3 planes", 24)),
    ],
)
def test_the_memory_of_a_wide_picture_is_bounded(form, bytes_a_pixel, tmp_path):
    """Some bytes a pixel; three copies in float64 were 24 for grey."""
    path = tmp_path / "scan"
    path.write_bytes(large_files(form))
    code = (
        "import resource, sys; from pathlib import Path; from mede2_jax.data.images import decode_image\n"
        "data = Path(sys.argv[1]).read_bytes(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode_image(data, 'scan', 10**8); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True).stdout) * 1024
    assert grown < SIDE * SIDE * bytes_a_pixel, grown / SIDE**2
