"""Licences by their SPDX names, and which of them let questions be made of a work."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mede2_jax.fields import hint, nearest

REUSE = ("CC0", "PDM", "CC-BY", "CC-BY-SA", "MIT", "Apache-2.0", "ODC-By")
"""Those that let anybody use and change a work. Not among them: NC (no commercial use) and ND (nothing changed may be given on)."""
_PARTS = ("BY", "BY-SA", "BY-NC", "BY-ND", "BY-NC-SA", "BY-NC-ND")
FAMILIES = (*(f"CC-{part}" for part in _PARTS), "CC0", "PDM", "MIT", "Apache-2.0", "BSD-3-Clause", "ODC-By", "ODbL", "CDLA-Permissive")
"""What is known, without versions but where the name has one."""
_URL = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/(by(?:-nc)?(?:-nd|-sa)?)|(publicdomain/zero)|(publicdomain/mark))(?:/(\d\.\d))?", re.I
)
_NAME = re.compile(r"\bcc[\s-]*(?:(0|zero)|(by(?:[\s-]*(?:nc|nd|sa))*))\b[\s-]*(?:v(?:ersion)?\.?\s*)?(\d\.\d)?", re.I)
_WORDS = re.compile(
    r"creative\s+commons\s+(?:attribution|(zero)|(public\s+domain))"
    r"(?P<rest>(?:[\s–—-]*(?:non[\s-]?commercial|no[\s-]?deriv(?:ative)?s?|share[\s-]?alike|works?))*)"
    r"(?:\s*\(cc[^)]*\))?\s*(?:licen[cs]e)?[\s,]*(?:version\s*)?(\d\.\d)?",
    re.I,
)
_OTHERS = {family.casefold(): family for family in FAMILIES if not family.startswith("CC")}


def licence(texts: Iterable[str]) -> str:
    """The SPDX name of the licence that texts name, by its address, its name or the sentence that articles have.

    "" where none is known, or where they name several: nobody then knows which holds. Where versions differ, the name is without one.
    """
    names = {name for text in texts for read in (_of_address, _of_name, _of_words) for name in read(text)}
    families = {family(name) for name in names}
    if len(families) != 1:
        return ""
    versioned = names - families
    return versioned.pop() if len(versioned) == 1 else families.pop()


def family(name: str) -> str:
    """A licence without its version: `CC-BY` of `CC-BY-4.0`."""
    return name if name in FAMILIES else re.sub(r"-\d+(?:\.\d+)*$", "", name)


def check_families(names: Iterable[str]) -> tuple[str, ...]:
    """Names of families as they are known here, whatever their capitals.

    Raises:
        ValueError: One is not known; the nearest is named.
    """
    known = {name.casefold(): name for name in FAMILIES}
    checked = []
    for name in names:
        if (one := known.get(name.casefold())) is None:
            raise ValueError(f"{name[:40]!r} is no licence that is known{hint(nearest(name, FAMILIES))}; known are {', '.join(FAMILIES)}")
        checked.append(one)
    return tuple(checked)


def _of_address(text: str) -> list[str]:
    return [
        _versioned("CC0" if zero else "PDM" if mark else f"CC-{part.upper()}", version) for part, zero, mark, version in _URL.findall(text)
    ]


def _of_name(text: str) -> list[str]:
    plain = text.strip().casefold()
    if plain in _OTHERS:
        return [_OTHERS[plain]]
    found = []
    for zero, parts, version in _NAME.findall(text):
        name = "CC0" if zero else _sorted(re.split(r"[\s-]+", re.sub(r"(?<=[a-z])[\s-]*(?=nc|nd|sa)", "-", parts.lower())))
        found.append(_versioned(name, version))
    return found


def _of_words(text: str) -> list[str]:
    found = []
    for match in _WORDS.finditer(text):
        rest = re.sub(r"[\W_]+", "", match["rest"]).lower()
        parts = ["by", *(short for word, short in (("noncommercial", "nc"), ("noderiv", "nd"), ("sharealike", "sa")) if word in rest)]
        found.append(_versioned("CC0" if match[1] else "PDM" if match[2] else _sorted(parts), match[4]))
    return found


def _sorted(parts: Iterable[str]) -> str:
    order = {"by": 0, "nc": 1, "nd": 2, "sa": 2}
    return "CC-" + "-".join(part.upper() for part in sorted({part for part in parts if part}, key=order.__getitem__))


def _versioned(name: str, version: str | None) -> str:
    return f"{name}-{version}" if version else f"{name}-1.0" if name in ("CC0", "PDM") else name
