import contextlib
import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from data_builders import write_image
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.images import check_image, decode_image, image_size, read_image_bytes, resolve_image

LIMIT = 1_000_000

# The module silences Pillow's warnings for the process; pytest brings its own filters.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::RuntimeWarning")]


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
    with pytest.raises(UserError, match=r"is a link out of the image root .*secret\.png'; copy the folder with its links followed"):
        resolve_image(root, "link.png")
    for name in ("../secret.png", str(outside), "a/../../secret.png"):
        with pytest.raises(UserError, match="outside the image root"):
            resolve_image(root, name)
    with pytest.raises(UserError, match="not found"):
        resolve_image(root, "none.png")
    with pytest.raises(UserError, match="not found"):
        resolve_image(root, "a")
    with pytest.raises(UserError, match="not a file"):
        resolve_image(root, "https://example.org/a.png")
    assert read_image_bytes(root, "a/b.png") == inside.read_bytes()


@pytest.mark.parametrize("name", ["loop", "loop/a.png", "a/../loop", "one", "two/b.png"])
def test_a_link_that_leads_back_to_itself_is_one_line(tmp_path, name):
    (tmp_path / "a").mkdir()
    for link, target in (("loop", "loop"), ("one", "two"), ("two", "one")):
        (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=rf"image '{name}' (is, or lies behind, a link that leads back to itself|not found)") as caught:
        resolve_image(tmp_path, name)
    assert "\n" not in str(caught.value)


@pytest.fixture
def snapshot(tmp_path):
    """A data set's images as huggingface_hub keeps them: links from a snapshot to blobs."""
    repository = tmp_path / "datasets--a--b"
    folder = repository / "snapshots" / "0f1e" / "images"
    folder.mkdir(parents=True)
    write_image(repository / "blobs" / "scan.png", 30, 30).rename(repository / "blobs" / "9a7c")
    (folder / "scan.png").symlink_to("../../../blobs/9a7c")
    return folder.parent


@pytest.mark.parametrize("start", [".", "images", "images/.."])
def test_links_of_a_hub_cache_are_followed(snapshot, tmp_path, start):
    name, blob = "scan.png" if start == "images" else "images/scan.png", snapshot.parents[1] / "blobs" / "9a7c"
    assert resolve_image(snapshot / start, name) == blob.resolve()
    assert decode_image(read_image_bytes(snapshot / start, name), name, LIMIT).size == (30, 30)
    (tmp_path / "elsewhere").symlink_to(snapshot)
    assert resolve_image(tmp_path / "elsewhere" / start, name) == blob.resolve()


def test_nothing_but_the_blobs_of_the_repository_is_reached_from_a_snapshot(snapshot, tmp_path):
    secret, other = write_image(tmp_path / "secret.png", 30, 30), write_image(tmp_path / "datasets--c--d" / "blobs" / "x.png", 30, 30)
    repository = snapshot.parents[1]
    write_image(repository / "refs" / "main.png", 30, 30)
    (repository / "blobs" / "out").symlink_to(secret)
    targets = {"a.png": secret, "b.png": other, "c.png": repository / "refs" / "main.png", "d.png": repository / "blobs" / "out"}
    for name, target in targets.items():
        (snapshot / name).symlink_to(target)
        with pytest.raises(UserError, match="is a link out of the image root"):
            resolve_image(snapshot, name)
    for name in ("../../blobs/9a7c", "../../refs/main.png", str(repository / "blobs" / "9a7c")):
        with pytest.raises(UserError, match="outside the image root"):
            resolve_image(snapshot, name)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.png").symlink_to(repository / "blobs" / "9a7c")
    with pytest.raises(UserError, match="is a link out of the image root"):
        resolve_image(tmp_path / "plain", "a.png")
    # blobs that are a link themselves are not the repository's
    (repository / "blobs").rename(tmp_path / "blobs")
    (repository / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(UserError, match="is a link out of the image root"):
        resolve_image(snapshot, "images/scan.png")


def test_orientation_turns_size_and_pixels():
    image = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("JPEG", "PNG", "TIFF", "WEBP"):
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


def bomb(width, height):
    """A few bytes that claim to be an image of that size."""
    data = bytearray(encoded(Image.new("L", (10, 10))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def gif_bomb():
    """A frame of 65535×65535 that Pillow would fill while it reads the header, were it not for its own limit."""
    size = b"\xff\xff\xff\xff"
    return b"GIF89a" + size + bytes(3) + b"!\xf9\x04\x08" + bytes(4) + b"," + bytes(4) + size + b"\0\x02\x02\x44\x01\0;"


def test_enormous_and_extreme_images_are_refused_by_their_header():
    with pytest.raises(UserError, match=r"2000×1000 = 2,000,000 pixels.*max_image_pixels=1,000,000"):
        image_size(encoded(Image.new("L", (2000, 1000))), "a", LIMIT)
    for data, pixels in (
        (bomb(60_000, 60_000), r".*3,600,000,000"),
        (bomb(20_000, 6_000), "20000×6000 = 120,000,000"),
        (gif_bomb(), ".*4,294,836,225"),
    ):
        for read in (image_size, decode_image):
            with pytest.raises(UserError, match=rf"image 'a' has {pixels} pixels, more than data.max_image_pixels=1,000,000"):
                read(data, "a", LIMIT)
    with pytest.raises(UserError, match="longer than 200 times"):
        image_size(encoded(Image.new("L", (2010, 10))), "a", LIMIT)
    image_size(encoded(Image.new("L", (2000, 10))), "a", LIMIT)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "lzma", "zstd", "group4"])
def test_libtiff_writes_no_lines_of_its_own(compression, tmp_path):
    noise = Image.effect_noise((64, 64), 50)
    data = bytearray(encoded(noise.convert("1") if compression == "group4" else noise, "TIFF", compression=compression))
    data[20:400] = bytes(byte ^ 0x5A for byte in data[20:400])
    (tmp_path / "scan.tif").write_bytes(data)
    program = (
        f"from mede2_jax.data.images import decode_image as d; d(open({str(tmp_path / 'scan.tif')!r}, 'rb').read(), 'scan.tif', 10**6)"
    )
    errors = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr
    if compression == "group4":  # has no checksum: libtiff guesses on, and its guesses are not told either
        assert not errors
        return
    assert "mede2_jax.config.UserError: image 'scan.tif' is truncated or damaged" in errors
    assert errors.startswith("Traceback"), "and nothing before it"


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_several_frames_are_noticed_and_the_first_is_used(format):
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "lime")]
    several = check_image(encoded(frames[0], format, save_all=True, append_images=frames[1:]), "a", LIMIT)
    one = check_image(encoded(frames[0], format), "a", LIMIT)
    assert several.is_stack and not one.is_stack and several.size == one.size == (30, 40)
    image = decode_image(encoded(frames[0], format, save_all=True, append_images=frames[1:]), "a", LIMIT)
    assert abs(np.asarray(image).astype(int) - [255, 0, 0]).max() < 10


def test_the_preview_in_a_cameras_jpeg_is_no_second_frame():
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    assert not check_image(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), "a", LIMIT).is_stack


def test_our_limit_decides_also_above_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(Image.new("L", (30, 20)))
    with pytest.raises(UserError, match=r"600 pixels, more than data.max_image_pixels=50;"):
        decode_image(data, "a", 50)
    assert image_size(data, "a", 600) == (20, 30) and decode_image(data, "a", 600).size == (30, 20)


def test_no_warning_of_pillows_comes_before_our_line(tmp_path):
    damaged = encoded(Image.new("L", (64, 64)), "TIFF")[:40]
    for name, data in (("large", bomb(12_000, 10_000)), ("larger", bomb(60_000, 60_000)), ("damaged", damaged)):
        (tmp_path / name).write_bytes(data)
    code = f"""
from pathlib import Path
from mede2_jax.config import UserError
from mede2_jax.data.images import image_size
for name in ("large", "larger", "damaged"):
    try:
        image_size(Path({str(tmp_path)!r}, name).read_bytes(), name, 1_000_000)
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split("'")[1] for line in done.stdout.splitlines()] == ["large", "larger", "damaged"] and done.stderr == ""


def test_a_name_that_is_no_path_is_a_user_error(tmp_path):
    for name in ("iVBORw0KGgo" * 1000, "a\0.png"):
        with pytest.raises(UserError, match="is no path; save images as files") as caught:
            resolve_image(tmp_path, name)
        assert len(str(caught.value)) < 200


def test_formats_that_call_other_programs_are_refused():
    """Pillow hands EPS to Ghostscript; data from strangers must not reach it."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(UserError, match=r"a\.eps"):
        image_size(eps, "a.eps", 1000)
