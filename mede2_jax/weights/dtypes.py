"""The floating-point types that weights are stored in, and what each file format calls them."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np


class Float(NamedTuple):
    """A type by all its names."""

    dtype: np.dtype
    safetensors: str
    zarr: str


FLOATS = {
    "bfloat16": Float(np.dtype(ml_dtypes.bfloat16), "BF16", "bfloat16"),
    "float16": Float(np.dtype(np.float16), "F16", "<f2"),
    "float32": Float(np.dtype(np.float32), "F32", "<f4"),
}
"""By NumPy's name."""

FROM_SAFETENSORS = {known.safetensors: known.dtype for known in FLOATS.values()}
