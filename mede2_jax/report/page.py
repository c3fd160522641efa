"""The page: everything that was found, as HTML in which foreign text is text only. It loads nothing but what lies beside it."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from mede2_jax import __version__
from mede2_jax.report.cases import Cases
from mede2_jax.report.drawing import Figure
from mede2_jax.report.items import as_script
from mede2_jax.report.tables import Table

STYLE = "report.css"
SCRIPTS = ("data.js", "item.js", "list.js", "browser.js")
"""In the order in which they are loaded."""
SYMBOLS = {"correct": "✓", "wrong": "✗", "unparsed": "?", "cut": "✂", "refused": "⊘", "failed": "!"}
WORDS = {"correct": "right", "wrong": "wrong", "unparsed": "nothing read", "cut": "cut", "refused": "refused", "failed": "failed"}


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    intro: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    folded: tuple[Table, ...] = ()
    """Tables that are opened when asked for."""
    cases: tuple[Cases, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.tables or self.figures or self.folded or self.cases)


def page(
    title: str,
    notices: Sequence[str],
    sections: Sequence[Section],
    sources: Mapping[str, str],
    inside: Mapping[str, Any] | None,
    *,
    has_items: bool = True,
) -> str:
    """The HTML.

    Args:
        title: Of the report.
        notices: What has to be known before anything else.
        sections: In their order.
        sources: Where each figure is, by its name: a path, or the image itself.
        inside: The items' data, if all is to be in the one file; None: they and all else lie beside it.
        has_items: Whether there are any.
    """
    styles, scripts = static(STYLE), [static(name) for name in SCRIPTS]
    if inside is None:
        allowed = "script-src 'self'; style-src 'self'; img-src 'self' data:"
    else:
        allowed = f"script-src {' '.join(map(_digest, scripts))}; style-src {_digest(styles)}; img-src data:"
    return (
        _templates()
        .get_template("index.html")
        .render(
            title=title,
            notices=notices,
            sections=[section for section in sections if not section.is_empty],
            sources=sources,
            policy=f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'",
            styles=None if inside is None else Markup(styles),
            scripts=None if inside is None else [Markup(script) for script in scripts],
            script_names=SCRIPTS,
            inside={} if inside is None else {name: Markup(as_script(value)) for name, value in inside.items()},
            has_items=has_items,
            symbols=SYMBOLS,
            words=WORDS,
            version=__version__,
        )
    )


@functools.cache
def static(name: str) -> str:
    """A file of the page's own."""
    return resources.files(__package__).joinpath("static", name).read_text("utf-8")


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mede2_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
