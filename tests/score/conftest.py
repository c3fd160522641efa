"""A key for judges on loopback, and the command that scores open answers."""

import sys
from pathlib import Path

import pytest
from gemini_server import KEY
from judged import ITEMS

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "tasks"):
    sys.path.append(str(folder))

from task_files import medqa, write_jsonl  # noqa: E402  (it lies in a folder that was added above)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def data(tmp_path):
    """MedQA with eight questions, whose right answers are `drug C0`, `drug C1`, …"""
    return write_jsonl(tmp_path / "medqa.jsonl", [medqa(n) for n in range(ITEMS)])


@pytest.fixture
def command(data, tmp_path):
    """The command line that scores texts, one an item (or lists of them)."""

    def line(texts, *more, out="out"):
        rows = [row if isinstance(row, dict) else {"response": row} for row in texts]
        file = write_jsonl(tmp_path / "r.jsonl", [{"id": f"medqa-{n}"} | row for n, row in enumerate(rows)])
        return [
            *("--task=medqa", f"--data={data}", f"--responses={file}", f"--out={tmp_path / out}", "--prompt=mede2_open"),
            *more,
        ]

    return line
