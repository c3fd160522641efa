"""What a bank holds, and how the command refuses."""

import json
from pathlib import Path

import pytest

from mede2_jax.bank.__main__ import main
from mede2_jax.config import UserError
from mede2_jax.data.records import Question


def bank(out):
    return [Question.model_validate_json(line) for line in Path(out).read_text("utf-8").splitlines()]


def manifest(out):
    return json.loads(Path(f"{out}.manifest.json").read_text("utf-8"))


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def refused(arguments):
    with pytest.raises(UserError) as fault:
        main(arguments)
    said = str(fault.value)
    assert "\n" not in said
    return said
