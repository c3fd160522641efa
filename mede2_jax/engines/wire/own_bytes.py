"""An image file's own compressed pixels, without what else is in it: metadata may name a patient, and a colour profile, a thumbnail or a
second picture would make another image of it elsewhere. Nothing is decoded here; whoever sends it compares what it shows."""

from __future__ import annotations

import re
import struct

PNG = b"\x89PNG\r\n\x1a\n"
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG's markers of a frame: its depth, size and components."""
_JPEG_KEPT = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xEE}
"""Tables, and Adobe's word on colours (APP14); of the others only JFIF's (APP0)."""


def own_bytes(data: bytes) -> tuple[str, bytes] | None:
    """The MIME type and the bytes of a still PNG, JPEG or WebP of 8 bits without transparency or CMYK; None: it is something else."""
    try:
        if data.startswith(PNG):
            found, kind = _png(data), "image/png"
        elif data.startswith(b"\xff\xd8"):
            found, kind = _jpeg(data), "image/jpeg"
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            found, kind = _webp(data), "image/webp"
        else:
            return None
    except (struct.error, IndexError):  # of another build than is read here
        return None
    return None if found is None else (kind, found)


def _png(data: bytes) -> bytes | None:
    parts, at = [PNG], len(PNG)
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name in (b"acTL", b"tRNS") or end > len(data):
            return None
        if name == b"IHDR" and (data[at + 16] > 8 or data[at + 17] not in (0, 2, 3)):
            return None
        if name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            parts.append(data[at:end])
        if name == b"IEND":
            return b"".join(parts)
        at = end


def _jpeg(data: bytes) -> bytes | None:
    parts, at = [data[:2]], 2
    while True:
        while data[at + 1] == 0xFF:  # fill
            at += 1
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xD9:
            return b"".join([*parts, b"\xff\xd9"])
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if marker in _FRAMES and (data[at + 4] != 8 or data[at + 9] not in (1, 3)):
            return None
        if marker == 0xDA:
            following = _NEXT_MARKER.search(data, end)
            if following is None:
                return None
            end = following.start()
        is_jfif = marker == 0xE0 and data[at + 4 : at + 9] == b"JFIF\0" and end - at == 18
        if marker in _JPEG_KEPT or marker == 0xDA or is_jfif:
            parts.append(data[at:end])
        at = end


def _webp(data: bytes) -> bytes | None:
    pixels, at = [], 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if name in (b"ANIM", b"ANMF", b"ALPH"):
            return None
        if name in (b"VP8 ", b"VP8L"):
            pixels.append(data[at:end])
        at = end
    if len(pixels) != 1:
        return None
    return b"RIFF" + struct.pack("<I", 4 + len(pixels[0])) + b"WEBP" + pixels[0]
