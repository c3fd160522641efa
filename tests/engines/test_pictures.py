"""Pictures travel as their own bytes where these show what was judged, without metadata; what is sent shows the very same."""

import base64
import io
import random
import struct
import zlib

import numpy as np
import pytest
from chat_server import ChatServer
from gemini_server import GeminiServer, data
from paying import ask, request
from PIL import Image, ImageCms, PngImagePlugin

from mede2_jax.config import UserError
from mede2_jax.data.images import decode_image
from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.engines.picture import Picture, pixel_digest
from mede2_jax.engines.wire.own_bytes import own_bytes
from mede2_jax.engines.wire.pictures import travelling

LIMIT = 50_000_000
NAME = b"DOE^JANE 1970-01-01"


def scan(size=(60, 40), mode="RGB", seed=0):
    """Smooth, so that JPEG is small, and not the same when turned."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    values = np.stack([rows * 3 % 256, columns * 2 % 256, (rows + columns + seed) % 256], -1).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation=1):
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = orientation, NAME.decode()
    return tags


def commented():
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Patient", NAME.decode())
    return comment


def wide_png(colour):
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""
    width, height, channels = 8, 6, {2: 3, 6: 4}[colour]
    rows = b"".join(b"\0" + bytes((x * y * 7 + c) % 256 for x in range(width) for c in range(2 * channels)) for y in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OWN = {
    "PNG": (saved(scan(), "PNG"), "png"),
    "PNG, grey": (saved(scan(mode="L"), "PNG"), "png"),
    "PNG, palette": (saved(scan().quantize(32), "PNG"), "png"),
    "PNG, one bit": (saved(scan(mode="1"), "PNG"), "png"),
    "PNG with metadata": (saved(scan(), "PNG", pnginfo=commented(), exif=exif(), icc_profile=SRGB), "png"),
    "JPEG": (saved(scan(), "JPEG", quality=90), "jpeg"),
    "JPEG, grey": (saved(scan(mode="L"), "JPEG"), "jpeg"),
    "JPEG, progressive": (saved(scan(), "JPEG", progressive=True, quality=95, subsampling=0), "jpeg"),
    "JPEG with metadata": (saved(scan(), "JPEG", exif=exif(), icc_profile=SRGB, comment=NAME), "jpeg"),
    "JPEG with something behind it": (saved(scan(), "JPEG") + NAME * 3, "jpeg"),
    "WebP": (saved(scan(), "WEBP", quality=80), "webp"),
    "WebP, lossless": (saved(scan(), "WEBP", lossless=True), "webp"),
    "WebP with metadata": (saved(scan(), "WEBP", exif=exif(), xmp=b"<x>" + NAME + b"</x>", icc_profile=SRGB), "webp"),
}
FRAMES = {"save_all": True, "append_images": [scan(seed=9)]}
REENCODED = {
    **{f"JPEG, orientation {turn}": saved(scan(), "JPEG", exif=exif(turn)) for turn in (2, 3, 6, 8)},
    "PNG, orientation": saved(scan(), "PNG", exif=exif(6)),
    "WebP, orientation": saved(scan(), "WEBP", exif=exif(8)),
    "JPEG, CMYK": saved(scan(mode="CMYK"), "JPEG"),
    "PNG, grey of 16 bits": saved(Image.fromarray(np.asarray(scan(mode="L")).astype(np.uint16) * 16), "PNG"),
    "PNG, RGB of 16 bits": wide_png(2),
    "PNG, RGBA of 16 bits": wide_png(6),
    "PNG, RGBA": saved(scan(mode="RGBA"), "PNG"),
    "PNG, grey and alpha": saved(scan(mode="LA"), "PNG"),
    "PNG, a transparent colour": saved(scan().quantize(8), "PNG", transparency=3),
    "PNG, animated": saved(scan(), "PNG", **FRAMES),
    "WebP, animated": saved(scan(), "WEBP", **FRAMES),
    "WebP, RGBA": saved(Image.merge("RGBA", [*scan().split(), scan(mode="L")]), "WEBP"),
    "GIF": saved(scan().quantize(16), "GIF"),
    "BMP": saved(scan(), "BMP"),
    "TIFF": saved(scan(), "TIFF"),
}


def shown(content):
    """What a reader sees that knows nothing of orientations, and takes what it is given."""
    with Image.open(io.BytesIO(content)) as image:
        return pixel_digest(image)


@pytest.mark.parametrize("kind", OWN)
def test_an_upright_picture_goes_as_its_own_bytes_without_metadata(kind):
    content, format = OWN[kind]
    mime, sent = travelling(picture := Picture.read(content, "a", LIMIT))
    assert mime == f"image/{format}" and len(sent) <= len(content) and NAME not in sent and b"ICC" not in sent
    assert shown(sent) == picture.pixels == pixel_digest(decode_image(content, "a", LIMIT))
    # Compressed as they were: nothing is lost once more, and nothing grows.
    assert len(sent) > 0.5 * len(content) or "metadata" in kind or "behind" in kind


@pytest.mark.parametrize("kind", REENCODED)
def test_what_others_might_read_otherwise_goes_as_png_of_what_it_shows(kind):
    picture = Picture.read(REENCODED[kind], "a", LIMIT)
    mime, sent = travelling(picture)
    assert mime == "image/png" and shown(sent) == picture.pixels
    with Image.open(io.BytesIO(sent)) as image:
        assert (image.mode, image.size, getattr(image, "n_frames", 1)) == ("RGB", picture.size, 1) and not image.info


@pytest.mark.slow
def test_a_photograph_is_not_ten_times_its_size():
    """Twelve megapixels with noise, as cameras have it."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 12, (3000, 4000, 3), dtype=np.uint8)
    content = saved(Image.fromarray(np.asarray(scan((4000, 3000))) // 2 + noise), "JPEG", quality=80)
    picture = Picture.read(content, "a", LIMIT)
    assert len(travelling(picture)[1]) <= len(content) < 8_000_000
    assert picture.size == (4000, 3000)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_refused_or_show_what_is_sent(seed):
    rng, sent = random.Random(seed), 0
    for _ in range(150):
        content = bytearray(rng.choice([*(content for content, _ in OWN.values()), *REENCODED.values()]))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        own_bytes(bytes(content))
        try:
            picture = Picture.read(bytes(content), "a", LIMIT)
        except UserError:
            continue
        sent += 1
        assert shown(travelling(picture)[1]) == picture.pixels
    assert sent > 20


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\xff\xd8" + b"\xff" * 99, b"x" * 99]
)
def test_what_is_no_picture_has_no_bytes_of_its_own(content):
    assert own_bytes(content) is None


def asked(content):
    message = Message(role="user", content=(ImagePart(), TextPart(text="case 1")))
    return request(1, images=(Picture.read(content, "a.jpg", LIMIT),), messages=(message,))


@pytest.mark.parametrize("kind", ["JPEG with metadata", "PNG", "WebP"])
@pytest.mark.parametrize("server_type", [GeminiServer, ChatServer])
def test_apis_get_the_own_bytes_under_their_type(server_type, kind):
    content, format = OWN[kind]
    expected = travelling(Picture.read(content, "a", LIMIT))[1]
    with server_type() as server:
        ask(server, [asked(content)])
        if server_type is GeminiServer:
            part = server.bodies[0]["contents"][0]["parts"][0]
            assert (part["inlineData"]["mimeType"], data(part)) == (f"image/{format}", expected)
        else:
            url = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
            assert url == f"data:image/{format};base64,{base64.b64encode(expected).decode()}"


def test_the_digest_is_that_of_the_pixels_whatever_file_they_come_from(tmp_path):
    """So what was paid for when pictures were sent as PNG is still known."""
    png, webp = saved(scan(), "PNG"), saved(scan(), "WEBP", lossless=True)
    with GeminiServer() as server:
        for content in (png, webp):
            ask(server, [asked(content)], cache=tmp_path / "c")
        in_memory = request(1, images=(scan(),), messages=asked(png).messages)
        _, usage = ask(server, [in_memory], cache=tmp_path / "c")
    assert len(server.bodies) == 1 and usage.cached == 1


@pytest.mark.slow
def test_pictures_are_held_for_those_under_way_and_a_few_more():
    taken, most, done = [], 0, 0
    with GeminiServer(seconds=0.05) as server:
        from paying import engine

        with engine(server, concurrency=40) as chat:
            for _ in chat.answer(taken.append(number) or request(number) for number in range(160)):
                done += 1
                most = max(most, len(taken) - done)
    assert most <= 40 + 16
