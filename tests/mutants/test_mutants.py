"""The mutants fit the project as it is, and the runner says of each what became of it. (Trying them all: bash launch/mutants.sh.)"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mutant_form import read_entries

from mede2_jax.config import UserError

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("mutant_run.py")

CODE = """
def total(numbers):
    result = 0
    for number in numbers:
        result += number
    return result


def rest(number):
    while number >= 3:
        number -= 3
    return number
"""
TESTS = """
from mede2_jax.sums import rest, total

def test_total():
    assert total([1, 2]) == 3

def test_rest():
    assert rest(7) == 1

def test_broken():
    assert total([]) == 1
"""
SUMS = "mede2_jax/sums.py"


def entry(name, find="result += number", replace="result -= number", test="tests/test_sums.py::test_total", **more):
    return {"name": name, "file": SUMS, "find": find, "replace": replace, "test": test, **more}


@pytest.fixture
def project(tmp_path):
    """Writes a project of two functions, whose package has the name of the installed one, with these mutants in the room `sums`."""

    def write(*entries, **rooms):
        for folder in ("mede2_jax", "tests/mutants"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "mede2_jax" / "__init__.py").write_text("")
        (tmp_path / SUMS).write_text(CODE)
        (tmp_path / "tests" / "test_sums.py").write_text(TESTS)
        for room, content in {"sums": entries, **rooms}.items():
            (tmp_path / "tests" / "mutants" / f"{room}.yaml").write_text(yaml.safe_dump({"mutants": list(content)}))
        return tmp_path

    return write


def run(root, *arguments):
    """(exit status, output)."""
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(RUNNER), f"--root={root}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("entry", read_entries(ROOT), ids=lambda entry: f"{entry.room}: {entry.mutant.name}")
def test_every_mutant_fits(entry):
    assert entry.mutant.fault(ROOT) is None


@pytest.mark.slow
def test_what_is_noticed_and_what_is_not(project):
    root = project(
        entry("minus"),
        entry("starts at nothing", "result = 0", "result = None"),
        entry("same", "result += number", "result = result + number"),
        entry("interrupted", "return result", "raise KeyboardInterrupt"),
        entry("elsewhere", "retrun result", "return 0"),
        entry("twice", "return", "yield"),
        entry("no Python", "return result", "return ("),
        entry("lost import", "def total", "raise ImportError\n\n\ndef total"),
        entry("no ground", "result = 0", "result = 1", "tests/test_sums.py::test_broken"),
        entry("no test", "result = 0", "result = 1", "tests/test_sums.py -k no_test_has_this_name"),
    )
    before = (root / SUMS).read_text()
    status, output = run(root)
    assert status == 1
    found = dict(re.findall(r"sums: (.+?) +(killed|SURVIVED|BROKEN) [\d.]+ s", output))
    assert found == {
        "minus": "killed",
        "starts at nothing": "killed",
        "same": "SURVIVED",
        "interrupted": "BROKEN",
        "elsewhere": "BROKEN",
        "twice": "BROKEN",
        "no Python": "BROKEN",
        "lost import": "BROKEN",
        "no ground": "BROKEN",
        "no test": "BROKEN",
    }
    assert f"its find text is not in {SUMS}: 'retrun result'" in output and f"its find text is 2 times in {SUMS}: 'return'" in output
    assert "its test does not pass without the change either" in output and "SURVIVED: sums: same" in output
    assert re.search(r"sums +│ +10 │ +2 │ +1 │ +7 │", output), output
    assert (root / SUMS).read_text() == before, "only a copy is changed"


@pytest.mark.slow
def test_all_noticed_by_several_workers(project):
    hangs = entry("endless", "number -= 3", "number -= 0", "tests/test_sums.py::test_rest", hangs=True)
    root = project(entry("minus"), hangs, more=[entry("one rest less", ">= 3", "> 3", "tests/test_sums.py -k test_rest or test_total")])
    (root / "tests" / "test_sums.py").write_text(TESTS.replace("rest(7) == 1", "rest(7) == 1 and rest(6) == 0"))
    status, output = run(root, "-n2", "--limit=8")
    assert status == 0, output
    assert output.count("killed") == 3 + 1 and "[3/3]" in output


@pytest.mark.slow
def test_a_wait_for_ever_is_no_failed_test(project):
    root = project(entry("endless", "number -= 3", "number -= 0", "tests/test_sums.py::test_rest"))
    status, output = run(root, "--limit=8")
    assert status == 1 and "endless" in output and "no end within the time limit" in output


def test_some_of_them(project):
    root = project(entry("minus"), more=[entry("plus one", "result = 0", "result = 1")])
    assert run(root, "--list") == (
        0,
        f"more: plus one  ({SUMS}; tests/test_sums.py::test_total)\nsums: minus  ({SUMS}; tests/test_sums.py::test_total)\n",
    )
    assert "sums" not in run(root, "more", "--list")[1].replace(SUMS, "").replace("test_sums", "")
    assert run(root, "--only=PLUS", "--list")[1].count("\n") == 1
    assert run(root, "less") == (2, "error: no room 'less'; choose from more, sums\n")
    assert run(root, "--only=times") == (2, "error: no mutant there has 'times' in its name\n")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("a"), entry("a")], "the name 'a' is in sums.yaml already"),
        ([{**entry("a"), "findd": "x"}], "mutants.0.findd: Extra inputs are not permitted (got 'x')"),
        ([entry("a", replace="result += number")], "find and replace are the same text"),
        ([entry("a", test="/etc/passwd::x")], "must be a path inside the project"),
        ([{"name": "a"}], "Field required"),
        ([], "no mutants in it"),
    ],
    ids=["twice", "unknown", "no change", "outside", "missing", "empty"],
)
def test_wrong_entries_are_one_line(entries, message, project):
    root = project(*entries)
    with pytest.raises(UserError) as raised:
        read_entries(root)
    assert message in str(raised.value) and "sums.yaml" in str(raised.value) and "\n" not in str(raised.value)
    status, output = run(root)
    assert status == 2 and output.count("\n") == 1 and output.startswith("error: ")


def test_a_test_file_that_is_not_there(project):
    root = project(entry("a", test="tests/test_gone.py"))
    assert read_entries(root)[0].mutant.fault(root) == "there is no test file tests/test_gone.py"
