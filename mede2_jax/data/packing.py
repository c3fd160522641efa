"""Best-fit-decreasing packing of examples into rows that have room for T tokens and P patches."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def pack(
    tokens: Int[np.ndarray, " N"] | Sequence[int],
    patches: Int[np.ndarray, " N"] | Sequence[int],
    row_tokens: int,
    row_patches: int,
) -> list[list[int]]:
    """Puts every example into one row, largest first, each into the fullest row (by tokens) that has room for both.

    Args:
        tokens: Length of each example in tokens, at most `row_tokens`.
        patches: Its patches, at most `row_patches`.
        row_tokens: Tokens a row holds.
        row_patches: Patches a row holds.

    Returns:
        The example indices of each row, ascending in a row; O(N log N).
    """
    tokens, patches = np.asarray(tokens, dtype=np.int64), np.asarray(patches, dtype=np.int64)
    assert len(tokens) == len(patches) and (tokens <= row_tokens).all() and (patches <= row_patches).all()
    size = np.maximum(tokens / row_tokens, patches / max(row_patches, 1))
    rows: list[list[int]] = []
    # No row gets more than all there is, and the tree is as large as a row.
    room = min(row_tokens, int(tokens.sum()))
    open_rows = _OpenRows(room)
    for example in np.lexsort((np.arange(len(tokens)), -size)).tolist():
        need_tokens, need_patches = int(tokens[example]), int(patches[example])
        found = open_rows.take(need_tokens, need_patches)
        if found is None:
            found = room, row_patches, len(rows)
            rows.append([])
        tokens_left, patches_left, row = found
        rows[row].append(example)
        open_rows.put(tokens_left - need_tokens, patches_left - need_patches, row)
    return [sorted(row) for row in rows]


class _OpenRows:
    """Rows by tokens left; a tree over the token counts holds the most patches left below each node.

    With images, many rows have tokens left but no patches: looking through them one by one would take quadratic time,
    and giving up early leaves rows half empty.
    """

    def __init__(self, row_tokens: int) -> None:
        self._width = 1 << row_tokens.bit_length()
        self._most = [-1] * (2 * self._width)
        self._rows: dict[int, list[tuple[int, int]]] = {}  # tokens left -> heap of (-patches left, row)

    def take(self, tokens: int, patches: int) -> tuple[int, int, int] | None:
        """Removes the row with the fewest tokens left that has room: (tokens left, patches left, row)."""
        node = self._width + tokens
        if self._most[node] < patches:
            # Up to the nearest right-hand neighbour with enough patches, then down its leftmost branch that has them.
            while node > 1 and (node & 1 or self._most[node + 1] < patches):
                node >>= 1
            if node <= 1:
                return None
            node += 1
            while node < self._width:
                node *= 2
                node += self._most[node] < patches
        tokens_left = node - self._width
        negative, row = heapq.heappop(self._rows[tokens_left])
        self._refresh(tokens_left)
        return tokens_left, -negative, row

    def put(self, tokens: int, patches: int, row: int) -> None:
        """Adds a row with that much room."""
        heapq.heappush(self._rows.setdefault(tokens, []), (-patches, row))
        self._refresh(tokens)

    def _refresh(self, tokens: int) -> None:
        heap, node = self._rows[tokens], self._width + tokens
        most = -heap[0][0] if heap else -1
        while node and self._most[node] != most:
            self._most[node] = most
            node >>= 1
            most = max(self._most[2 * node], self._most[2 * node + 1]) if node else most
