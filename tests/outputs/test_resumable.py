"""A resumable run: nothing lost or made twice, sums that add up, failures kept, early ends that read no more than they must."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from counting_run import squares

from mede2_jax.config import UserError
from mede2_jax.outputs.failures import Failure, Failures
from mede2_jax.outputs.file import OutputFile, Unwritable
from mede2_jax.outputs.manifest import manifest_path
from mede2_jax.outputs.progress import undisturbed


def read(out):
    return [json.loads(line)["number"] for line in out.read_text().splitlines()]


def manifest(out):
    return json.loads(manifest_path(out).read_text())


def change(out, **values):
    manifest_path(out).write_text(json.dumps(manifest(out) | values))


def even(number):
    return None if number % 2 else ""


def stop_at(number, error=KeyboardInterrupt):
    """Makes squares up to there."""

    def make(other):
        if other == number:
            raise error
        return even(other)

    return make


def assert_adds_up(out):
    written = manifest(out)
    assert written["counts"]["squares"] == len(read(out)) == len(set(read(out))) and written["counts"]["sum"] == sum(read(out))
    assert sum(written["dropped"].values()) == len(written["failed"])
    if written["finished"]:
        assert written["counts"]["wanted"] == written["counts"]["squares"] + len(written["failed"])


def test_a_run_and_what_its_manifest_says(tmp_path):
    out = tmp_path / "s.jsonl"
    squares(out, even)
    assert read(out) == [0, 2, 4, 6, 8]
    written = manifest(out)
    assert_adds_up(out)
    assert (written["command"], written["numbers"], written["finished"]) == ("python -m mede2_jax.squares", "natural", True)
    assert written["counts"] == {"in": 10, "wanted": 10, "squares": 5, "sum": 20} and written["dropped"] == {"# is odd": 5}
    assert written["failed"][0] == {"reason": "1 is odd", "number": 1, "attempts": 1}
    assert squares(out) == [(number, 1) for number in (1, 3, 5, 7, 9)], "what failed is asked for again, and no more"
    assert squares(out) == [] and sorted(read(out)) == [*range(10)]
    assert_adds_up(out)


def test_a_smaller_limit_still_adds_up(tmp_path):
    out = tmp_path / "s.jsonl"
    squares(out, even)
    for count in (3, 1, 7, 10):
        squares(out, even, count=count)
        assert_adds_up(out)
        assert manifest(out)["finished"] and manifest(out)["counts"] == {"in": count, "wanted": 10, "squares": 5, "sum": 20}
        assert len(manifest(out)["failed"]) == 5, "what the limit leaves out has still failed"
    assert {failed["number"]: failed["attempts"] for failed in manifest(out)["failed"]} == {1: 4, 3: 3, 5: 3, 7: 2, 9: 2}


@pytest.mark.parametrize("at", [1, 3, 5, 7, 9])
def test_what_failed_before_is_known_until_it_is_tried_again(tmp_path, at):
    """A kill leaves the manifest of the run's beginning; a signal that of its end."""
    out = tmp_path / "s.jsonl"
    squares(out, even)
    attempts = {failed["number"]: 1 for failed in manifest(out)["failed"]}
    kept = []

    def killed(number):
        kept.append(manifest_path(out).read_bytes())
        return even(number)

    squares(out, killed)
    assert {failed["number"] for failed in json.loads(kept[0])["failed"]} == {*attempts}, "what a kill would have left"
    attempts = {number: 2 for number in attempts}
    with pytest.raises(SystemExit):
        squares(out, stop_at(at))
    for number in attempts:
        attempts[number] += number < at
    assert_adds_up(out)
    assert {failed["number"]: failed["attempts"] for failed in manifest(out)["failed"]} == attempts


def test_nothing_but_failures_is_kept_through_an_interruption(tmp_path):
    out = tmp_path / "s.jsonl"
    for _ in range(2):
        with pytest.raises(SystemExit):
            squares(out, lambda number: {0: None}[number] if number == 0 else stop_at(1)(number))
        assert not out.exists()
    assert manifest(out)["failed"] == [{"reason": "0 is odd", "number": 0, "attempts": 2}]
    with pytest.raises(SystemExit):
        squares(out, stop_at(1), power=3)
    assert read(out) == [0], "of another run they do not matter"
    assert manifest(out)["failed"] == []


def test_where_nothing_came_nothing_is_left(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        squares(tmp_path / "s.jsonl", stop_at(0))
    assert stop.value.code == 130 and capsys.readouterr().err == "error: interrupted; nothing is squared yet\n"
    assert not list(tmp_path.iterdir())


def test_a_failure_that_a_kill_left_beside_its_record_is_none(tmp_path):
    out = tmp_path / "s.jsonl"
    squares(out)
    change(out, failed=[{"reason": "x", "number": 3, "attempts": 1}])
    squares(out)
    assert manifest(out)["failed"] == []
    assert_adds_up(out)


def bytes_read():
    """By this process, of files."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="asks Linux what was read")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(143), UserError("broken"), OSError(28, "No space left on device")])
def test_an_early_end_reads_the_end_of_the_file_only(tmp_path, error):
    out, before = tmp_path / "s.jsonl", []

    def make(number):
        if number == 300:
            before.append(bytes_read())
            raise error
        return "x" * 40_000

    with pytest.raises((SystemExit, UserError, OSError)):
        squares(out, make, count=1000)
    took = bytes_read() - before[0]
    assert out.stat().st_size > 12_000_000 and took < 100_000, "one block from the end, to see whether the last line is whole"
    assert manifest(out)["counts"]["squares"] == 300 == len(read(out)) and not manifest(out)["finished"]


def test_records_that_a_full_disk_took_in_part_are_counted(tmp_path, monkeypatch):
    out, append = tmp_path / "s.jsonl", OutputFile.append

    def full(file, records):
        append(file, records)
        if file.size > 200:
            file._file.write(b'{"number":77,"squ')
            raise Unwritable(file.path, OSError(28, "No space left on device"))

    monkeypatch.setattr(OutputFile, "append", full)
    with pytest.raises(
        UserError, match=r"^No space left on device: .*s.jsonl; make room there; 6 squares are in .*, the same command goes on$"
    ):
        squares(out)
    assert manifest(out)["counts"]["squares"] == len(read(out)) > 4 and out.read_bytes().endswith(b"}\n")
    monkeypatch.undo()
    squares(out)
    assert sorted(read(out)) == [*range(10)]


@pytest.mark.slow
def test_a_signal_at_any_moment_leaves_counts_that_are_those_of_the_file(tmp_path):
    """A timer sends real signals, closer and closer to the beginning."""
    out, stopped = tmp_path / "s.jsonl", 0
    squares(out, count=10)
    for delay in range(50, 0, -1):
        timer = threading.Timer(delay / 500, lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            timer.start()
            squares(out, count=30_000)
        except (SystemExit, KeyboardInterrupt):
            stopped += 1
        finally:
            timer.join()
        assert out.read_bytes().endswith(b"\n") and manifest(out)["counts"]["squares"] == len(read(out)) == len(set(read(out)))
    assert stopped >= 20 and len(read(out)) > 100


def test_a_signal_waits_until_the_piece_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(1)
    assert done == [1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_config_on_the_same_file_is_refused_and_the_difference_shown(tmp_path):
    out = tmp_path / "s.jsonl"
    squares(out)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"s.jsonl was begun otherwise \(power: 2 then, 3 now\); go on with the same, or use another --out"):
        squares(out, power=3)
    manifest_path(out).unlink()
    with pytest.raises(UserError, match=r"is there without s.jsonl.manifest.json, so nobody knows how it was made"):
        squares(out)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"seconds": %s}' % ("9" * 5000), "4,300 digits"),
        ("[]", "must be an object"),
        ('{"config": {}, "seconds": "soon"}', "seconds: .*got 'soon'"),
        ('{"config": {}, "seconds": -1}', "seconds: "),
        ('{"config": [], "seconds": 1}', "config: "),
        ('{"seconds": 1}', "config: "),
        ('{"config": {"power": 2}, "failed": 3}', "failed: .*got 3"),
        ('{"config": {"power": 2}, "failed": [3]}', r"failed.0: .*got 3"),
        ('{"config": {"power": 2}, "failed": [{"reason": "x"}]}', "failed: number: "),
        ('{"config": {"power": 2}, "failed": [{"reason": 1, "number": 2}]}', "failed: reason: .*got 1"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path, text, expected):
    out = tmp_path / "s.jsonl"
    squares(out)
    before = out.read_bytes()
    manifest_path(out).write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        squares(out)
    told = str(error.value)
    assert "damaged" in told and "use another --out" in told and told.isprintable() and len(told) < 1000
    assert out.read_bytes() == before and manifest_path(out).read_text() == text


def test_a_record_that_cannot_be_counted_is_one_line_that_names_it(tmp_path):
    out = tmp_path / "s.jsonl"
    squares(out)
    out.write_text(out.read_text() + '{"number": -3, "square": 9}\n')
    with pytest.raises(UserError, match=r"s.jsonl:11: -3 is negative; use another --out"):
        squares(out)


class Several(Failure):
    numbers: tuple[int, ...]

    @property
    def items(self):
        return self.numbers

    def only(self, items):
        return self.model_copy(update={"numbers": tuple(items)})


def test_a_failure_of_several_records_is_kept_of_those_that_have_not_come():
    failures = Failures([Several(reason="3 x", numbers=(1, 2, 3)), Several(reason="4 x", numbers=(4,))], lambda item: item != 1)
    assert failures.by_reason() == {"# x": 3}
    failures.settle([2], None)
    failures.settle([5, 6], Several(reason="y", numbers=(5, 6)))
    assert [failure.numbers for failure in failures.listed()] == [(3,), (4,), (5, 6)]
    assert [failure.numbers for failure in failures.now] == [(5, 6)] and failures.by_reason(now=True) == {"y": 2}
    assert failures.count_without([4, 5]) == 1 and failures.get(3).reason == "3 x" and failures.get(2) is None
