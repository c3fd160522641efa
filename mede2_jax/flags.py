"""The command line of a config: defaults < YAML (`--config`) < flags.

All three become one nested dict that pydantic checks once, so that a wrong value reads the same wherever it stood. Flags are read here,
and not by a library, for that reason; tyro draws `--help`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import pydantic
import tyro

from mede2_jax.config import Config, UserError, describe_validation_error, read_yaml
from mede2_jax.fields import hint, is_list, is_optional, is_switch, meant, model_of, options
from mede2_jax.foreign import shown

LONGEST_ARGUMENT = 200
"""Characters of an argument that a message repeats."""

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
    flags = _split(argv)
    file = _config_file(flags)
    from_file = read_yaml(config_type, file) if file else {}
    values = _merged(_merged(_defaults(config_type), base or {}), from_file)
    if {"-h", "--help"} & set(argv):
        _show_help(config_type, values, program, description)
    from_flags = _read_flags(config_type, flags)

    def place(location: tuple[int | str, ...]) -> str:
        name = ".".join(map(str, location))
        if _holds(from_flags, location):  # of several values the message shows which one is meant
            return "--" + ".".join(part for part in location if isinstance(part, str))
        return f"{file}: {name}" if _holds(from_file, location) else name

    try:
        return config_type.model_validate(_merged(values, from_flags))
    except pydantic.ValidationError as error:
        raise UserError(describe_validation_error(error, place, missing="missing option --{}; see --help")) from None


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _merged(base[key], value) for key, value in over.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **over, **nested}


def _holds(values: Any, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return isinstance(part, int) and isinstance(values, list)
        values = values[part]
    return bool(location)


def _defaults(config_type: type[pydantic.BaseModel]) -> dict[str, Any]:
    """What the default instances of nested configs set: a flag for one field of a section must leave the others alone."""
    sections: dict[str, Any] = {}
    for name, field in config_type.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, pydantic.BaseModel):
            sections[field.alias or name] = default.model_dump(exclude_unset=True, by_alias=True)
        elif field.is_required() and model_of(field.annotation) is not None:
            sections[field.alias or name] = {}  # so that an error names the field that is missing, not the section
    return sections


class _Flag(NamedTuple):
    written: str
    """As it was typed, without its value."""
    text: str | None
    """What follows `=`."""
    words: list[str]
    """The arguments up to the next flag."""


def _split(argv: Sequence[str]) -> list[_Flag]:
    flags: list[_Flag] = []
    for argument in argv:
        if argument.startswith("--") or not flags:
            written, equals, text = argument.partition("=")
            flags.append(_Flag(written, text if equals else None, []))
        else:
            flags[-1].words.append(argument)
    return flags


def _config_file(flags: list[_Flag]) -> str | None:
    given = [flag.text if flag.text is not None else "".join(flag.words[:1]) for flag in flags if flag.written == "--config"]
    if "" in given:
        raise UserError("--config needs a file: --config=configs/NAME.yaml")
    if len(given) > 1:
        raise UserError(f"--config is given twice ({given[0]!r} and {given[1]!r}); give one file")
    return given[0] if given else None


def _read_flags(config_type: type[Config], flags: list[_Flag]) -> dict[str, Any]:
    """Flags as a nested dict: `--a.b=1`, `--a.b 1`, `--switch`, `--no-switch`, `--list x y`, `--list=x,y`."""
    known, values, unknown = {**dict(options(config_type)), "config": str}, dict[str, Any](), list[str]()
    for flag in flags:
        if not re.match(r"--[A-Za-z]", flag.written):
            raise _unexpected(flag.written if flag.text is None else f"{flag.written}={flag.text}")
        name, negated = _option_name(flag.written, known)
        if name not in known:
            unknown.append(f"{shown(flag.written, LONGEST_ARGUMENT)!r}{hint(_as_flag(meant(config_type, name), known))}")
            continue
        value = _value(flag, known[name])
        if negated:
            value = {"true": False, "false": True}.get(value.lower(), value)
        _put(values, name, value)
    if unknown:
        raise UserError(f"unknown {'options' if len(unknown) > 1 else 'option'} {', '.join(unknown)}; see --help")
    values.pop("config", None)
    return values


def _value(flag: _Flag, annotation: Any) -> Any:
    """What a flag gives its option."""
    several, words = is_list(annotation), flag.words
    value: Any
    if flag.text is not None:
        value, left = [part for part in flag.text.split(",") if part] if several else flag.text, words
    elif is_switch(annotation):
        given = bool(words) and words[0].lower() in ("true", "false")
        value, left = (words[0], words[1:]) if given else ("true", words)
    else:
        value, left = (words, []) if several else ("".join(words[:1]), words[1:])
    if value in ("", []):
        raise UserError(f"{flag.written} needs a value: {flag.written}={'A,B' if several else 'VALUE'}")
    if left:
        raise _unexpected(left[0])
    return None if is_optional(annotation) and isinstance(value, str) and value.lower() in ("none", "null") else value


def _unexpected(argument: str) -> UserError:
    return UserError(f"unexpected argument {shown(argument, LONGEST_ARGUMENT)!r}; options are written --name=value, see --help")


def _option_name(written: str, known: Mapping[str, Any]) -> tuple[str, bool]:
    """The option that a flag means (it may be unknown), and whether it switches it off (`--no-x`, `--section.no-x`)."""
    name = written.removeprefix("--").replace("-", "_")
    if name in known or name.rstrip("_") in known:  # a field `from_` with the alias `from`
        return name if name in known else name.rstrip("_"), False
    section, dot, last = name.rpartition(".")
    positive = section + dot + last.removeprefix("no_")
    if last.startswith("no_") and is_switch(known.get(positive)):
        return positive, True
    return name, False


def _as_flag(name: str, known: Mapping[str, Any]) -> str:
    """An option as a flag; of a section, what its flags begin with."""
    return f"--{name}{'' if name in known else '.…'}" if name else ""


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--{section}={values} leaves no place for --{name}; drop one of them")
    values[last] = value


def _show_help(config_type: type[ConfigT], values: dict[str, Any], program: str, description: str) -> typing.NoReturn:
    """Prints the options with their descriptions and the values they have now, and exits."""
    try:
        print(fitted(f"{description.strip()}\n\n--config=FILE.yaml reads any of these options from YAML; flags win over it.\n"))
        with contextlib.suppress(SystemExit):
            tyro.cli(
                config_type,
                prog=program,
                description="",  # tyro would make one line of each paragraph
                args=["--help"],
                default=_partial(config_type, values),
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
        sys.stdout.flush()
    except BrokenPipeError:  # its reader, such as head, has seen enough; what Python flushes at its end must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def fitted(text: str, width: int | None = None) -> str:
    """A command's description as wide as the terminal: paragraphs, and indented lines that are `label  example  (comment)`.

    Args:
        text: Its lines; indented ones stay lines of their own, others flow with their neighbours.
        width: Characters of a line; none: the terminal's, 80 where there is none.
    """
    width = width or shutil.get_terminal_size().columns
    found: list[str] = []
    joined = re.sub(r" \\\n\s*", " ", text)  # of a command over several lines
    for first, group in itertools.groupby(joined.split("\n"), lambda line: line[:1] if line[:1] in ("", " ") else "text"):
        lines = list(group)
        if first == "":
            found += lines
        elif first == " ":
            column = _column(lines)
            found += [part for line in lines for part in (_fitted_example(line, column, width) if len(line) > width else [line])]
        else:
            found += textwrap.wrap(" ".join(lines), width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(found)


def _column(lines: Sequence[str]) -> int:
    """Where the examples of a list begin, below one another."""
    begins = [match.end() for line in lines if (match := re.match(r" +\S+(?: \S+)* {2,}(?=[^ (])", line))]
    return max(set(begins), key=begins.count) if begins else len(lines[0]) - len(lines[0].lstrip())


def _fitted_example(line: str, column: int, width: int) -> list[str]:
    label, rest = (line[:column], line[column:]) if line[:column].endswith(" ") else ("", line)
    example, _, comment = rest.strip().partition("  (")
    is_command = re.match(r"python |bash |sbatch |… |[A-Z_]+=", example) is not None and ": " not in example
    room = width - column
    if is_command:  # not broken within quotes, and its lines are one command for a shell
        parts = list[str]()
        for word in re.findall(r"(?:'[^']*'|\S)+", example):
            if parts and len(parts[-1]) + 1 + len(word) + 2 <= room:
                parts[-1] += f" {word}"
            else:
                parts.append(word)
        parts = [f"{part} \\" for part in parts[:-1]] + parts[-1:]
    else:
        parts = textwrap.wrap(example, room, break_long_words=False, break_on_hyphens=False)
    parts += textwrap.wrap(f"({comment.strip()}", room, break_long_words=False, break_on_hyphens=False) if comment else []
    return [(" " * column if number else label.ljust(column)) + part for number, part in enumerate(parts)]


def _partial(config_type: type[ModelT], values: dict[str, Any]) -> ModelT:
    """An instance for tyro to show: validated values, with what is still required left open."""
    try:
        return config_type.model_validate(values)
    except pydantic.ValidationError as error:
        if any(item["type"] != "missing" for item in error.errors()):
            raise UserError(describe_validation_error(error)) from None
    values_shown: dict[str, Any] = {}
    for name, field in config_type.model_fields.items():
        key, nested = field.alias or name, model_of(field.annotation)
        if nested is not None and isinstance(values.get(key, {}), dict):
            values_shown[name] = _partial(nested, values.get(key, {}))
        elif key in values:
            values_shown[name] = values[key]
        else:
            values_shown[name] = tyro.MISSING if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    return config_type.model_construct(**values_shown)
