"""Lets torchvision's CUDA build be imported with a CPU build of torch, in every process of an environment.

On import, torchvision registers shapes for two operators that only its compiled library defines, and that library does not
load without CUDA. They are defined here, without an implementation, just before torchvision is imported; image processors
use neither. `launch/vllm_env.sh` copies this file into site-packages as a module that a .pth file imports.
"""

import importlib.abc
import sys

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _DefineOperators(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it acts when torchvision is looked for, and steps aside."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in OPERATORS:
                torch.library.define(f"torchvision::{operator}", SIGNATURE)
        return None


sys.meta_path.insert(0, _DefineOperators())
