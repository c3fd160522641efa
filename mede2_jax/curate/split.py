"""Which questions are held out: whole groups that share a case, a picture or a text, by a hash of the group's first id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from mede2_jax.curate.candidates import Bank


def held_out(bank: Bank, numbers: Sequence[int], together: Iterable[tuple[int, int]], fraction: float, seed: int) -> set[int]:
    """The questions that are held out.

    Args:
        bank: All questions.
        numbers: Of those that are split.
        together: Pairs that must not be parted; questions that were left out may stand between two.
        fraction: About which share is held out.
        seed: Another one holds out others.
    """
    parents = list(range(len(bank.questions)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        parents[high] = low

    for one, other in together:
        join(one, other)
    first: dict[object, int] = {}
    for number, known in enumerate(bank.questions):
        for shared in (*((("case", known.case),) if known.case else ()), *(("image", image) for image in known.images)):
            join(number, first.setdefault(shared, number))
    return {number for number in numbers if _draw(bank.questions[root(number)].id, seed) < fraction}


def _draw(id: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{id}".encode()).digest()[:8], "big") / 2**64
