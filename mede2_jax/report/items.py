"""The items of a board as the page has them: an index that is small, and pieces with prompts and replies that are loaded when asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.images import read_image_bytes
from mede2_jax.report.benchmark import Known, asked_items, known_items
from mede2_jax.report.pictures import Pictures, missing
from mede2_jax.report.replies import Image, Replies, Reply, Turn, read_replies, segments
from mede2_jax.report.scores import FINISHES, OUTCOMES, Board, Verdict
from mede2_jax.scoring.reading import several

Json = dict[str, Any]
PIECE = 300_000
"""Characters of JSON after which a piece is full."""
MOST_VALUES = 60
"""Values of a group that one may filter by; one with more is none to choose from."""


class Content:
    """All that is known of a board's items.

    Args:
        board: The scores.
        pictures: Where images go.
        root: Where image paths of rollouts start, if the user says so.
    """

    def __init__(self, board: Board, pictures: Pictures, root: Path | None = None) -> None:
        self.board, self._pictures = board, pictures
        self.known: Known = known_items(board)
        self.replies: list[Replies] = [read_replies(score, root) for score in board.scores]
        self.samples: list[dict[str, list[Verdict]]] = [_by_item(score.verdicts) for score in board.scores]
        """Of each score, by item."""
        self.ids = list(dict.fromkeys(id for samples in self.samples for id in samples))
        self.faults = [*([self.known.fault] if self.known.fault else []), *(fault for one in self.replies for fault in one.faults)]
        self._asked: dict[str, tuple[tuple[Turn, ...], list[Json]]] = {}
        self._ask_benchmark()

    def asked(self, id: str) -> tuple[tuple[Turn, ...], list[Json]]:
        """The question's turns, and its images in their order."""
        if id not in self._asked:
            replies = next((one for one in self.replies if id in one.asked), None)
            if replies is None:
                return (), []
            turns = replies.asked[id]
            names = [piece.name for turn in turns for piece in turn.pieces if isinstance(piece, Image)]
            self._asked[id] = turns, [self._picture(name, replies) for name in names]
        return self._asked[id]

    def index(self) -> Json:
        """What the list and its filters need."""
        groups = {}
        for name in self.known.task.breakdowns if self.known.task is not None else ():
            of = [self.known.items[id].groups.get(name, "") if id in self.known.items else "" for id in self.ids]
            values = sorted(set(of))
            if values != [""] and len(values) <= MOST_VALUES:
                groups[name] = {"values": values, "of": [values.index(one) for one in of]}
        return {
            "name": self.board.name,
            "slug": self.board.slug,
            "models": [score.model for score in self.board.scores],
            "ids": self.ids,
            "groups": groups,
            "codes": [[_codes(samples.get(id, ())) for id in self.ids] for samples in self.samples],
        }

    def texts(self) -> list[str]:
        """What a search in questions looks at, for each item."""
        return [self._text(id) for id in self.ids]

    def pieces(self) -> Iterator[list[Json]]:
        """All items, some at a time."""
        piece: list[Json] = []
        size = 0
        for id in self.ids:
            item = self.item(id)
            size += len(json.dumps(item, ensure_ascii=False))
            piece.append(item)
            if size >= PIECE:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece

    def item(self, id: str) -> Json:
        """An item with all replies to it."""
        turns, images = self.asked(id)
        item = self.known.items.get(id)
        return {
            "id": id,
            "turns": _turns(turns),
            "images": images,
            "options": dict(item.options) if item is not None else {},
            "answer": list(several(item.answer)) if item is not None else None,
            "groups": dict(item.groups) if item is not None else {},
            "samples": [
                [_sample(one, replies.by.get(one.of), turns) for one in samples.get(id, ())]
                for samples, replies in zip(self.samples, self.replies, strict=True)
            ],
        }

    def _text(self, id: str) -> str:
        turns = self._asked[id][0] if id in self._asked else next((one.asked[id] for one in self.replies if id in one.asked), ())
        said = [piece for turn in turns if turn.role != "system" for piece in turn.pieces if isinstance(piece, str)]
        item = self.known.items.get(id)
        if not said and item is not None:
            said = [item.question, *item.options.values()]
        return "\n".join(said)

    def _ask_benchmark(self) -> None:
        """Questions whose replies are in a file without them, as the benchmark has them."""
        wanted = {id for id in self.ids if not any(id in one.asked for one in self.replies)}
        if not wanted:
            return
        try:
            for id, turns, images, fault in asked_items(self.known, self.board.prompt, wanted, keep=True):
                names = [piece.name for turn in turns for piece in turn.pieces if isinstance(piece, Image)]
                shown = [self._pictures.put(images[name], name) if name in images else missing(name, fault) for name in names]
                self._asked[id] = turns, shown
        except UserError as error:
            self.faults.append(f"{self.board.title}: questions are not shown: {error}")

    def _picture(self, name: str, replies: Replies) -> Json:
        if replies.root is None:
            return missing(name, "nobody knows where its file is")
        try:
            return self._pictures.put(read_image_bytes(replies.root, name), name)
        except UserError as error:
            return missing(name, str(error))


def as_script(value: Any) -> str:
    """JSON that neither HTML nor JavaScript takes for anything else."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for one in "<>&\u2028\u2029":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text


def _by_item(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    by: dict[str, list[Verdict]] = {}
    for one in verdicts:
        by.setdefault(one.id, []).append(one)
    return {id: sorted(some, key=lambda one: one.sample) for id, some in by.items()}


def _codes(samples: Sequence[Verdict]) -> str:
    """A letter for each sample: outcome and finish."""
    return "".join(chr(ord("a") + 4 * OUTCOMES.index(one.outcome) + FINISHES.index(one.finish)) for one in samples)


def _sample(verdict: Verdict, reply: Reply | None, asked: Sequence[Turn]) -> Json:
    """A sample; what it was asked otherwise than `asked`, as with options in another order, stands whole before its reply."""
    before: tuple[Turn, ...] = ()
    if reply is not None:
        before = reply.before if _said(reply.asked) in ([], _said(asked)) else (*reply.asked, *reply.before)
    return {
        "sample": verdict.sample,
        "read": verdict.read,
        "step": verdict.step,
        "outcome": verdict.outcome,
        "finish": verdict.finish,
        "reply": None if reply is None else segments(reply.text),
        **({"before": _turns(before)} if before else {}),
        **({"order": verdict.order} if verdict.order else {}),
        **({"rule": verdict.rule} if verdict.rule else {}),
        **({} if verdict.top5 is None else {"top5": verdict.top5}),
        **({"tokens": reply.tokens} if reply is not None and reply.tokens is not None else {}),
    }


def _said(turns: Sequence[Turn]) -> list[tuple[str, list[str | None]]]:
    """The words of a conversation, and where its images stand, whatever their files are called."""
    return [(turn.role, [None if isinstance(piece, Image) else piece for piece in turn.pieces]) for turn in turns]


def _turns(turns: Sequence[Turn]) -> list[Mapping[str, Any]]:
    """Texts as they are; an image is its number."""
    count = iter(range(1 << 30))
    return [{"role": turn.role, "pieces": [next(count) if isinstance(piece, Image) else piece for piece in turn.pieces]} for turn in turns]
