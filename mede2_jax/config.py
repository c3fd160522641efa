"""Configs, and how they are read from YAML and written as YAML.

Every config is a frozen pydantic model beside its owner. Unknown keys are errors that name the nearest known one.
`UserError` is the one exception that `command.run_command` turns into a single line and a non-zero exit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pydantic
import yaml

from mede2_jax.fields import hint, is_optional, meant, model_of
from mede2_jax.foreign import one_line, shown
from mede2_jax.yaml_text import YAMLFault, parse_yaml

MOST_FAULTS = 8
"""Wrong fields that one line names."""


class UserError(ValueError):
    """What the user gave cannot be used. The message is one line: what was wrong, the value seen, the fix."""


class Config(pydantic.BaseModel):
    """Base of all configs: frozen, no unknown keys, and numbers are finite."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {}
    """What other programs call an option, and its dotted name here. They are suggested, never accepted."""


def read_yaml(config_type: type[Config], path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping whose keys all belong to `config_type` (nested mappings, `a.b: 1` not allowed)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read config {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    try:
        values = parse_yaml(text) or {}
    except YAMLFault as fault:
        raise UserError(f"{path}{f', line {fault.line}' if fault.line else ''}: {fault}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of options, found {type(values).__name__}")
    unknown: list[tuple[str, str]] = []
    known = _known_keys(config_type, values, "", unknown)
    if unknown:
        keys = ", ".join(f"{shown(prefix + key)!r}{hint(_in_yaml(meant(config_type, prefix + key), prefix))}" for prefix, key in unknown)
        raise UserError(f"{path}: unknown {'keys' if len(unknown) > 1 else 'key'} {keys}")
    return known


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `--config` reads back, in the order of its fields."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


Place = Callable[[tuple[int | str, ...]], str]
"""Where a value stood, by pydantic's names for it."""


def _dotted(location: tuple[int | str, ...]) -> str:
    return shown(".".join(map(str, location)), 120)


def describe_validation_error(error: pydantic.ValidationError, place: Place = _dotted, missing: str = "{}: Field required") -> str:
    """One line that names each wrong field, the value seen and the rule it broke.

    Args:
        error: What pydantic found.
        place: Says where a value stood.
        missing: What to say of a field that is not there, `{}` its dotted name.
    """
    told = [_describe(item, place, missing) for item in error.errors(include_url=False)]
    more = [f"and {len(told) - MOST_FAULTS} more like these"] if len(told) > MOST_FAULTS else []
    return "; ".join([*told[:MOST_FAULTS], *more])


def _describe(item: Any, place: Place, missing: str) -> str:
    if item["type"] == "missing":
        return missing.format(_dotted(item["loc"]))
    message = one_line(item["msg"].removeprefix("Value error, "))
    seen = "" if item["type"] == "value_error" else f" (got {shown(repr(item['input']), 80)})"
    return f"{where}: {message}{seen}" if (where := place(item["loc"])) else message + seen


def counted(count: int, noun: str, several: str = "") -> str:
    """`1 step`, `2 steps`; `several` is the plural where it is not the noun with an s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def _known_keys(
    config_type: type[pydantic.BaseModel], values: dict[str, Any], prefix: str, unknown: list[tuple[str, str]]
) -> dict[str, Any]:
    """What of `values` are fields; other keys go to `unknown`, with their section as prefix.

    A section with nothing in it but comments counts as absent.
    """
    fields = {field.alias or name: field.annotation for name, field in config_type.model_fields.items()}
    known: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            unknown.append((prefix, str(key)))
            continue
        nested = model_of(fields[key])
        if nested is not None and isinstance(value, dict):
            known[key] = _known_keys(nested, value, f"{prefix}{key}.", unknown)
        elif nested is None or value is not None or is_optional(fields[key]):
            known[key] = value
    return known


def _in_yaml(name: str, prefix: str) -> str:
    """An option as it is written below `prefix`; as nested mappings from the top if it belongs elsewhere."""
    depth = name.count(".")
    if not depth or name.rpartition(".")[0] + "." == prefix:
        return name
    return f"{name.replace('.', ': {')}: …{'}' * depth}"
