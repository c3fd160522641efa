"""DiagnosisArena (SPIRAL-MED/DiagnosisArena): 915 cases, with four options, or open: five diagnoses, which a judge scores."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from mede2_jax.foreign import JSONFault, parse_json
from mede2_jax.reasoning.prompts import DIAGNOSIS
from mede2_jax.scoring.diagnosisarena import OWNERS_JUDGE, read_choice
from mede2_jax.scoring.reading import Rule
from mede2_jax.scoring.texts import open_rule
from mede2_jax.tasks.asking import Asked
from mede2_jax.tasks.item import LETTERED, Item, Task, letter, options_of, text, written_options

SECTIONS = ("Case Information", "Physical Examination", "Diagnostic Tests")
_OPEN = """
As a medical expert, please make a diagnosis for the patient's disease based on the case information, \n\
physical examination, and diagnostic tests. Please enumerate the top 5 most likely diagnoses for the \n\
following patient in order, with the most likely disease listed first.

Case Information:
%s

Physical Examination:
%s

Diagnostic tests:
%s

Output the diagnosis in numeric order, one per line. For example:
1. Disease A;
2. Disease B;
...

Do not output anything else!
"""
_CHOICE = """
According to the provided medical case and select the most appropriate diagnosis from the following four options. \
Put your final answer within \\boxed{}.

Here is the medical case: \n\
Case Information:
%s
Physical Examination:
%s
Diagnostic Tests:
%s

Here are the four options: \n\
%s

Put your final answer letter within \\boxed{}.
Final answer: \\boxed{Correct Option Letter}
"""


class DiagnosisArena(Task):
    """By choice."""

    name, title = "diagnosisarena", "DiagnosisArena (choice)"
    files = ("data/test-*.parquet", "test-*.parquet", "diagnosisarena*")
    columns = ("id", *SECTIONS, "Final Diagnosis", "Options", "Right Option")
    counts: Mapping[str, int] = {"": 915}
    difference = (
        "the owner's script compares a method with the letter instead of its result, so that every reply scores 0; what is printed here is "
        "the rule as it is meant"
    )

    never_open = "diagnosisarena_open asks that"

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. Options are a mapping, a list, JSON of these, or lines that begin with their letters."""
        options = options_of(written_options(row.get("Options")), "Options", where)
        return Item(
            id=text(row, "id", where),
            question=_case(row, where),
            answer=letter(text(row, "Right Option", where), options, "Right Option", where),
            options=options,
            fields=_sections(row, where) | {"Options": _as_written(row.get("Options"))},
        )

    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """See `Task.as_owner_asks`. Options stand as they are in the file."""
        return Asked((_CHOICE % tuple(item.fields[name] for name in (*SECTIONS, "Options")),))

    def following_options(self, before: Item, item: Item) -> Item:
        """See `Task.following_options`: the options as they are written."""
        return dataclasses.replace(item, fields={**item.fields, "Options": _rewritten(item.fields["Options"], item.options)})

    def rule(self, item: Item, prompt: str) -> Rule:
        """See `Task.rule`."""
        return Rule(functools.partial(read_choice, letters=tuple(item.options)))


class DiagnosisArenaOpen(Task):
    """Five diagnoses, the likeliest first, which the owner has scored by a judge: top-1 is the accuracy, top-5 stands beside it.

    In our words one diagnosis is asked for.
    """

    name, title = "diagnosisarena_open", "DiagnosisArena (open)"
    files = DiagnosisArena.files
    columns = ("id", *SECTIONS, "Final Diagnosis")
    counts: Mapping[str, int] = DiagnosisArena.counts
    owners_judge = OWNERS_JUDGE
    never_open = "it is open; mede2 asks it as it is"

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`."""
        return Item(
            id=text(row, "id", where),
            question=f"{_case(row, where)}\n\n{DIAGNOSIS.text}",
            answer=text(row, "Final Diagnosis", where),
            fields=_sections(row, where) | {"kind": "open"},
        )

    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """See `Task.as_owner_asks`."""
        return Asked((_OPEN % tuple(item.fields[name] for name in SECTIONS),))

    def rule(self, item: Item, prompt: str) -> Rule:
        """The owner has none but his judge: all of the reply, which is right if it is the very diagnosis."""
        return open_rule()


def _sections(row: Mapping[str, Any], where: str) -> dict[str, str]:
    return {name: text(row, name, where, empty=True) for name in SECTIONS}


def _case(row: Mapping[str, Any], where: str) -> str:
    return "\n".join(f"{name}:\n{said}" for name, said in _sections(row, where).items())


def _rewritten(written: str, options: Mapping[str, str]) -> str:
    """Other texts behind the same letters, in the same form: JSON, what Python writes, or lines."""
    value = written_options(written)
    if LETTERED.search(written) and value == dict(LETTERED.findall(written)):
        return LETTERED.sub(
            lambda line: f"{line[0][: line.start(2) - line.start()]}{options[line[1]]}{written[line.end(2) : line.end()]}", written
        )
    same: Any
    if isinstance(value, Mapping):
        same = {letter: options.get(letter, text) for letter, text in value.items()}
    else:
        pairs = zip(value, options.items(), strict=True)
        same = [{**one, "letter": letter, "content": text} if isinstance(one, Mapping) else text for one, (letter, text) in pairs]
    try:
        parse_json(written)
    except JSONFault:
        return repr(same)
    return json.dumps(same, ensure_ascii=False)


def _as_written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


TASKS = (DiagnosisArena(), DiagnosisArenaOpen())
