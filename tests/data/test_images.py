import contextlib
import io
import zlib

import numpy as np
import pytest
from data_builders import write_image
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.images import decode_image, image_size, read_image_bytes, resolve_image

LIMIT = 1_000_000

# Pillow warns about damaged TIFF tags before it gives up.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_paths_stay_under_the_root(tmp_path):
    root = tmp_path / "root"
    inside = write_image(root / "a" / "b.png", 30, 30)
    outside = write_image(tmp_path / "secret.png", 30, 30)
    (root / "link.png").symlink_to(outside)
    (root / "good_link.png").symlink_to(inside)
    assert resolve_image(root, "a/b.png") == inside.resolve()
    assert resolve_image(root, "a/../good_link.png") == inside.resolve()
    assert resolve_image(root, str(inside)) == inside.resolve()
    for name in ("../secret.png", str(outside), "link.png", "a/../../secret.png"):
        with pytest.raises(UserError, match="outside the image root"):
            resolve_image(root, name)
    with pytest.raises(UserError, match="not found"):
        resolve_image(root, "none.png")
    with pytest.raises(UserError, match="not found"):
        resolve_image(root, "a")
    with pytest.raises(UserError, match="not a file"):
        resolve_image(root, "https://example.org/a.png")
    assert read_image_bytes(root, "a/b.png") == inside.read_bytes()


def test_orientation_turns_size_and_pixels():
    image = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("JPEG", "PNG"):
        data = encoded(image, format, exif=exif)
        assert image_size(data, "a", LIMIT) == (30, 20)
        assert decode_image(data, "a", LIMIT).size == (20, 30)


def test_transparency_lies_over_white():
    values = np.zeros((4, 4, 4), dtype=np.uint8)
    values[0, 0] = (255, 0, 0, 255)
    values[1, 1] = (0, 0, 0, 128)
    out = np.asarray(decode_image(encoded(Image.fromarray(values, "RGBA")), "a", LIMIT))
    assert out[0, 0].tolist() == [255, 0, 0] and out[2, 2].tolist() == [255, 255, 255]
    assert abs(int(out[1, 1, 0]) - 127) <= 1
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    out = np.asarray(decode_image(encoded(palette, transparency=0), "a", LIMIT))
    assert out.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_wide_grey_values_are_stretched():
    ramp = np.linspace(100, 4095, 64).astype(np.uint16).reshape(8, 8)
    for format in ("PNG", "TIFF"):
        out = np.asarray(decode_image(encoded(Image.fromarray(ramp), format), "a", LIMIT))
        assert out.shape == (8, 8, 3) and out.min() == 0 and out.max() == 255
        assert (np.diff(out[..., 0].ravel().astype(int)) >= 0).all()
    floats = np.linspace(-1, 1, 64).astype(np.float32).reshape(8, 8)
    floats[3, 3] = np.nan
    out = np.asarray(decode_image(encoded(Image.fromarray(floats), "TIFF"), "a", LIMIT))
    assert out.min() == 0 and out.max() == 255
    flat = np.full((8, 8), 700, dtype=np.uint16)
    assert np.asarray(decode_image(encoded(Image.fromarray(flat)), "a", LIMIT)).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new(mode, (12, 9))
    data = (
        encoded(image, "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF")
        if mode != "HSV"
        else encoded(image.convert("RGB"))
    )
    out = decode_image(data, "a", LIMIT)
    assert out.mode == "RGB" and out.size == (12, 9)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_files_are_user_errors(format):
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(values), format)
    decode_image(data, "a", LIMIT)
    for keep in (len(data) // 2, len(data) // 4, 40, 8, 0):
        with pytest.raises(UserError, match=r"scan\.png") as caught:
            decode_image(data[:keep], "scan.png", LIMIT)
        assert "\n" not in str(caught.value)


def test_damaged_bytes_never_raise_anything_else():
    generator = np.random.default_rng(1)
    for format in ("PNG", "JPEG", "TIFF", "WEBP"):
        data = bytearray(encoded(Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)), format))
        for _ in range(150):
            broken = bytearray(data)
            for at in generator.integers(0, len(broken), 6):
                broken[at] = generator.integers(0, 256)
            for read in (image_size, decode_image):
                with contextlib.suppress(UserError):
                    read(bytes(broken), "a", LIMIT)


def test_enormous_and_extreme_images_are_refused_by_their_header():
    with pytest.raises(UserError, match=r"2000×1000 = 2,000,000 pixels.*max_image_pixels=1,000,000"):
        image_size(encoded(Image.new("L", (2000, 1000))), "a", LIMIT)
    bomb = bytearray(encoded(Image.new("L", (10, 10))))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(UserError, match=r"enormous|pixels"):
        decode_image(bytes(bomb), "a", LIMIT)
    with pytest.raises(UserError, match="longer than 200 times"):
        image_size(encoded(Image.new("L", (2010, 10))), "a", LIMIT)
    image_size(encoded(Image.new("L", (2000, 10))), "a", LIMIT)


def test_formats_that_call_other_programs_are_refused():
    """Pillow hands EPS to Ghostscript; data from strangers must not reach it."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(UserError, match=r"a\.eps"):
        image_size(eps, "a.eps", 1000)
