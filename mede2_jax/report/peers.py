"""The same replies as other harnesses read them: columns beside ours, for choices only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from mede2_jax.reasoning.choices import Options
from mede2_jax.report.items import Content
from mede2_jax.scoring.peers import medevalkit, vlmevalkit
from mede2_jax.scoring.reading import Reading, several
from mede2_jax.tasks.asking import OPEN

PEERS: Mapping[str, Callable[[str, Options], Reading]] = {"MedEvalKit": medevalkit, "VLMEvalKit": vlmevalkit}


@dataclasses.dataclass(frozen=True)
class PeerReading:
    """What a harness makes of a score's replies."""

    correct: int
    unread: int
    """In which it reads nothing."""
    samples: int
    """Replies to choices; one that failed counts, and is never correct."""


def peer_readings(content: Content, place: int) -> dict[str, PeerReading]:
    """By harness, of the score at that place of a board.

    Nothing where replies or right answers are not at hand, and where options were not shown, or not in the order that is known here.
    """
    replies, items = content.replies[place], content.known.items
    some = [
        (items[one.id], replies.by.get(one.of), one)
        for one in content.board.scores[place].verdicts
        if one.id in items and items[one.id].options
    ]
    if content.board.prompt == OPEN or any(one.shuffle is not None for *_, one in some):
        return {}
    if not some or any(reply is None and one.finish != "failed" for _, reply, one in some):
        return {}
    found = {}
    for name, read in PEERS.items():
        readings = [
            (item, None if reply is None or one.finish == "failed" else read(reply.text, item.options)) for item, reply, one in some
        ]
        correct = sum(reading is not None and reading.answer in several(item.answer) for item, reading in readings)
        found[name] = PeerReading(correct, sum(reading is None or reading.answer is None for _, reading in readings), len(readings))
    return found
