"""What closing tables share."""

from __future__ import annotations


def share(count: int, total: int) -> str:
    """A count of a total and its share; a dash where there is nothing to be a share of."""
    return f"{count:,} of {total:,} ({count / total:.1%})" if total else "—"
