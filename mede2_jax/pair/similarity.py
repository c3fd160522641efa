"""How much of their wording responses share: all against all of one question, in a few array operations. N texts."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

RUN = 3
"""Words in a run."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""A run of letters and digits; of scripts without spaces, one character."""


def similarities(texts: Sequence[str]) -> Float32[np.ndarray, "N N"]:
    """The Jaccard index of the texts' runs of three words: of the runs that two texts have together, the share that both have.

    Case and punctuation do not count. A text of fewer words is one run. Two texts without any word are the same.
    """
    number_of: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
    runs: list[np.ndarray] = []
    for text in texts:
        words = np.array([number_of[word] for word in _WORD.findall(text.casefold())], dtype=np.uint64)
        words = np.pad(words, (0, max(0, RUN - len(words)))) if len(words) else words
        # One number for each run: exact below 2²¹ words, more than a question's responses have.
        code = np.zeros(max(len(words) - RUN + 1, 0), dtype=np.uint64)
        for place in range(RUN):
            code = (code << np.uint64(21)) | words[place : place + len(code)]
        runs.append(np.unique(code))
    distinct, columns = np.unique(np.concatenate(runs), return_inverse=True)
    has = np.zeros((len(texts), len(distinct)), dtype=np.float32)
    has[np.repeat(np.arange(len(texts)), [len(code) for code in runs]), columns] = 1.0
    both = has @ has.T
    sizes = has.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    return np.divide(both, either, out=np.ones_like(both), where=either > 0)
