"""From a good input to bad ones: bytes that are turned, cut and spliced, and JSON whose structure is changed before it is written again."""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[random.Random, Sequence[bytes]], bytes]
"""From a source of randomness and the seeds to an input."""

TEXTS = [
    *("", " ", "\0", "\x1b]0;title\x07", "\x1b[2J", "\x9b1m", "\r", "\n", "a\nb", "\u2028", "\u202e", "\ufeff", "\ud800", "\udfff"),
    *("e\u0301", "\0a", "x" * 300, "x" * 5000, "é" * 200, " " * 3000, "{{ 1/0 }}", "data:image/png;base64,AAAA", "%s%n", "\\"),
    *[
        "[red]x[/]",
        "[/]",
        "🧠",
        "é",
        "../../etc/passwd",
        "/",
        "a/b",
        "NaN",
        "null",
        "true",
        "-1",
        "1e999",
        "64",
        "0x10",
        "1_000",
        "https://x/a.png",
        "a.safetensors",
    ],
    *["<image>", "<|image_pad|>", "<|im_end|>", "<IMG_CONTEXT>", "<answer>B</answer>", "<think>", "user", "assistant", "system"],
]
NUMBERS = [0, -1, 1, 2, 3, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.0, 0.5, 1.5, -1.5, 1e-320, 1e308, 1e-6]
RAW = [
    "9" * 5000,
    "-" + "9" * 5000,
    "",
    *["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "01", "+1", ".5", "'a'", "tru", "{", "]"],
]
DEPTHS = (5, 60, 99, 101, 260, 1200, 9000)
KEYS = [
    "",
    "\x1b[2J",
    *["id", "type", "role", "content", "text", "images", "prompt", "messages", "__class__", "a.b", "0", "model_type", "size"],
]
TOKENS = [text.encode("utf-8", "surrogatepass") for text in TEXTS] + [
    *(b"\0\0\0\0", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"PNG", b"%!PS", b"\\ud800"),
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u0000", b"\n\n", b"NaN", b"1e999", b"[" * 500, b'{"a":' * 300, b"-", b"null"),
]


YAML_VALUES = (
    "!!float x|!!int x|!!bool x|!!timestamp x|!!map x|!!set {a, b}|!!omap [a: 1]|!!python/name:os.system x|!!binary é|!!str [a]|!!int ''|!x"
    "|2026-02-30|&a [*a]|*a|&a 1|<<: *a|.nan|.inf|1:60|0b|0x|~|''|[1, 2]|{a: 1}|- 1|>-|%|@|`|true|1e5|12_3|=|null|1__|0x_"
)


class Raw(str):
    """Text that stands in JSON as it is."""


class Pairs(list):
    """An object, in which a name may be given twice."""


def on_bytes(rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Some changes of a seed's bytes."""
    data = bytearray(rng.choice(seeds))
    words = [*TOKENS, *tokens, *tokens, *tokens]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 9))):
        at = rng.randrange(len(data) + 1)
        span = min(len(data) - at, rng.choice((1, 1, 2, 4, 8, 30, 200)))
        match rng.randrange(8):
            case 0 if data and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice((0, 1, 9, 10, 13, 27, 32, 34, 44, 58, 91, 92, 127, 128, 155, 255, rng.randrange(256)))
            case 2:
                del data[at : at + span]
            case 3:
                data[at:at] = rng.choice(words)
            case 4:
                data[at : at + span] = rng.choice(words)
            case 5:
                data[at:at] = data[at : at + span] * rng.choice((1, 2, 20))
            case 6:
                other = rng.choice(seeds)
                data = data[:at] + bytearray(other[rng.randrange(len(other) + 1) :])
            case _:
                del data[at:]
        if not data:
            data = bytearray(rng.choice(words))
    return bytes(data[:2_000_000])


def on_json(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Some changes of a JSON text's structure; now and then of its bytes."""
    if rng.random() < 0.25:
        return on_bytes(rng, seeds)
    tree = _tree(json.loads(rng.choice(seeds)))
    other = _tree(json.loads(rng.choice(seeds)))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        tree = _changed(rng, tree, other)
    text = _written(tree, ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def on_lines(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """JSON Lines, or one list of them, of which some are changed."""
    lines = [on_json(rng, seeds) if rng.random() < 0.6 else rng.choice(seeds) for _ in range(rng.choice((1, 1, 2, 3)))]
    if rng.random() < 0.2:
        return b"[" + b",".join(lines) + b"]"
    data = b"\n".join(lines)
    return on_bytes(rng, [data]) if rng.random() < 0.1 else data


def on_one_line(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """JSON Lines of which one is changed, left out or there twice."""
    lines = rng.choice(seeds).splitlines()
    at = rng.randrange(len(lines))
    lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, *[[on_json(rng, [lines[at]])]] * 8))
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b"\n", b"", b"\n\n", b'{"id'))


def on_safetensors(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A header whose structure is changed, with its length; or bytes of the file."""
    data = rng.choice(seeds)
    if rng.random() < 0.3:
        return on_bytes(rng, seeds)
    length = struct.unpack("<Q", data[:8])[0]
    header = on_json(rng, [data[8 : 8 + length]])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def on_images(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Bytes of an image; of a PNG mostly those inside a chunk, whose checksum is made right again."""
    data = rng.choice(seeds)
    if not data.startswith(b"\x89PNG") or rng.random() < 0.3:
        return on_bytes(rng, seeds)
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I", data[at : at + 4])[0], data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if rng.random() < 0.4:
            body = on_bytes(rng, [body or b"\0"])[:100_000]
        for _ in range(rng.choice((1, 1, 1, 1, 1, 0, 2))):
            out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        at += 12 + length
    return bytes(out)


def on_text(*tokens: str) -> Mutator:
    """Changes of text, with words that mean something in it."""
    words = [token.encode("utf-8", "surrogatepass") for token in tokens]
    return lambda rng, seeds: on_bytes(rng, seeds, words)


def on_yaml(*keys: str) -> Mutator:
    """Changes of YAML: values and keys of lines, and bytes."""
    values = ["9" * 5000, "[" * 300, "{a: " * 300, "\t", "? ", *YAML_VALUES.split("|")]

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        lines = rng.choice(seeds).decode().splitlines()
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(lines) or 1)
            key, colon, value = lines[at].partition(":") if lines else ("", "", "")
            match rng.randrange(6):
                case 0 | 1:
                    lines[at : at + 1] = [f"{key}: {rng.choice(values)}"]
                case 2:
                    lines[at : at + 1] = [f"{rng.choice((*keys, *KEYS, *values))}{colon}{value}"]
                case 3:
                    lines.insert(at, f"{rng.choice((*keys, *KEYS))}: {rng.choice((*values, *TEXTS))}")
                case 4:
                    lines[at : at + 1] = [" " * rng.randrange(4) + key + colon + value] * rng.choice((0, 1, 2))
                case _:
                    return on_bytes(rng, ["\n".join(lines).encode("utf-8", "surrogatepass")], [value.encode() for value in values])
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    return mutate


def on_flags(*names: str) -> Mutator:
    """Changes of a command line, one argument a line."""
    values = ["", "1", "-1", "0.5", "nan", "inf", "none", "null", "true", "x", "a,b", ",", "[1]", "{}", "9" * 5000, "1e999", *TEXTS]

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        lines = rng.choice(seeds).decode().splitlines()
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(lines) + 1)
            flag = f"{rng.choice(('--', '--', '--', '--no-', '-', ''))}{rng.choice(names)}"
            match rng.randrange(5):
                case 0:
                    lines.insert(at, f"{flag}={rng.choice(values)}")
                case 1:
                    lines.insert(at, flag)
                case 2:
                    lines.insert(at, rng.choice(values))
                case 3:
                    del lines[at:]
                case _:
                    return on_bytes(rng, ["\n".join(lines).encode("utf-8", "surrogatepass") or b"x"])
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    return mutate


def _tree(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs((name, _tree(item)) for name, item in value.items())
    return [_tree(item) for item in value] if isinstance(value, list) else value


def _places(node: Any) -> list[tuple[Any, int]]:
    """Where each value stands: a list or an object, and the number in it."""
    found, waiting = [], [node]
    while waiting:
        at = waiting.pop()
        for index, item in enumerate(at):
            found.append((at, index))
            inner = item[1] if isinstance(at, Pairs) else item
            if isinstance(inner, list):
                waiting.append(inner)
    return found


def _changed(rng: random.Random, tree: Any, other: Any) -> Any:
    places = _places(tree) if isinstance(tree, list) else []
    if not places or rng.random() < 0.03:
        return _other(rng, tree, other)
    at, index = rng.choice(places)
    is_object = isinstance(at, Pairs)
    value = at[index][1] if is_object else at[index]
    match rng.randrange(7):
        case 0:
            del at[index]
        case 1:
            at.insert(index, (at[index][0], _other(rng, value, other)) if is_object else value)
        case 2 if is_object:
            at[index] = (rng.choice((*KEYS, *TEXTS)), value)
        case 3 if is_object:
            at.insert(index, (rng.choice(KEYS), _other(rng, value, other)))
        case _:
            new = _other(rng, value, other)
            at[index] = (at[index][0], new) if is_object else new
    return tree


def _other(rng: random.Random, value: Any, other: Any) -> Any:
    """Something else in a value's place."""
    depth = rng.choice(DEPTHS)
    places = _places(other) if isinstance(other, list) else []
    borrowed = rng.choice(places) if places else ([None], 0)
    taken, value = copy.deepcopy(borrowed[0][borrowed[1]]), copy.deepcopy(value)
    choices: list[Any] = [
        *(
            None,
            True,
            False,
            [],
            Pairs(),
            Raw(rng.choice(RAW)),
            rng.choice(NUMBERS),
            rng.choice(NUMBERS),
            rng.choice(TEXTS),
            rng.choice(TEXTS),
        ),
        *([value], [value, value], Pairs([(rng.choice(KEYS), value)]), taken[1] if isinstance(taken, tuple) else taken),
        Raw("[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth),
    ]
    if isinstance(value, str):
        choices += [value + rng.choice(TEXTS), value[: len(value) // 2], Raw(json.dumps(value).replace('"', "'"))]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        choices += [-value, value + 1, value * 1000, str(value), float(value) if abs(value) < 1e300 else 0.0, bool(value)]
    return rng.choice(choices)


def _written(node: Any, *, ascii: bool) -> str:
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Pairs):
        items = (f"{json.dumps(str(name), ensure_ascii=ascii)}: {_written(item, ascii=ascii)}" for name, item in node)
        return "{" + ", ".join(items) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(_written(item, ascii=ascii) for item in node) + "]"
    return json.dumps(node, ensure_ascii=ascii)
