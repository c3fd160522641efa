"""Each response read and judged: the items that belong to the responses, and one verdict for every sample."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mede2_jax.config import MOST_FAULTS, UserError, counted
from mede2_jax.foreign import shown
from mede2_jax.reasoning.answers import Outcome
from mede2_jax.score.responses import Finish, Response, Responses
from mede2_jax.scoring.modes import Mode, judge
from mede2_jax.scoring.reading import NOTHING, Reading, Verdict
from mede2_jax.tasks.catalogue import Items, check_unique, digest_of
from mede2_jax.tasks.item import Item, Task
from mede2_jax.tasks.shuffling import meant_by, shuffled
from mede2_jax.tasks.tables import rows


@dataclasses.dataclass(frozen=True)
class Sample:
    """What became of one response."""

    id: str
    sample: int
    reading: Reading
    outcome: Outcome
    finish: Finish
    shuffle: int | None = None
    """As of `Response`, as what follows. What was read is the option by its own letter, wherever it was shown."""
    order: str = ""
    of_order: int = 0
    """The number of the sample among those in the same order; `sample` is the one among all of the item."""
    by_rule: Verdict | None = None
    """What the rule says, where a judge was asked besides."""
    top5: bool | None = None
    """Whether one of five diagnoses is right; None where one is asked for."""

    @property
    def name(self) -> str:
        """Which sample of which item; in an order of seed 7 `medqa-3#0~7`."""
        return f"{self.id}#{self.sample}" if self.shuffle is None else f"{self.id}#{self.of_order}~{self.shuffle}"

    @property
    def asked(self) -> dict[str, int | str]:
        """How its options were shown; empty: in the owner's own order."""
        return {} if self.shuffle is None else {"shuffle": self.shuffle, "of_order": self.of_order, "order": self.order}


def carried_items(task: Task, responses: Responses) -> Items:
    """The items that a file of responses carries, as the owners' output files do.

    Raises:
        UserError: Rows do not have what an item of the task has; or two rows of one id have other items.
    """
    items: dict[str, Item] = {}
    for where, row in rows(responses.path):
        if not task.wants(row):
            continue
        item = task.read(row, where)
        if item.id and items.setdefault(item.id, item) != item:
            raise UserError(f"{where}: the item {shown(item.id)!r} is another here than in a row before")
        if not item.id:
            raise UserError(f"{where}: the row has no id; give the benchmark's files with --data")
    held = tuple(item for item in items.values() if task.holds(item))
    task.check_set(held, str(responses.path))
    return Items(task, (responses.path,), digest_of([responses.path]), held)


def pair(items: Items, responses: Responses, *, partial: bool) -> dict[str, list[Response]]:
    """The responses of each item that has some, in the items' order, by sample.

    Raises:
        UserError: An id that is no item's, or one sample twice; without `partial`, items or samples that are missing.
    """
    known = items.by_id
    if unknown := sorted({response.id for response in responses.responses} - known.keys()):
        raise UserError(
            f"{responses.path}: {_ids(unknown)} {'is' if len(unknown) == 1 else 'are'} no item of {items.task.name} in {items.files[0]}, "
            f"whose ids are such as {shown(items.items[0].id)}; are these responses to that benchmark, and is its file the same revision?"
        )
    check_unique(((one.id, _which(one)) for one in responses.responses), str(responses.path))
    by_id: dict[str, list[Response]] = defaultdict(list)
    for response in responses.responses:
        by_id[response.id].append(response)
    if not partial:
        _check_complete(items, responses.path, by_id)
    return {name: sorted(by_id[name], key=_place) for name in known if name in by_id}


def as_asked(items: Items, prompt: str) -> tuple[Items, list[str]]:
    """The items as those who answer `prompt` see them, and the ids of those that cannot be asked so."""
    seen = [(item.id, items.task.as_asked(item, prompt)) for item in items.items]
    kept = tuple(item for _, item in seen if item is not None)
    return dataclasses.replace(items, items=kept), [name for name, item in seen if item is None]


def judged(items: Items, responses: Mapping[str, Sequence[Response]], mode: Mode, prompt: str) -> list[Sample]:
    """The verdict of every response."""
    known = items.by_id
    samples = []
    for name, some in responses.items():
        item = known[name]
        rule = items.task.rule_for(item, prompt)
        for place, response in enumerate(some):
            number = response.sample if response.shuffle is None else place
            asked = response.shuffle, response.order, response.sample
            if response.finish == "failed":
                samples.append(Sample(name, number, Reading(None, NOTHING), "unparsed", "failed", *asked))
                continue
            if item.options and (response.shuffle is None) != (not response.order):
                raise UserError(f"{shown(name)}: a reply says only half of how its options were shown (seed and order); sample it anew")
            if response.order:
                verdict = _shuffled(items.task, item, response, mode, prompt)
            else:
                verdict = judge(mode, response.text, item.answer, rule, item.options or None)
            samples.append(Sample(name, number, verdict.reading, verdict.outcome, response.finish, *asked))
    return samples


def _shuffled(task: Task, item: Item, response: Response, mode: Mode, prompt: str) -> Verdict:
    """Read and judged as it was asked; what was read then stands for the option that was shown there."""
    shown_item = shuffled(task, item, response.order)
    verdict = judge(mode, response.text, shown_item.answer, task.rule(shown_item, prompt), shown_item.options)
    answer = meant_by(verdict.reading.answer, item, response.order)
    return dataclasses.replace(verdict, reading=dataclasses.replace(verdict.reading, answer=answer))


def _which(one: Response) -> str:
    shuffle = "" if one.shuffle is None else f" (options in the order of seed {one.shuffle})"
    return shuffle + (f" (sample {one.sample})" if one.sample else "")


def _place(one: Response) -> tuple[int, int]:
    return -1 if one.shuffle is None else one.shuffle, one.sample


def _check_complete(items: Items, path: Path, by_id: Mapping[str, Sequence[Response]]) -> None:
    missing = [item.id for item in items.items if item.id not in by_id]
    known = items.by_id
    orders = {one.shuffle for name, some in by_id.items() if known[name].options for one in some}
    # What has no options is asked in no order, and so has that many times fewer samples.
    once = {name for name, some in by_id.items() if not known[name].options and all(one.shuffle is None for one in some)}
    counts = {name: len(some) * max(len(orders) if name in once else 1, 1) for name, some in by_id.items()}
    most = max(counts.values())
    fewer = [name for name, count in counts.items() if count < most]
    told = []
    if missing:
        told.append(f"{counted(len(missing), 'item')} of {len(items.items):,} without a response ({_ids(missing)})")
    if fewer:
        told.append(f"{counted(len(fewer), 'item')} with fewer than {most} samples ({_ids(fewer)})")
    if told:
        raise UserError(f"{path}: {' and '.join(told)}; give all, or score what is there with --partial")


def _ids(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:MOST_FAULTS]) + (", …" if len(names) > MOST_FAULTS else "")


def steps_of(samples: Sequence[Sample]) -> dict[str, int]:
    """How often each step of the rule decided, the most frequent first."""
    return dict(Counter(sample.reading.step for sample in samples).most_common())
