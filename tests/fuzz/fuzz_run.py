"""Fuzzing: `bash launch/fuzz.sh [MINUTES]`. Every parser of this package gets inputs that are almost right, and must take or refuse each.

An input that a target neither takes nor refuses in its own words, in one line that a terminal can show, is a crash; so is one that
takes more than ten seconds of processor time, or ends the process. It is kept in tests/fuzz/crashes, which test_crashes.py replays.
Input i of a target follows from the seed and i alone.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import queue
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CRASHES = Path(__file__).with_name("crashes")
HANG_SECONDS = 10.0
"""Processor time that one input may take."""
STUCK_SECONDS = 60.0
"""Wall time after which a worker that does not come back is killed."""
MEMORY = 12 * 2**30
TURN_SECONDS = 0.7
"""How long one target is given inputs before it is the next one's turn."""
KEPT_OF_A_KIND = 3
LONGEST_MESSAGE = 2000
"""Beside what of an input it may repeat."""


class Hang(BaseException):
    """An input took too long."""


@dataclasses.dataclass
class Tally:
    """What became of a target's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    crashes: int = 0
    seconds: float = 0.0


_WARM: set[str] = set()


def outcome(target: Any, data: bytes) -> tuple[str, str]:
    """`accepted`, `refused` or a crash's kind, and what there is to say of it.

    Args:
        target: See fuzz_targets.Target.
        data: The input.
    """
    if target.name not in _WARM:  # what a parser imports the first time is no input's time
        _WARM.add(target.name)
        with contextlib.suppress(Exception):
            target.run(target.seeds[0])
    # Of Python's own code it is exact; what a C library does meanwhile counts as well, and ends when it returns.
    signal.signal(signal.SIGVTALRM, _hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
    try:
        target.run(data)
    except target.refusals as error:
        return _judged(str(error), len(data))
    except Hang:
        return "hang", f"more than {HANG_SECONDS:.0f} s of processor time\n{traceback.format_exc()}"
    except Exception as error:
        return f"{type(error).__name__} {_place(error)}", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return "accepted", ""


def mutated(target: Any, seed: int, number: int) -> bytes:
    """Input `number` of a target."""
    rng = random.Random(f"{seed}:{target.name}:{number}")
    return target.mutate(rng, target.seeds)


def keep(name: str, data: bytes) -> Path:
    """Where an input that crashes a target is kept."""
    CRASHES.mkdir(exist_ok=True)
    path = CRASHES / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def main() -> int:
    """Runs until the time or the number of inputs is up; 1 if there was a crash."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together (default: 1)")
    parser.add_argument("--runs", type=int, help="inputs of each target, instead of a time")
    parser.add_argument("--seed", type=int, help="of all inputs (default: from the clock; it is printed)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; may be given again")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--replay", type=Path, help="run one kept input, and show what it does")
    options = parser.parse_args()
    if options.replay:
        target = TARGETS[options.replay.name.rpartition("-")[0]]()
        print(*outcome(target, options.replay.read_bytes()), sep="\n")
        return 0
    seed = int(time.time()) if options.seed is None else options.seed
    names = options.target or list(TARGETS)
    print(f"seed {seed}, {len(names)} targets, {options.workers} worker(s)", flush=True)
    tallies = _Pool(names, seed, options).run()
    _print_table(tallies)
    return 1 if any(tally.crashes for tally in tallies.values()) else 0


class _Pool:
    """The workers, each with its share of the inputs, and who watches them."""

    def __init__(self, names: list[str], seed: int, options: argparse.Namespace) -> None:
        self.names, self.seed, self.options = names, seed, options
        self.until = time.monotonic() + options.minutes * 60
        self.context = multiprocessing.get_context("spawn")
        self.reports: Any = self.context.Queue()
        self.tallies = {name: Tally() for name in names}
        self.kinds: collections.Counter[tuple[str, str]] = collections.Counter()
        self.processes: dict[int, Any] = {}
        self.now: dict[int, Any] = {}
        self.first: dict[int, dict[str, int]] = {}

    def run(self) -> dict[str, Tally]:
        for worker in range(self.options.workers):
            self._start(worker, dict.fromkeys(self.names, 0))
        said = watched = time.monotonic()
        while self.processes:
            with contextlib.suppress(queue.Empty):
                self._take(self.reports.get(timeout=1))
            if time.monotonic() - watched > 1:
                watched = time.monotonic()
                self._watch()
            if time.monotonic() - said > 30:
                said = time.monotonic()
                done = sum(tally.inputs for tally in self.tallies.values())
                crashes = sum(tally.crashes for tally in self.tallies.values())
                print(f"{done:,} inputs, {crashes} crashes", flush=True)
        return self.tallies

    def _start(self, worker: int, begin: dict[str, int]) -> None:
        self.first[worker] = begin
        self.now[worker] = self.context.Array("q", [-1, 0, 0], lock=False)
        share = (worker, self.options.workers)
        arguments = (share, self.names, self.seed, begin, self.options.runs, self.until, self.reports, self.now[worker])
        self.processes[worker] = self.context.Process(target=_work, args=arguments, daemon=True)
        self.processes[worker].start()

    def _take(self, report: tuple[Any, ...]) -> None:
        worker, what, *rest = report
        if what == "done":
            self.processes.pop(worker).join()
        else:
            name, number, counts, seconds, crashes = rest
            tally = self.tallies[name]
            tally.inputs += sum(counts.values())
            tally.accepted += counts["accepted"]
            tally.refused += counts["refused"]
            tally.seconds += seconds
            self.first[worker][name] = number
            for kind, text, data in crashes:
                self._crash(name, kind, text, data)

    def _crash(self, name: str, kind: str, text: str, data: bytes) -> None:
        self.tallies[name].crashes += 1
        self.kinds[name, kind] += 1
        if self.kinds[name, kind] <= KEPT_OF_A_KIND:
            print(f"CRASH {name}: {kind}\n{text.rstrip()}\nkept as {keep(name, data)}", flush=True)

    def _watch(self) -> None:
        """A worker that has died or hangs leaves the input it was at; another goes on behind it."""
        from fuzz_targets import TARGETS

        for worker, process in list(self.processes.items()):
            index, number, since = self.now[worker]
            stuck = index >= 0 and since and time.monotonic() - since > STUCK_SECONDS
            if process.exitcode == 0 or (process.is_alive() and not stuck):
                continue
            process.kill()
            process.join()
            if index < 0:
                raise SystemExit(f"a worker ended before its first input (exit status {process.exitcode})")
            name = self.names[index]
            data = mutated(TARGETS[name](), self.seed, number)
            self._crash(name, "killed", f"the process ended or hung at input {number} (exit status {process.exitcode})", data)
            self._start(worker, self.first[worker] | {name: number + self.options.workers})


def _work(
    share: tuple[int, int], names: list[str], seed: int, begin: dict[str, int], runs: int | None, until: float, reports: Any, now: Any
) -> None:
    """One worker: some inputs of each target in turn, until the time or the inputs are up."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # libtiff and others write lines of their own
    from fuzz_targets import TARGETS

    worker, workers = share
    targets = {name: TARGETS[name]() for name in names}
    at = {name: worker + begin[name] - begin[name] % workers for name in names}
    left = set(names)
    while left and (runs is not None or time.monotonic() < until):
        for name in sorted(left):
            counts: collections.Counter[str] = collections.Counter()
            crashes, began = [], time.monotonic()
            while time.monotonic() < began + TURN_SECONDS:
                if runs is not None and at[name] >= runs:
                    left.discard(name)
                    break
                now[:] = names.index(name), at[name], int(time.monotonic())
                data = mutated(targets[name], seed, at[name])
                kind, text = outcome(targets[name], data)
                if kind not in ("accepted", "refused"):
                    crashes.append((kind, text, data))
                    kind = "crash"
                counts[kind] += 1
                at[name] += workers
            now[2] = 0
            reports.put((worker, "did", name, at[name], counts, time.monotonic() - began, crashes))
    reports.put((worker, "done"))


def _judged(message: str, size: int) -> tuple[str, str]:
    from mede2_jax.foreign import visible

    if message != visible(message) or "\n" in message or "\r" in message:
        return "a message of several lines, or with what a terminal obeys", repr(message[:500])
    if not message.strip() or len(message) > LONGEST_MESSAGE + 2 * size:
        return "a message that is empty or too long", repr(message[:500])
    return "refused", message


def _place(error: BaseException) -> str:
    """Where in the package it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "mede2_jax" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside the package"


def _hang(*_: object) -> None:
    raise Hang


def _print_table(tallies: dict[str, Tally]) -> None:
    print(f"{'target':22} {'inputs':>9} {'accepted':>9} {'refused':>9} {'crashes':>8} {'inputs/s':>9}")
    for name, tally in tallies.items():
        rate = tally.inputs / tally.seconds if tally.seconds else 0.0
        print(f"{name:22} {tally.inputs:9,} {tally.accepted:9,} {tally.refused:9,} {tally.crashes:8,} {rate:9,.0f}")
    print(f"{'all':22} {sum(tally.inputs for tally in tallies.values()):9,}{'':20} {sum(tally.crashes for tally in tallies.values()):8,}")


if __name__ == "__main__":
    sys.exit(main())
