"""What models say about questions with images: which take no reasoning (paper, section 3.1), and how they read without what their images
show (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from mede2_jax.curate.attempts import NO_REPLY
from mede2_jax.curate.config import RefinementOptions, TypeOptions
from mede2_jax.curate.verdict import Dropped, Edited, Step
from mede2_jax.data.about import conversation, is_asked, marked_stem, with_stem
from mede2_jax.data.questions import QuestionFile
from mede2_jax.data.records import Question, Remark
from mede2_jax.data.replies import read_replies
from mede2_jax.foreign import shown
from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.prompts import ABOUT
from mede2_jax.reasoning.remarks import QuestionType, changed_beside, read_refinement, read_types

UNREADABLE = "no reply about it could be read"


def find_types(file: QuestionFile, numbers: Sequence[int], options: TypeOptions) -> Step:
    """Questions with images that are of a type to be dropped: more than half of the replies that can be read say so.

    Args:
        file: The bank.
        numbers: Of the questions that are looked at; each that has images has a reply in one of the files.
        options: Replies to `--ask=type`, and which types are dropped.

    Raises:
        UserError: A file has no reply about a question, or one about another question of that id.
    """
    step = Step("type")
    for number, replies in _said(file, numbers, options, "type").items():
        if not replies:
            step.dropped[number] = Dropped(NO_REPLY)
            continue
        readable = [types for reply in replies if (types := _types(reply)) is not None]
        if not readable:
            step.dropped[number] = Dropped(UNREADABLE)
        elif dropped := [one for one in options.drop if 2 * sum(types[one] for types in readable) > len(readable)]:
            step.dropped[number] = Dropped(f"its type is {dropped[0].replace('_', ' ')}")
    return step


def refine(file: QuestionFile, numbers: Sequence[int], options: RefinementOptions) -> Step:
    """Questions with images whose text no longer says what these show; the first reply that changes nothing else is taken.

    Where there is none, the question stays as it was, and the step says why.

    Args:
        file: The bank.
        numbers: Of the questions that are looked at, as of `find_types`.
        options: Replies to `--ask=refinement`.

    Raises:
        UserError: As `find_types`.
    """
    step = Step("refinement")
    for number in numbers:
        if (question := file.question(number)).images:
            step.edited[number] = Edited(question, "nobody was asked: its text has marks as of images")
    for number, replies in _said(file, numbers, options, "refinement").items():
        question = file.question(number)
        step.edited[number] = _edited(question, replies) if replies else Edited(question, NO_REPLY)
    return step


def _said(
    file: QuestionFile, numbers: Sequence[int], options: TypeOptions | RefinementOptions, ask: Literal["type", "refinement"]
) -> Mapping[int, list[str]]:
    """All replies about each question that a model is asked about."""
    questions = {number: question for number in numbers if is_asked(question := file.question(number), ask)}

    def differing(remark: Remark, question: Question) -> Sequence[str]:
        if remark.about != ABOUT[ask].title:
            return [f"prompt {shown(remark.about)}"]
        same = {"prompt": remark.prompt == conversation(question, ask), "images": remark.images == question.images}
        return [name for name, is_so in same.items() if not is_so]

    cure = f"python -m mede2_jax.rollout --ask={ask}" if options.missing == "refuse" else ""
    found: dict[int, list[str]] = {number: [] for number in questions}
    for path in options.rollouts:
        said = read_replies(path, questions, Remark, differing, lambda remark, _: remark.response, cure, f"--{ask}.missing=accept")
        for number, replies in said.items():
            found[number] += replies
    return found


def _types(reply: str) -> dict[QuestionType, bool] | None:
    try:
        return {name: verdict.met for name, verdict in read_types(reply).items()}
    except Unreadable:
        return None


def _edited(question: Question, replies: Sequence[str]) -> Edited:
    before, fault = marked_stem(question), UNREADABLE
    for reply in replies:
        try:
            refined = read_refinement(reply)
        except Unreadable:
            continue
        if changed := changed_beside(before, refined):
            fault = f"more is changed: {changed}"
        elif not refined.removed:
            return Edited(question, "nothing to take out")
        else:
            metadata = {**question.metadata, "refined": ABOUT["refinement"].title}
            return Edited(with_stem(question, refined.question).model_copy(update={"metadata": metadata}), "", refined.removed)
    return Edited(question, fault)
