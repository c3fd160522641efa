"""Targets of the fuzzer: what a bank of questions is made of."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from fuzz_commands import quietly
from fuzz_mutators import on_bytes, on_images, on_lines, on_text, on_yaml
from fuzz_target import Made, folder, target, written
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "bank"))
from packages import NC, article, picture, wide_picture

MAP = """name: ward
files: rows.jsonl
columns: {id: id, question: q, answer: a, options: o, licence: l, groups: [w]}
kind: choice
licence: CC-BY-4.0
"""
ROWS = [
    {"id": "r1", "q": "Which?", "a": "B", "o": {"A": "gout", "B": "sprain"}, "l": "CC BY 4.0", "w": "x"},
    {"id": "r2", "q": "Which?\nAnswer Choices: (A) x (B) y", "a": "A", "o": ["x", "y"], "l": None, "w": 3},
    {"id": 3, "q": "Where?", "a": "B", "o": '["here", "there"]', "l": "all rights reserved", "w": True},
]


def _bank(source: str, data: Path) -> None:
    from mede2_jax.bank.__main__ import main

    quietly(main, [f"--source={source}", f"--data={data}", f"--out={folder() / 'made' / 'bank.jsonl'}"])


@target()
def article_xml() -> Made:
    from mede2_jax.bank.jats import read_article

    def run(data: bytes) -> None:
        found = read_article(data, "a.nxml")
        assert all(paragraph.text for case in found.cases for paragraph in case)

    seeds = [article(), article(licence=NC), article("<sec><title>Case 1</title><p>A <xref ref-type='fig' rid='f1'/>.</p></sec>")]
    return (
        seeds,
        on_text(
            "<sec>", "</sec>", "<p>", "<fig id='f'>", "<!ENTITY a 'b'>", "&nbsp;", "&a;", "<![CDATA[", "<graphic/>", "<title>Case</title>"
        ),
        run,
    )


@target()
def article_archive() -> Made:
    def packed(name: str) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=0) as tar:
            for member, content in {"a.nxml": article(), "fig-1.png": picture(1), "fig-2.png": picture(2)}.items():
                info = tarfile.TarInfo(f"{name}/{member}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return file.getvalue()

    return [packed("PMC77"), packed("../..")], on_bytes, lambda data: _bank("pmc", written("packages/PMC77.tar.gz", data))


@target()
def bank_map() -> Made:
    place = written("ward/rows.jsonl", "\n".join(map(json.dumps, ROWS)).encode()).parent
    keys = ("name", "files", "columns", "licence", "license", "kind", "kinds", "options", "groups", "images", "where")
    return [MAP.encode()], on_yaml(*keys), lambda data: _bank(str(written("ward.yaml", data)), place)


@target()
def bank_rows() -> Made:
    config = written("rows.yaml", MAP.encode())
    return [json.dumps(row).encode() for row in ROWS], on_lines, lambda data: _bank(str(config), written("rows/rows.jsonl", data).parent)


@target()
def licence_text() -> Made:
    from mede2_jax.bank.licences import family, licence

    def run(data: bytes) -> None:
        name = licence([data.decode(errors="replace")])
        assert name == "" or (name.isascii() and family(name))

    texts = [
        "https://creativecommons.org/licenses/by/4.0/",
        "Creative Commons Attribution-NonCommercial 4.0",
        "CC BY-NC-ND",
        "all rights reserved",
    ]
    return [text.encode() for text in texts], on_text("cc", "by", "-nc", "4.0", "creative commons attribution", "non", "commercial"), run


@target()
def wide_image() -> Made:
    from mede2_jax.data.windows import windowed

    def run(data: bytes) -> None:
        if (seen := windowed(data, "a.png", 10**6, (0.5, 99.5))) is not None:
            assert Image.open(io.BytesIO(seen[0])).mode == "L" and seen[1].low <= seen[1].high

    floats = io.BytesIO()
    Image.fromarray(np.linspace(-1, 1, 48, dtype=np.float32).reshape(6, 8)).save(floats, "TIFF")
    return [wide_picture(np.arange(48).reshape(6, 8)), floats.getvalue(), picture(1)], on_images, run


QUESTIONS = [
    {
        "id": "q1",
        "prompt": [{"role": "user", "content": "Which?\nAnswer Choices: (A) gout (B) sprain"}],
        "answer": "A",
        "options": {"A": "gout", "B": "sprain"},
    },
    {
        "id": "q2",
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}],
        "images": ["a.png"],
        "metadata": {"case": "p"},
    },
    {"id": "q3", "prompt": [{"role": "user", "content": "which"}], "answer": "gout"},
]


@target()
def curated_bank() -> Made:
    from mede2_jax.curate.__main__ import main

    written("curating/a.png", picture(1))
    config = written("items/ward.yaml", MAP.replace(", licence: l", "").replace("licence: CC-BY-4.0\n", "").encode())
    written("items/rows.jsonl", json.dumps(ROWS[0] | {"q": "Why?"}).encode())

    def run(data: bytes) -> None:
        flags = [f"--leakage.task={config}", f"--leakage.data={config.parent}", "--eval_fraction=0.3"]
        quietly(main, [f"--questions={written('curating/bank.jsonl', data)}", f"--out={folder() / 'curated' / 'c.jsonl'}", *flags])

    return [json.dumps(one).encode() for one in QUESTIONS], on_lines, run
