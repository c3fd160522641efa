r"""What `\boxed{…}` holds: the shortest, within one line."""

from __future__ import annotations

from collections.abc import Iterator

_OPEN = "\\boxed{"


def boxes(text: str) -> Iterator[str]:
    r"""The contents of each `\boxed{…}`, up to the first brace that closes; one that its line does not close is none.

    In time proportional to the text, whatever it is: what is looked for behind an opening is looked for once.
    """
    at = text.find(_OPEN)
    close = line_end = -1
    while at >= 0:
        begin = at + len(_OPEN)
        if close < begin and (close := text.find("}", begin)) < 0:
            return
        if line_end < begin:
            found = text.find("\n", begin)
            line_end = len(text) if found < 0 else found
        if close < line_end:
            yield text[begin:close]
            begin = close + 1
        at = text.find(_OPEN, begin)
