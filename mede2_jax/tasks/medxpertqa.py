"""MedXpertQA, MM and Text (TsinghuaC3I/MedXpertQA): 2,000 and 2,450 expert questions with 5 and 10 options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.scoring.medxpertqa import one_turn_trigger, read, read_first_box, read_reasoning, two_turn_trigger
from mede2_jax.scoring.reading import Reading, Rule
from mede2_jax.tasks.asking import CHOICES, OURS, Asked, ItemImage, Piece, choices, with_choices
from mede2_jax.tasks.item import Item, Task, exactly, letter, options_of, text

_SYSTEM = "You are a helpful medical assistant."
_ANSWER_ONLY = "Please answer only."
SIZES = {"MM": 5, "Text": 10}
"""Options of each item, by subset; its name begins each id."""
_THINK = "\nA: Let's think step by step."
_IN_A_BOX = "Put your final answer within \\boxed{}. "


def asked_as(prompt: str, letters: Sequence[str], question: Sequence[Piece], images: Sequence[ItemImage] = ()) -> Asked:
    """The owner's prompts, in which others' questions are put as well.

    Args:
        prompt: As for `rule_of`.
        letters: Of the item.
        question: With its choices, and images that stand in it.
        images: That stand after the text.
    """
    system, end, then = {
        "cot": (_SYSTEM, _THINK, two_turn_trigger(letters)),
        "ao": (_ANSWER_ONLY, f"\nA: {one_turn_trigger(letters)}", None),
        "reasoning": (_SYSTEM, _THINK, None),
        "boxed": (None, _THINK, _IN_A_BOX + two_turn_trigger(letters)),
    }[prompt]
    return Asked(("Q: ", *question, end, *images), system=system, then=then)


class AskedAsMedXpertQA(Task):
    """A task that is asked in MedXpertQA's ways, and read by its rule."""

    prompts = ("cot", "ao", "reasoning", "boxed")

    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """See `Task.as_owner_asks`."""
        return asked_as(prompt, tuple(item.options), (with_choices(item.question, item.options),), item.images)

    def rule(self, item: Item, prompt: str) -> Rule:
        """See `Task.rule`."""
        return rule_of(item, self.prompts[0] if prompt == OURS else prompt)


def rule_of(item: Item, prompt: str) -> Rule:
    """The owner's rule, to which others' questions are put as well.

    Args:
        item: What was asked.
        prompt: `cot`, of whose two turns the second reply is read, or `ao`, which asks for nothing but the answer; `reasoning`, one turn
            of a reasoning model; `boxed`, two turns with the answer in a box.
    """
    letters = tuple(item.options)
    rules: dict[str, Callable[[str], Reading]] = {
        "cot": lambda reply: read(reply, letters, two_turn_trigger(letters)),
        "ao": lambda reply: read(reply, letters, one_turn_trigger(letters)),
        "reasoning": lambda reply: read_reasoning(reply, letters),
        "boxed": lambda reply: read_first_box(reply, letters),
    }
    return Rule(rules[prompt])


class MedXpertQA(AskedAsMedXpertQA):
    """One of its two subsets."""

    columns = ("id", "question", "options", "label", "medical_task", "body_system", "question_type")
    breakdowns = ("question_type", "medical_task", "body_system")
    image_folders = ("images", "")

    def __init__(self, subset: str, counts: Mapping[str, int]):
        self.subset = subset
        self.name, self.title, self.counts = f"medxpertqa_{subset.lower()}", f"MedXpertQA {subset}", counts
        self.image_columns, self.always_with_images = (("images",), True) if subset == "MM" else ((), False)
        self.files = (
            f"{subset}/test.jsonl",
            f"{subset}/test/*.parquet",
            f"medxpertqa_{subset.lower()}*",
            "test.jsonl",
            f"{subset}/dev.jsonl",
        )

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. The owner's repository has lists where his data set has values: both are read."""
        identity = text(row, "id", where)
        if (of := identity.partition("-")[0]) in SIZES and of != self.subset:
            raise UserError(
                f"{where}: {shown(identity)} is of MedXpertQA {of}, and not of {self.subset}; take that task, or the other file"
            )
        options = options_of(row.get("options"), "options", where)
        label = row.get("label")
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
        question, tail, said = text(row, "question", where).rpartition(CHOICES)
        if tail and said.strip() != choices(options):
            raise UserError(f"{where}: the choices at the end of 'question' are not those of 'options' ({shown(said, 80)})")
        return Item(
            id=identity,
            question=question if tail else said,
            answer=letter(text({"label": label}, "label", where), options, "label", where),
            options=exactly(options, SIZES[self.subset], "options", where),
            images=_images(row.get("images"), where),
            groups={name: text(row, name, where) for name in self.breakdowns},
        )


def _images(images: Any, where: str) -> tuple[ItemImage, ...]:
    """Names in a list, or objects that hold them."""
    if images is not None and not isinstance(images, list):
        raise UserError(f"{where}: column 'images' must be a list, found {shown(images)}")
    names = (image.get("image_path") if isinstance(image, Mapping) else image for image in images or ())
    return tuple(ItemImage(text({"images": name}, "images", where)) for name in names)


TASKS = (
    MedXpertQA(
        "MM",
        {
            "": 2000,
            "question_type=Reasoning": 1446,
            "question_type=Understanding": 554,
            "medical_task=Diagnosis": 1199,
            "medical_task=Treatment": 448,
            "medical_task=Basic Science": 353,
        },
    ),
    MedXpertQA(
        "Text",
        {
            "": 2450,
            "question_type=Reasoning": 1861,
            "question_type=Understanding": 589,
            "medical_task=Diagnosis": 1050,
            "medical_task=Treatment": 746,
            "medical_task=Basic Science": 654,
        },
    ),
)
