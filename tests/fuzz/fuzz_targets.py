"""All targets of the fuzzer."""

import fuzz_models
import fuzz_texts
from fuzz_target import TARGETS

__all__ = ["TARGETS", "fuzz_models", "fuzz_texts"]
