"""MedXpertQA, MM and Text (TsinghuaC3I/MedXpertQA): 2,000 and 2,450 expert questions with 5 and 10 options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.scoring.medxpertqa import one_turn_trigger, read, read_first_box, read_reasoning, two_turn_trigger
from mede2_jax.scoring.reading import Reading, Rule
from mede2_jax.tasks.item import Item, ItemImage, Task, letter, options_of, text

TAIL = "\nAnswer Choices: "


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


class MedXpertQA(Task):
    """One of its two subsets."""

    columns = ("id", "question", "options", "label", "medical_task", "body_system", "question_type")
    image_columns = ("images",)
    breakdowns = ("question_type", "medical_task", "body_system")
    prompts = ("cot", "ao", "reasoning", "boxed")

    def __init__(self, subset: str, counts: Mapping[str, int]):
        self.name, self.title, self.counts = f"medxpertqa_{subset.lower()}", f"MedXpertQA {subset}", counts
        self.files = (
            f"{subset}/test.jsonl",
            f"{subset}/test/*.parquet",
            f"medxpertqa_{subset.lower()}*",
            "test.jsonl",
            f"{subset}/dev.jsonl",
        )

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. The owner's repository has lists where his data set has values: both are read."""
        options = options_of(row.get("options"), "options", where)
        label = row.get("label")
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
        question, tail, said = text(row, "question", where).rpartition(TAIL)
        if tail and said.strip() != choices(options):
            raise UserError(f"{where}: the choices at the end of 'question' are not those of 'options' ({shown(said, 80)})")
        return Item(
            id=text(row, "id", where),
            question=question if tail else said,
            answer=letter(text({"label": label}, "label", where), options, "label", where),
            options=options,
            images=_images(row.get("images"), where),
            groups={name: text(row, name, where) for name in self.breakdowns},
        )

    def rule(self, item: Item, prompt: str) -> Rule:
        """See `Task.rule`."""
        return rule_of(item, prompt)


def choices(options: Mapping[str, str]) -> str:
    """`(A) … (B) …`, as the questions end."""
    return " ".join(f"({one}) {option}" for one, option in options.items()).strip()


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
