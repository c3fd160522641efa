"""All targets of the fuzzer."""

import fuzz_bank
import fuzz_commands
import fuzz_evaluations
import fuzz_models
import fuzz_reports
import fuzz_scores
import fuzz_texts
from fuzz_target import TARGETS

__all__ = ["TARGETS", "fuzz_bank", "fuzz_commands", "fuzz_evaluations", "fuzz_models", "fuzz_reports", "fuzz_scores", "fuzz_texts"]
