"""YAML that others wrote: no tag of it makes anything but plain values, and no fault in it is a traceback."""

from __future__ import annotations

from typing import Any

import yaml

from mede2_jax.foreign import one_line, shown

MAX_VALUES = 100_000
"""Values of a text, each alias counted as all that it stands for: some lines of aliases can stand for more than a memory holds."""

_UNFIT = (ValueError, LookupError, AttributeError, TypeError, OverflowError)
"""What PyYAML raises where a text does not fit its tag: `!!float x`, or a date that is none."""


class YAMLFault(ValueError):
    """Text that is not YAML. The message is one line.

    Args:
        message: What is wrong.
        line: Where, from 1; None: it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; no key of a mapping may be given twice.

    Raises:
        YAMLFault: It is not YAML.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MAX_VALUES:
            raise YAMLFault(f"more than {MAX_VALUES:,} values, aliases followed")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise YAMLFault(f"not valid YAML: {shown(one_line(problem), 200)}", mark.line + 1 if mark else None) from None
    except RecursionError:
        raise YAMLFault("YAML nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; more than there may be where it holds itself."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_VALUES + 1  # until it is known: it is met again inside itself
    items = node.value if isinstance(node, yaml.CollectionNode) else []
    inner = [part for item in items for part in (item if isinstance(item, tuple) else (item,))]
    known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """YAML lets a later key replace an earlier one without a word; in a config that is a mistake."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _UNFIT:
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            seen = repr(shown(node.value)) if isinstance(node, yaml.ScalarNode) else "a list or a mapping"
            raise yaml.constructor.ConstructorError(None, None, f"{seen} cannot be read as {tag}", node.start_mark) from None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)
