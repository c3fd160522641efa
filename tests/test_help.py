"""`--help` of every command: as wide as the terminal, what it does first, and an example that a shell takes."""

import importlib
import re
import shlex

import pytest

from mede2_jax.__main__ import COMMANDS
from mede2_jax.flags import fitted

TEXT = """Do a thing to files.

  one        python -m mede2_jax.thing --in=FILE --out='A B,C D' --more=1234567890    (a comment of several words, which is long)
  two        … --n=3
  no space … --many=words that go on and on: what they mean, and more of it, until the line is full
             (alone)
  three      FOO=1 python -m mede2_jax.thing --first=1 \\
                 --second=2 --third=3

A paragraph of lines
that are short.
  plain words, indented, which are more than a line can hold of them in such a terminal
"""


@pytest.mark.parametrize("width", [50, 60, 80])
def test_a_description_fits_and_loses_nothing(width):
    found = fitted(TEXT, width)
    assert max(map(len, found.splitlines())) <= width
    words = [word for word in found.split() if word != "\\"]
    assert words == [word for word in TEXT.split() if word != "\\"]


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_an_example_over_several_lines_is_one_command(width):
    whole = " ".join(line.split("  (")[0] for line in fitted(TEXT, width).replace("\\\n", " ").splitlines() if "  one " in line)
    assert shlex.split(whole)[1:] == ["python", "-m", "mede2_jax.thing", "--in=FILE", "--out=A B,C D", "--more=1234567890"]


def test_examples_stand_below_one_another():
    lines = fitted(TEXT, 60).splitlines()
    assert lines[2].startswith("  one        python") and lines[3].startswith(" " * 13 + "-")
    assert "A paragraph of lines that are short." in lines


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_its_terminal_and_opens_with_what_the_command_does(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        module = importlib.import_module(f"mede2_jax.{command}.__main__")
    except ModuleNotFoundError:
        module = importlib.import_module(f"mede2_jax.{command}")
    try:
        module.main(["--help"])
    except SystemExit as ended:
        assert not ended.code
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if len(line) > 80]
    assert re.match(r"[A-Z][a-z]+ ", lines[0]), "what it does"
    example = next((number for number, line in enumerate(lines) if "python -m mede2_jax." in line and "usage" not in line), None)
    assert example is not None and example < 25, "and an example"
