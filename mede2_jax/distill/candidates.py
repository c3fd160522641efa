"""Teachers' responses as they would teach: in one form, with their reasoning written out where they give only a summary."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mede2_jax.config import UserError
from mede2_jax.data.about import Ask, conversation
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Message, Question, Remark, Rollout
from mede2_jax.data.replies import differing_answer, read_replies
from mede2_jax.distill.config import DistillConfig
from mede2_jax.distill.rules import broken_rule, in_form, thought_and_answer
from mede2_jax.foreign import shown
from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.prompts import ABOUT
from mede2_jax.reasoning.remarks import read_expansion

UNREADABLE = "its reasoning could not be written out"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A response, as it would teach or as it came."""

    question: int
    """Number of the question."""
    origin: Rollout
    """As its teacher gave it."""
    rollout: Rollout
    """In the form of a demonstration; with a name that no other candidate has."""
    fault: str
    """Why it is none; empty: it is one."""

    @property
    def teacher(self) -> str:
        """Who gave it."""
        return self.origin.model


def read_candidates(config: DistillConfig, questions: Mapping[int, Question]) -> list[Candidate]:
    """All responses to these questions, in the order of the questions.

    Raises:
        UserError: A file is damaged, or speaks of another question or response of that id.
    """
    found: defaultdict[int, list[Rollout]] = defaultdict(list)
    for path in config.rollouts:
        replies = read_replies(path, questions, Rollout, differing_answer, lambda rollout, _: rollout)
        for number, rollouts in replies.items():
            found[number] += sorted(rollouts, key=lambda rollout: rollout.sample)
    expansions = Remarks(config.expansions, "expansion", {one.id for some in found.values() for one in some})
    candidates, names = [], Counter[str]()
    for number in sorted(found):
        for place, rollout in enumerate(found[number]):
            named = rollout.model_copy(update={"id": _name(rollout, names), "sample": place})
            candidates.append(_candidate(number, rollout, named, questions[number], expansions, config))
    expansions.check_used()
    return candidates


def _name(rollout: Rollout, names: Counter[str]) -> str:
    """An id that stays whatever other teachers there are, and ratings with it; a teacher's second response of one id gets a number."""
    is_own = rollout.model.startswith("sha256:")
    name = f"{rollout.id}@{rollout.model.removeprefix('sha256:')[:12] if is_own else rollout.model}"
    names[name] += 1
    return name if names[name] == 1 else f"{name}~{names[name]}"


def _candidate(number: int, rollout: Rollout, named: Rollout, question: Question, expansions: Remarks, config: DistillConfig) -> Candidate:
    parts, remark = thought_and_answer(rollout), expansions.about(rollout)
    fault = parts if isinstance(parts, str) else ""
    origin = {"rollout": rollout.id, "teacher": rollout.model}
    if not isinstance(parts, str):
        thought, answer = parts
        if remark:
            origin["expanded_by"] = remark[0].model
            try:
                thought = read_expansion(remark[0].response)
            except Unreadable:
                fault = UNREADABLE
        fault = fault or broken_rule(thought, answer, question, config)
        response = in_form(thought, answer)
    else:
        response = rollout.response
    changed = {"response": response, "token_ids": None, "logprobs": None, "metadata": {**rollout.metadata, "distilled": origin}}
    return Candidate(number, rollout, named.model_copy(update=changed), fault)


class Said(NamedTuple):
    """What a model says about a response."""

    where: str
    model: str
    response: str


class Remarks:
    """What models say about responses, found by the very words that they were asked.

    Args:
        paths: Files of remarks.
        ask: What was asked.
        known: Ids of the responses that there are; remarks about others are not looked at.

    Raises:
        UserError: A file is damaged, or holds answers to something else.
    """

    def __init__(self, paths: Sequence[Path], ask: Ask, known: set[str]) -> None:
        self.ask, self._used = ask, set[tuple[str, str]]()
        self._said: defaultdict[tuple[str, str], list[Said]] = defaultdict(list)
        for path in paths:
            for where, remark in _remarks(path):
                if remark.about != ABOUT[ask].title:
                    raise UserError(
                        f"{where}: it was asked {shown(remark.about)}, not {ABOUT[ask].title}; give what rollout --ask={ask} wrote"
                    )
                if remark.question_id in known:
                    said = Said(where, remark.model, remark.response)
                    self._said[remark.question_id, _digest(remark.prompt)].append(said)

    def about(self, rollout: Rollout) -> list[Said]:
        """What is said about a response; empty: nothing."""
        if not self._said:
            return []
        key = (rollout.id, _digest(conversation(rollout, self.ask)))
        self._used.add(key)
        return self._said.get(key, [])

    def check_used(self) -> None:
        """Refuses remarks about responses of known ids that say something else.

        Raises:
            UserError: Names the first.
        """
        for key, said in self._said.items():
            if key not in self._used:
                raise UserError(f"{said[0].where}: is about another response than {shown(key[0])}, in its words or its question; ask anew")


def _remarks(path: Path) -> Iterator[tuple[str, Remark]]:
    file = RecordFile(path)
    for place in range(len(file)):
        yield file.where(place), read_own(file[place], Remark, file.where(place))


def _digest(prompt: Sequence[Message]) -> str:
    text = json.dumps([message.model_dump(mode="json") for message in prompt], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
