"""The words of a text, whatever their case, accents and punctuation."""

from __future__ import annotations

import re
import unicodedata

_NO_SPACES = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Signs of scripts that put no spaces between words: each counts as one."""
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_NO_SPACES}]|[^\W\d_{_NO_SPACES}]+")


def words(text: str) -> list[str]:
    """Letters and numbers; `5mg` is two, as `5 mg` is."""
    said = unicodedata.normalize("NFKD", text).casefold()
    return _WORD.findall("".join(one for one in said if not unicodedata.combining(one)))
