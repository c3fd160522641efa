"""Files of replies to a bank's questions, as `python -m mede2_jax.rollout` writes them: each of the very question that the bank has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mede2_jax.config import MOST_FAULTS, UserError, counted
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Question, Remark, Rollout
from mede2_jax.foreign import shown

RolloutT = TypeVar("RolloutT", Rollout, Remark)
Found = TypeVar("Found")
_SAME = ("prompt", "images", "answer", "options")


def differing_answer(rollout: Rollout, question: Question) -> Sequence[str]:
    """In what a response is one to another question than this."""
    return [name for name in _SAME if getattr(rollout, name) != getattr(question, name)]


def read_replies(
    path: Path,
    questions: Mapping[int, Question],
    kind: type[RolloutT],
    differing: Callable[[RolloutT, Question], Sequence[str]],
    take: Callable[[RolloutT, Question], Found],
    cure: str = "",
    accept: str = "",
) -> dict[int, list[Found]]:
    """What is taken of each reply of a file, by question.

    Args:
        path: The file. Replies to other questions may stand there too.
        questions: By number.
        kind: Of its records.
        differing: In what a reply is of another question.
        take: What is to be known of it.
        cure: The command that makes such a file; empty: not every question needs a reply.
        accept: What the user may say to go on without some, for the error.

    Raises:
        UserError: A line is not as it should be, is of another question of that id, or is there twice; a question has no reply.
    """
    numbers, found = {question.id: number for number, question in questions.items()}, defaultdict[int, list[Found]](list)
    file, seen = RecordFile(path), Counter[str]()
    for place in range(len(file)):
        reply = read_own(file[place], kind, file.where(place))
        if (number := numbers.get(reply.question_id)) is None:
            continue
        question = questions[number]
        if names := differing(reply, question):
            told = f"its {' and '.join(names)} differ{'s' if len(names) == 1 else ''}"
            raise UserError(f"{file.where(place)}: is of another question than {shown(question.id)} of the bank ({told}); sample it anew")
        seen[reply.id] += 1
        if seen[reply.id] > 1:
            raise UserError(f"{file.where(place)}: the id {shown(reply.id)} is there twice; take one out")
        found[number].append(take(reply, question))
    if cure and (missing := [question.id for number, question in questions.items() if number not in found]):
        some = ", ".join(map(shown, missing[:MOST_FAULTS])) + (", …" if len(missing) > MOST_FAULTS else "")
        without = f"; or go on without: {accept}" if accept else ""
        raise UserError(f"{path} has no response to {counted(len(missing), 'question')} ({some}); sample them: {cure}{without}")
    return found
