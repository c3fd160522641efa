"""What others wrote ends a command in one line that names file and field, and never reaches a terminal as it is, whichever way it takes."""

import json

import numpy as np
import pytest
from foreign_texts import DEEP, DIGITS, TITLE, refusal, stopped

from mede2_jax.data.readers import read_own, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, Question
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.outcome import Outcome
from mede2_jax.foreign import visible
from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.rubric import NAMES, read_reply
from mede2_jax.trace import show
from mede2_jax.train import metrics, reference
from mede2_jax.train.__main__ import main as train

MARKUP = "[red]x[/] [/nothing]"
LAUGHS = "k0: &k0 [x]\n" + "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 9))
"""Nine lines that stand for 43 million values."""

# Options.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("output: 2026-02-30", "line 1: not valid YAML: '2026-02-30' cannot be read as timestamp"),
        ("stage: sft\nepochs: !!float x", "line 2: not valid YAML: 'x' cannot be read as float"),
        ("epochs: !!int x", "'x' cannot be read as int"),
        ("epochs: !!int ''", "'' cannot be read as int"),
        ("resume: !!bool x", "'x' cannot be read as bool"),
        ("output: !!timestamp x", "'x' cannot be read as timestamp"),
        ("lora: !!map x", "expected a mapping node, but found scalar"),
        ("lora: !!set [a]", "expected a mapping node"),
        ("output: 2026-01-01T25:00:00Z", "cannot be read as timestamp"),
        (f"epochs: {DIGITS}", "cannot be read as int"),
        ("[" * 2000, "YAML nested too deeply"),
        ("lora: &a [*a]", "more than 100,000 values"),
        (LAUGHS, "more than 100,000 values"),
        (f"stage: sft\n'{TITLE}': 1".replace("\x1b", "\\e").replace("'", '"').replace("\x07", "\\a"), "unknown key '\\x1b]0;title\\x07"),
        ("stage: '\x1b'", "special characters are not allowed"),
    ],
)
def test_yaml(text, says, tmp_path, capfd):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    line = stopped(capfd, train, f"--config={file}")
    assert f"{file}" in line and says in line.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("argument", "says"),
    [("--" + "x" * 5000, "unknown option '--xxx"), ("y" * 5000, "unexpected argument 'yyy"), (f"--a{TITLE}=1", "unknown option")],
    ids=["option", "word", "control characters"],
)
def test_flags(argument, says, capfd):
    line = stopped(capfd, train, argument)
    assert says in line and len(line) < 400


# Data.


@pytest.mark.parametrize("is_list", [False, True])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"id": ' + DIGITS + "}", "a number of more than 4,300 digits"),
        ('{"id": NaN}', "NaN is no JSON number"),
        ('{"id": 1, "id": 2}', "'id' is given twice"),
        ('{"id": 1e999}', "the number 1e999 is too large"),
        ('{"id": ' + "[" * 1200 + '"\\u00e9"' + "]" * 1200 + "}", "nested too deeply"),
        ('{"id": [{"a": "\\ud800"}]}', "field 'id.0.a' holds one half of a surrogate pair"),
        ('{"\\udfff": 1}', "holds one half of a surrogate pair"),
    ],
)
def test_records(text, says, is_list, tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text(f"[{text}]" if is_list else f'{{"a": 1}}\n{text}\n')
    message = refusal(lambda: [RecordFile(file)[number] for number in range(2 - is_list)])
    assert says in message and str(file) in message and ("item 1" if is_list else ":2:") in message


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": TITLE, "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], TITLE: 1},
        {"messages": [{"role": "user", "content": [{"type": TITLE}]}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": TITLE, "value": "a"}]},
        {TITLE: 1},
    ],
)
def test_what_a_record_says_is_shown_and_not_obeyed(record, tiny_model, tmp_path, capfd):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(record))
    line = stopped(capfd, train, "--stage=sft", f"--data.path={file}", f"--output={tmp_path / 'run'}", f"--model={tiny_model}")
    assert f"{file}:1: " in line and "]0;title" in line
    for read in (lambda: read_record(record, Demonstration, "mede2", "r:1"), lambda: read_own(record, Question, "r:1")):
        refusal(read)


# What runs keep.


def test_a_damaged_cache(tmp_path):
    """A letter of the schema's text, in SQLite's own words, and a row that is bytes."""
    path = tmp_path / "cache.sqlite"
    with Cache(path) as cache:
        cache.put("a" * 64, Outcome(text="x"), api="a", model="m", cost=None)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE outcomes", b"CREATE TABLE \xff\xfftcomes"))

    def use():
        with Cache(path) as cache:
            cache.get("a" * 64)

    message = refusal(use)
    assert str(path) in message and "--cache=FILE.sqlite" in message
    for row in (b"'{\"text\": 1'", b"x'ff00'", b"'" + b"[" * 20_000 + b"'", b"3"):
        path.unlink()
        with Cache(path) as cache:
            cache.put("a" * 64, Outcome(text="x"), api="a", model="m", cost=None)
            cache._file.execute(f"UPDATE outcomes SET outcome = {row.decode()}")
        assert "is unreadable; move it away" in refusal(use)


@pytest.mark.parametrize("content", ["[1]\n", '{"loss": 1}\n', '{"step": "1"}\n', '{"step": 1, "loss": NaN}\n', b"\xff\n"])
def test_metrics_that_are_none(content, tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert "line 1 is no record of a step" in refusal(lambda: metrics._keep_until(file, 3))
    file.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert metrics._keep_until(file, 3) == [{"step": 1}, {"step": 2}], "a line that was torn by a kill is cut off"


@pytest.mark.parametrize("done", ["[]", '{"train": -1}', '{"train": "3"}', DEEP, "{", '{"train": true}'])
def test_references_that_are_damaged(done, tmp_path):
    from safetensors.numpy import save

    (tmp_path / "r").write_bytes(save({"train": np.zeros((2, 2), np.float32)}, {"digest": "d", "done": done}))
    assert "delete the file to compute them again" in refusal(lambda: reference.load_reference(tmp_path / "r", "d"))


# Replies.


@pytest.mark.parametrize(
    "number",
    [DIGITS, "-" + DIGITS, "NaN", "-Infinity", "1e999", f"1e{DIGITS}", "1" + "0" * 4300, f"[[0, {DIGITS}]]", f'{{"of": {DIGITS}}}'],
    ids=lambda number: number[:12],
)
def test_a_judges_reply_with_a_number_that_runs_away(number):
    reply = json.dumps(dict.fromkeys(NAMES.values(), "Yes"))[:-1] + f', "confidence": {number}}}'
    refusal(lambda: read_reply(reply, reasons=False), Unreadable)


@pytest.mark.parametrize("status", [400, 401])
def test_an_apis_error(status):
    import httpx2

    from mede2_jax.engines.wire.http import LONGEST_TEXT, error_text, status_fault

    for content in ({"error": {"message": f"{TITLE}{MARKUP} {'x' * 500}"}}, {"detail": TITLE}, TITLE):
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        response = httpx2.Response(status, content=body)
        message = str(status_fault("http://a", response, "fix it"))
        assert (
            message == visible(message) and "\\x1b]0;title" in message.replace("u001b", "x1b") and len(error_text(response)) <= LONGEST_TEXT
        )


def test_a_response_that_trace_shows(capsys):
    from rich.console import Console

    text = f"first\nsecond {TITLE} {MARKUP}"
    assert show._cut(text, None) == f"first\nsecond \\x1b]0;title\\x07\\x1b[2J {MARKUP}", "its lines stay"
    assert "\x1b" not in show._cut(text, 20)
    console = Console(width=200, force_terminal=False)
    console.print(show.safe(f"{TITLE}{MARKUP}"))
    printed = capsys.readouterr().out
    assert "\\x1b]0;title\\x07" in printed and MARKUP in printed
