"""The task that a YAML file describes (see `own_config`); those that ship are in configs/tasks/.

Such a benchmark has no rule of its owner's here. Its rule, alone in mode `official` and the third step of mode `mede2`, is

- choice: MMMU's for choices. It is what most harnesses read these benchmarks by, in one form or another, and it knows no prompt; as always
  without its guess.
- yes_no and short: the reply compared as `reasoning/answers.py` compares, which is what mode `mede2` does in its second step too.
- open: the whole reply is the right text, in normal form. Beside that, scores say how many of its words replies hold (`scoring/texts.py`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from mede2_jax.config import UserError, describe_validation_error, read_yaml
from mede2_jax.foreign import shown
from mede2_jax.reasoning.normal_form import normalised
from mede2_jax.scoring.mmmu import read_choice
from mede2_jax.scoring.reading import Rule, Truth
from mede2_jax.scoring.texts import closed_rule, open_rule
from mede2_jax.tasks.asking import Asked, with_choices
from mede2_jax.tasks.item import LETTERS, Item, ItemImage, Task, letter, options_of, text, written_options
from mede2_jax.tasks.mmmu import held_image, listed
from mede2_jax.tasks.own_config import AnswerKind, OwnConfig

UNKNOWN = "unknown"
"""The group of an item whose column is empty."""
_YES_NO = ("yes", "no", "true", "false", "是", "否")
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,")


def own_task(path: Path) -> OwnTask:
    """The task that a YAML file describes.

    Raises:
        UserError: It cannot be read, has unknown keys (the nearest known one is named), or wrong values.
    """
    try:
        config = OwnConfig.model_validate(read_yaml(OwnConfig, path))
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {describe_validation_error(error)}") from None
    return OwnTask(config, path)


class OwnTask(Task):
    """A benchmark of one's own."""

    all_columns = True
    all_files = True
    no_images_hint = ", or say 'some_without_images: true' in its YAML file"
    difference = (
        "this benchmark has no rule of its owner's here: choices were read by MMMU's rule, yes, no and short answers compared as texts; "
        "an open answer is right only if the whole reply is the right text"
    )

    def __init__(self, config: OwnConfig, path: Path):
        self.config, self.path = config, path
        columns, kinds = config.columns, config.kinds
        self.name, self.title, self.files = config.name, config.title or config.name, config.files
        named = (columns.id, columns.question, columns.answer, *columns.options, *columns.groups, columns.cluster)
        wanted = (*named, kinds.column if kinds else None, *config.where)
        self.columns = tuple(dict.fromkeys(name for name in wanted if name is not None))
        self.image_columns, self.always_with_images = columns.images, bool(columns.images) and not config.some_without_images
        self.breakdowns = (*(("kind",) if kinds else ()), *columns.groups)
        self.never_open = "" if "choice" in config.all_kinds else "it has no choices to leave out; mede2 asks it as it is"
        self.clustered = columns.cluster is not None
        self.counts: Mapping[str, int] = {} if config.items is None else {"": config.items}

    @property
    def definition(self) -> dict[str, str]:
        """Which file says all this, and a digest of what it says."""
        said = self.config.model_dump_json(exclude={"some_without_images"})  # what is refused is no part of what is read
        return {"path": str(self.path), "digest": f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"}

    def wants(self, row: Mapping[str, Any]) -> bool:
        """See `Task.wants`."""
        return all(_plain(row.get(name)) in {_plain(value) for value in values} for name, values in self.config.where.items())

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. `fields` say its kind, and what is usually put after the question."""
        columns, kind = self.config.columns, self._kind(row, where)
        options = self._options(row, where) if kind == "choice" else {}
        groups = {name: _group(row, name, where) for name in columns.groups}
        return Item(
            id=text(row, columns.id, where) if columns.id is not None else "",
            question=text(row, columns.question, where),
            answer=self._choice(row, options, where) if kind == "choice" else self._answer(row, kind, where),
            options=options,
            images=self._images(row, where),
            groups=({"kind": kind} if self.config.kinds else {}) | groups,
            cluster=text(row, columns.cluster, where) if columns.cluster is not None else "",
            fields={"kind": kind} | ({"prompt": self.config.prompt} if self.config.prompt else {}),
        )

    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """Images, the question with its choices, and what the file says is usually put after it; no system turn."""
        suffix = item.fields.get("prompt")
        return Asked((*item.images, with_choices(item.question, item.options) + (f"\n{suffix}" if suffix else "")))

    def rule(self, item: Item, prompt: str) -> Rule:
        """See `Task.rule`."""
        if item.options:
            return Rule(functools.partial(read_choice, options=item.options))
        return open_rule() if item.fields["kind"] == "open" else closed_rule(item.answer)

    def _kind(self, row: Mapping[str, Any], where: str) -> AnswerKind:
        kinds = self.config.kinds
        if kinds is None:
            assert self.config.kind is not None
            return self.config.kind
        if kinds.column not in row:
            text(row, kinds.column, where)
        said = _plain(row[kinds.column])
        found = {_plain(value): kind for value, kind in kinds.values.items()}.get(said, kinds.others)
        if found is None:
            known = ", ".join(map(shown, kinds.values))
            raise UserError(
                f"{where}: column {kinds.column!r} says {shown(row[kinds.column])}, which kinds.values does not have ({known}); "
                "add it there, or give kinds.others"
            )
        return found

    def _options(self, row: Mapping[str, Any], where: str) -> dict[str, str]:
        names = self.config.columns.options
        if len(names) == 1:
            if names[0] not in row:
                text(row, names[0], where)
            options = options_of(written_options(row[names[0]]), names[0], where)
        else:
            texts = [None if row.get(name) in (None, "") else text(row, name, where) for name in names]
            while texts and texts[-1] is None:
                texts.pop()
            if None in texts:
                empty = names[texts.index(None)]
                raise UserError(f"{where}: column {empty!r} is empty, and an option after it is not")
            options = {one: said for one, said in zip(LETTERS, texts, strict=False) if said is not None}
        if len(options) < 2:
            raise UserError(f"{where}: a choice wants two options or more, found {len(options)} in {shown(', '.join(names))}")
        return _without_letters(options)

    def _choice(self, row: Mapping[str, Any], options: Mapping[str, str], where: str) -> Truth:
        """The right letter; or several, where options have the same text and the text is all that is known."""
        name = self.config.columns.answer
        said = text(row, name, where).strip()
        if self.config.answer_is == "letter":
            return letter(said if said in options else said.upper(), options, name, where)
        if self.config.answer_is == "index":
            if not (said.isascii() and said.isdigit() and len(said) < 3 and int(said) < len(options)):
                raise UserError(
                    f"{where}: column {name!r} must be the place of an option from 0 to {len(options) - 1}, found {shown(said)}"
                )
            return list(options)[int(said)]
        found = [one for one, option in options.items() if option.strip() == said]
        found = found or [one for one, option in options.items() if normalised(option) == normalised(said) != ""]
        if not found:
            texts = shown("; ".join(options.values()), 120)
            raise UserError(f"{where}: column {name!r} must be the text of one of the options ({texts}), found {shown(said)}")
        return found[0] if len(found) == 1 else tuple(found)

    def _answer(self, row: Mapping[str, Any], kind: AnswerKind, where: str) -> Truth:
        name = self.config.columns.answer
        value = row.get(name)
        if kind == "yes_no":
            if isinstance(value, bool):
                return "yes" if value else "no"
            said = text(row, name, where)
            if normalised(said) not in _YES_NO:
                raise UserError(f"{where}: column {name!r} must be yes or no, found {shown(said)}")
            return said
        if isinstance(value, (list, tuple)) and value:
            return tuple(text({name: one}, name, where) for one in value)
        return text({name: repr(value)} if isinstance(value, float) else row, name, where)

    def _images(self, row: Mapping[str, Any], where: str) -> tuple[ItemImage, ...]:
        """Those of all columns; none where the table was read without them."""
        images: list[ItemImage] = []
        for name in self.config.columns.images:
            value = row.get(name)
            if self.config.images_are == "files" and isinstance(value, str) and value.lstrip().startswith("["):
                value = listed(value, name, where)
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if one is not None and one != "":
                    images.append(self._image(one, f"{name} {len(images) + 1}", name, where))
        return tuple(images)

    def _image(self, value: Any, called: str, column: str, where: str) -> ItemImage:
        if isinstance(value, bytes) and value:
            return ItemImage(called, value)
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = value.get("path")
        if isinstance(value, str) and self.config.images_are == "base64":
            return ItemImage(called, _decoded(value, column, where))
        image = held_image(value, column, where)
        if image.data is not None or not self.config.image_folder:
            return image
        return ItemImage(f"{self.config.image_folder.rstrip('/')}/{image.name}")


def _plain(value: Any) -> str:
    """A value as it is compared with one that the YAML file names."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip().casefold() if isinstance(value, (str, int)) else "" if value is None else shown(value)


def _group(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, (bool, float)):
        return str(value).lower()
    return text(row, name, where).strip() or UNKNOWN


def _without_letters(options: Mapping[str, str]) -> dict[str, str]:
    """Options without their letters, where each begins with its own, as in `A: Effusion`."""
    found = {one: re.match(rf"\s*(?:\({one}\)|{one}[.):])\s*(.*\S)\s*\Z", option, re.DOTALL) for one, option in options.items()}
    return {one: match[1] if all(found.values()) and match else options[one] for one, match in found.items()}


def _decoded(value: str, column: str, where: str) -> bytes:
    start = _DATA_URI.match(value)
    try:
        data = base64.b64decode("".join(value[start.end() if start else 0 :].split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise UserError(f"{where}: column {column!r} must hold an image in base64, found {shown(value)}; say 'images_are: files' for names")
    return data
