"""Configuration and the command line: defaults < YAML (`--config`) < flags.

Every config is a frozen pydantic model beside its owner. All three sources become one nested dict that pydantic checks once, so
that a wrong value reads the same wherever it stood. Unknown keys are errors that name the nearest known one. tyro draws `--help`.
`UserError` is the one exception that `command.run_command` turns into a single line and a non-zero exit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pydantic
import tyro
import yaml

from mede2_jax.foreign import one_line, shown
from mede2_jax.yaml_text import YAMLFault, parse_yaml

LONGEST_NAME = 100
"""Of an unknown option, to look for what it may have meant."""


class UserError(ValueError):
    """What the user gave cannot be used. The message is one line: what was wrong, the value seen, the fix."""


class Config(pydantic.BaseModel):
    """Base of all configs: frozen, and no unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {}
    """What other programs call an option, and its dotted name here. They are suggested, never accepted."""


ConfigT = TypeVar("ConfigT", bound=Config)
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


def parse(
    config_type: type[ConfigT], argv: Sequence[str], *, program: str, description: str, base: dict[str, Any] | None = None
) -> ConfigT:
    """Builds a config from command-line arguments.

    Args:
        config_type: The config to build.
        argv: Arguments without the program's name, such as `["--config=a.yaml", "--lora.rank=16"]`.
        program: What the user types, for `--help`: `python -m mede2_jax.train`.
        description: The text above the options in `--help`.
        base: Values that take the place of the fields' defaults, below YAML and flags.

    Raises:
        UserError: An unknown flag or key, a value of the wrong type, or an unreadable file.
        SystemExit: After `--help`.
    """
    config_file, rest = _take_config_flag(list(argv))
    from_file = read_yaml(config_type, config_file) if config_file else {}
    values = _merged(_merged(_defaults(config_type), base or {}), from_file)
    if {"-h", "--help"} & set(rest):
        _show_help(config_type, values, program, description)
    from_flags = _read_flags(config_type, rest)
    try:
        return config_type.model_validate(_merged(values, from_flags))
    except pydantic.ValidationError as error:
        raise UserError(
            "; ".join(_describe(item, from_flags, from_file, config_file) for item in error.errors(include_url=False))
        ) from None


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
        keys = ", ".join(
            f"{shown(prefix + key)!r}{_hint(_in_yaml(_suggestion(config_type, prefix + key), prefix))}" for prefix, key in unknown
        )
        raise UserError(f"{path}: unknown {'keys' if len(unknown) > 1 else 'key'} {keys}")
    return known


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `--config` reads back, in the order of its fields."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def describe_validation_error(error: pydantic.ValidationError) -> str:
    """One line that names each wrong field, the value seen and the rule it broke."""
    return "; ".join(_describe(item) for item in error.errors(include_url=False))


def counted(count: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _merged(base[key], value) for key, value in over.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **over, **nested}


def _defaults(config_type: type[pydantic.BaseModel]) -> dict[str, Any]:
    """What the default instances of nested configs set: a flag for one field of a section must leave the others alone."""
    sections: dict[str, Any] = {}
    for name, field in config_type.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, pydantic.BaseModel):
            sections[field.alias or name] = default.model_dump(exclude_unset=True, by_alias=True)
        elif field.is_required() and _model_of(field.annotation) is not None:
            sections[field.alias or name] = {}  # so that an error names the field that is missing, not the section
    return sections


def _take_config_flag(argv: list[str]) -> tuple[str | None, list[str]]:
    found: str | None = None
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if name != "--config":
            rest.append(argument)
            continue
        given = value if has_value else next(arguments, "")
        if not given or given.startswith("--"):
            raise UserError("--config needs a file: --config=configs/NAME.yaml")
        if found is not None:
            raise UserError(f"--config is given twice ({found!r} and {given!r}); give one file")
        found = given
    return found, rest


def _read_flags(config_type: type[Config], arguments: list[str]) -> dict[str, Any]:
    """Flags as a nested dict: `--a.b=1`, `--a.b 1`, `--switch`, `--no-switch`, `--list x y`, `--list=x,y`."""
    known, values = dict(_options(config_type)), dict[str, Any]()
    unknown: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if not re.match(r"--[A-Za-z]", argument):
            raise UserError(f"unexpected argument {argument!r}; options are written --name=value, see --help")
        written, has_value, text = argument.partition("=")
        following = list(itertools.takewhile(lambda word: not word.startswith("--"), arguments[position:]))
        name, negated = _option_name(written, known)
        if name not in known:
            unknown.append(f"{written!r}{_hint(_as_flag(_suggestion(config_type, name), known))}")
            position += len(following)
            continue
        annotation = known[name]
        value: Any = text
        if _is_switch(annotation):
            if not has_value:
                value = following[0] if following and following[0].lower() in ("true", "false") else "true"
                position += bool(following and value is following[0])
            if negated:
                value = {"true": False, "false": True}.get(value.lower(), value)
        elif not has_value:
            taken = following if _is_list(annotation) else following[:1]
            position += len(taken)
            value = taken if _is_list(annotation) else "".join(taken)
        elif _is_list(annotation):
            value = [part for part in text.split(",") if part]
        if value in ("", []):
            raise UserError(f"{written} needs a value: {written}={'A,B' if _is_list(annotation) else 'VALUE'}")
        _put(values, name, _none_or(value, annotation))
    if unknown:
        raise UserError(f"unknown {'options' if len(unknown) > 1 else 'option'} {', '.join(unknown)}; see --help")
    return values


def _option_name(written: str, known: dict[str, Any]) -> tuple[str, bool]:
    """The option that a flag means (it may be unknown), and whether it switches it off (`--no-x`, `--section.no-x`)."""
    name = written.removeprefix("--").replace("-", "_")
    if name in known or name.rstrip("_") in known:  # a field `from_` with the alias `from`
        return name if name in known else name.rstrip("_"), False
    section, dot, last = name.rpartition(".")
    positive = section + dot + last.removeprefix("no_")
    if last.startswith("no_") and _is_switch(known.get(positive)):
        return positive, True
    return name, False


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--{section}={values} leaves no place for --{name}; drop one of them")
    values[last] = value


def _options(config_type: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option's dotted name and annotation; an optional section is one too, so that it can be set to none."""
    for name, field in config_type.model_fields.items():
        key = prefix + (field.alias or name)
        nested = _model_of(field.annotation)
        if nested is None or type(None) in typing.get_args(field.annotation):
            yield key, field.annotation
        if nested is not None:
            yield from _options(nested, key + ".")


def _model_of(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The nested config an annotation stands for, seeing through `X | None`."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel):
            return candidate
    return None


def _is_switch(annotation: Any) -> bool:
    return annotation is bool or bool in typing.get_args(annotation)


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(choice) in (tuple, list) for choice in (annotation, *typing.get_args(annotation)))


def _none_or(value: Any, annotation: Any) -> Any:
    optional = type(None) in typing.get_args(annotation)
    return None if optional and isinstance(value, str) and value.lower() in ("none", "null") else value


def _show_help(config_type: type[ConfigT], values: dict[str, Any], program: str, description: str) -> typing.NoReturn:
    """Prints the options with their descriptions and the values they have now, and exits."""
    text = description + "\n\n--config=FILE.yaml reads any of these options from YAML; flags win over it."
    try:
        with contextlib.suppress(SystemExit):
            tyro.cli(
                config_type,
                prog=program,
                description=text,
                args=["--help"],
                default=_partial(config_type, values),
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
        sys.stdout.flush()
    except BrokenPipeError:  # its reader, such as head, has seen enough; what Python flushes at its end must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def _partial(config_type: type[ModelT], values: dict[str, Any]) -> ModelT:
    """An instance for tyro to show: validated values, with what is still required left open."""
    try:
        return config_type.model_validate(values)
    except pydantic.ValidationError as error:
        if any(item["type"] != "missing" for item in error.errors()):
            raise UserError(describe_validation_error(error)) from None
    shown: dict[str, Any] = {}
    for name, field in config_type.model_fields.items():
        key, nested = field.alias or name, _model_of(field.annotation)
        if nested is not None and isinstance(values.get(key, {}), dict):
            shown[name] = _partial(nested, values.get(key, {}))
        elif key in values:
            shown[name] = values[key]
        else:
            shown[name] = tyro.MISSING if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    return config_type.model_construct(**shown)


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
        nested = _model_of(fields[key])
        if nested is not None and isinstance(value, dict):
            known[key] = _known_keys(nested, value, f"{prefix}{key}.", unknown)
        elif nested is None or value is not None or type(None) in typing.get_args(fields[key]):
            known[key] = value
    return known


def _describe(item: Any, from_flags: dict[str, Any] | None = None, from_file: dict[str, Any] | None = None, file: str | None = None) -> str:
    """One line for one of pydantic's errors, naming where the value stood when that is known."""
    where = shown(".".join(str(part) for part in item["loc"]), 120)
    if item["type"] == "missing" and from_flags is not None:
        return f"missing option --{where}; see --help"
    message = one_line(item["msg"].removeprefix("Value error, "))
    seen = "" if item["type"] in ("missing", "value_error") else f" (got {shown(repr(item['input']), 80)})"
    if _holds(from_flags, item["loc"]):
        where = f"--{where}"
    elif _holds(from_file, item["loc"]):
        where = f"{file}: {where}"
    return f"{where}: {message}{seen}" if where else message + seen


def _holds(values: dict[str, Any] | None, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return isinstance(part, int) and isinstance(values, list)
        values = values[part]
    return bool(location)


def _suggestion(config_type: type[Config], unknown: str) -> str:
    """The option or section that an unknown dotted name most likely means; "" rather than a wrong one."""
    if len(unknown) > LONGEST_NAME:  # counting edits would take minutes
        return ""
    last = unknown.rpartition(".")[2]
    if last in config_type.FORMER_NAMES:
        return config_type.FORMER_NAMES[last]
    options = list(dict(_options(config_type)))
    sections = dict.fromkeys(option.rpartition(".")[0] for option in options if "." in option)
    near: list[tuple[int, int, str]] = []
    for name in (*sections, *options):
        # Written as a whole with any separator (lora_rank), or else in another section or none (rank).
        spellings = (unknown.replace(".", "_"), name.replace(".", "_")), (last, name.rpartition(".")[2])
        for order, (seen, meant) in enumerate(spellings):
            # One slip in a short name, two from 12 letters on: with more, unrelated names are alike.
            if (edits := _edits(seen, meant)) <= 1 + len(meant) // 12:
                near.append((edits, order, name))
    return min(near)[2] if near else ""


def _edits(one: str, other: str) -> int:
    """How many letters to insert, delete, replace or swap with their neighbour (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and wanted == one[i - 2]:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def _as_flag(name: str, known: Mapping[str, Any]) -> str:
    """An option as a flag; of a section, what its flags begin with."""
    return f"--{name}{'' if name in known else '.…'}" if name else ""


def _in_yaml(name: str, prefix: str) -> str:
    """An option as it is written below `prefix`; as nested mappings from the top if it belongs elsewhere."""
    depth = name.count(".")
    if not depth or name.rpartition(".")[0] + "." == prefix:
        return name
    return f"{name.replace('.', ': {')}: …{'}' * depth}"


def _hint(suggestion: str) -> str:
    return f" (did you mean {suggestion!r}?)" if suggestion else ""
