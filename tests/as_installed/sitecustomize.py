"""Read by each Python that the tests start: without torch, as the package is installed, it begins in a third of the time.

transformers imports all of torch that it finds, and the environment of the tests has it only to compare with.
"""

import os
import sys
from importlib.machinery import PathFinder


class Installed(PathFinder):
    """Finds what is there, but for torch. (None in sys.modules would do for transformers, and not for SciPy.)"""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname in ("torch", "torchvision") else super().find_spec(fullname, path, target)


if sys.prefix == os.environ.get("MEDE2_TEST_NO_TORCH"):  # the environments of vLLM and TRL keep theirs
    sys.meta_path[:] = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
