"""What models' own attempts say of questions: which are too easy, and which nobody can solve (paper, section 3.1)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mede2_jax.config import MOST_FAULTS, UserError, counted
from mede2_jax.curate.config import DifficultyOptions, SolvabilityOptions
from mede2_jax.curate.verdict import Dropped, Step
from mede2_jax.data.questions import QuestionFile
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Question, Rollout
from mede2_jax.foreign import shown
from mede2_jax.reasoning.answers import grade

NO_ANSWER, SOLVED, TOO_EASY, TOO_HARD, UNSOLVED = (
    "no right answer is known",
    "a baseline solves it",
    "models solve it too often",
    "models solve it too seldom",
    "an expert never solves it",
)
_SAME = ("prompt", "images", "answer", "options")


def find_easy(file: QuestionFile, numbers: Sequence[int], options: DifficultyOptions) -> Step:
    """Questions that a baseline solves (more than half of its responses are right), or whose share of right ones is out of bounds.

    Args:
        file: The bank.
        numbers: Of the questions that are looked at; each has responses in every file.
        options: The baselines' rollouts, and the rule.

    Raises:
        UserError: A file has no response to a question, or one to another question of that id.
    """
    step, rights = _begin("difficulty", file, numbers, options.rollouts)
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
    step, rights = _begin("solvability", file, numbers, options.rollouts)
    for number, files in rights.items():
        if not all(map(any, files)):
            step.dropped[number] = Dropped(UNSOLVED, pass_rate=round(sum(sum(one) for one in files) / sum(map(len, files)), 4))
    return step


def _begin(name: str, file: QuestionFile, numbers: Sequence[int], paths: Sequence[Path]) -> tuple[Step, dict[int, list[list[bool]]]]:
    """A step in which what has no right answer is left out; of the others, whether each response is right, file by file."""
    step, questions = Step(name), {number: file.question(number) for number in numbers}
    step.dropped = {number: Dropped(NO_ANSWER) for number, question in questions.items() if question.answer is None}
    asked = {number: question for number, question in questions.items() if number not in step.dropped}
    attempts = [_attempts(path, asked) for path in paths]
    return step, {number: [found[number] for found in attempts] for number in asked}


def _attempts(path: Path, questions: Mapping[int, Question]) -> dict[int, list[bool]]:
    """Whether each response of a file is right, by question. What cannot be read is not."""
    numbers, found = {question.id: number for number, question in questions.items()}, defaultdict[int, list[bool]](list)
    file, seen = RecordFile(path), Counter[str]()
    for place in range(len(file)):
        rollout = read_own(file[place], Rollout, file.where(place))
        if (number := numbers.get(rollout.question_id)) is None:
            continue
        question = questions[number]
        if differing := [name for name in _SAME if getattr(rollout, name) != getattr(question, name)]:
            told = f"its {' and '.join(differing)} differ{'s' if len(differing) == 1 else ''}"
            raise UserError(f"{file.where(place)}: answers another question than {shown(question.id)} of the bank ({told}); sample it anew")
        seen[rollout.id] += 1
        if seen[rollout.id] > 1:
            raise UserError(f"{file.where(place)}: the id {shown(rollout.id)} is there twice; take one out")
        found[number].append(grade(rollout.response, question.answer, question.options) == "correct")
    if missing := [question.id for number, question in questions.items() if number not in found]:
        some = ", ".join(map(shown, missing[:MOST_FAULTS])) + (", …" if len(missing) > MOST_FAULTS else "")
        raise UserError(f"{path} has no response to {counted(len(missing), 'question')} ({some}); sample them: python -m mede2_jax.rollout")
    return found
