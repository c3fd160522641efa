"""What models' own attempts say of questions: which are too easy, and which nobody can solve (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mede2_jax.curate.config import DifficultyOptions, Missing, SolvabilityOptions
from mede2_jax.curate.verdict import Dropped, Step
from mede2_jax.data.questions import QuestionFile
from mede2_jax.data.records import Question, Rollout
from mede2_jax.data.replies import differing_answer, read_replies
from mede2_jax.reasoning.answers import grade

NO_ANSWER, SOLVED, TOO_EASY, TOO_HARD, UNSOLVED = (
    "no right answer is known",
    "a baseline solves it",
    "models solve it too often",
    "models solve it too seldom",
    "an expert never solves it",
)
NO_REPLY = "no reply to it came"


def find_easy(file: QuestionFile, numbers: Sequence[int], options: DifficultyOptions) -> Step:
    """Questions that a baseline solves (more than half of its responses are right), or whose share of right ones is out of bounds.

    Args:
        file: The bank.
        numbers: Of the questions that are looked at; each has responses in every file.
        options: The baselines' rollouts, and the rule.

    Raises:
        UserError: A file has no response to a question, or one to another question of that id.
    """
    step, rights = _begin("difficulty", file, numbers, options)
    for number, files in rights.items():
        share = sum(sum(one) for one in files) / sum(map(len, files))
        if options.pass_rate is not None:
            low, high = options.pass_rate
            reason = TOO_HARD if share < low else TOO_EASY if share > high else ""
        else:
            reason = SOLVED if any(2 * sum(one) > len(one) for one in files) else ""
        if reason:
            step.dropped[number] = Dropped(reason, pass_rate=round(share, 4))
    return step


def find_unsolvable(file: QuestionFile, numbers: Sequence[int], options: SolvabilityOptions) -> Step:
    """Questions that an expert never solves: each has to be right at least once.

    Args:
        file: The bank.
        numbers: Of the questions that are looked at; each has responses in every file.
        options: The experts' rollouts.

    Raises:
        UserError: As `find_easy`.
    """
    step, rights = _begin("solvability", file, numbers, options)
    for number, files in rights.items():
        if not all(map(any, files)):
            step.dropped[number] = Dropped(UNSOLVED, pass_rate=round(sum(sum(one) for one in files) / sum(map(len, files)), 4))
    return step


def _begin(
    name: str, file: QuestionFile, numbers: Sequence[int], options: DifficultyOptions | SolvabilityOptions
) -> tuple[Step, dict[int, list[list[bool]]]]:
    """A step in which what cannot be told is left out; of the others, whether each response is right, file by file."""
    step, questions = Step(name), {number: file.question(number) for number in numbers}
    step.dropped = {number: Dropped(NO_ANSWER) for number, question in questions.items() if question.answer is None}
    asked = {number: question for number, question in questions.items() if number not in step.dropped}
    attempts = [_attempts(path, asked, f"--{name}.missing=accept", options.missing) for path in options.rollouts]
    step.dropped |= {number: Dropped(NO_REPLY) for number in asked if any(number not in found for found in attempts)}
    return step, {number: [found[number] for found in attempts] for number in asked if number not in step.dropped}


def _attempts(path: Path, questions: Mapping[int, Question], accept: str, missing: Missing) -> dict[int, list[bool]]:
    """Whether each response of a file is right, by question. What cannot be read is not."""

    def is_right(rollout: Rollout, question: Question) -> bool:
        return grade(rollout.response, question.answer, question.options) == "correct"

    cure = "python -m mede2_jax.rollout" if missing == "refuse" else ""
    return dict(read_replies(path, questions, Rollout, differing_answer, is_right, cure, accept))
