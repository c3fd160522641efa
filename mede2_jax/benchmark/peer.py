"""TRL on the same records, model and machine, in its own environment: a process that ends before anything is measured here."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

from mede2_jax.benchmark.config import BenchmarkConfig
from mede2_jax.config import Config, UserError
from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT
from mede2_jax.data.readers import detect_format, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, PreferencePair
from mede2_jax.foreign import one_line
from mede2_jax.json_file import load_checked
from mede2_jax.outputs.image_root import image_root

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "trl_peer.py"


class PeerFigures(Config):
    """What the peer's own process measured."""

    name: str
    """With its version."""
    device: str
    torch: str
    transformers: str
    stage: str
    batch: int
    """Examples, or pairs, a step: as many as fit of those asked for."""
    gradient_checkpointing: bool
    head: Literal["labelled", "default"]
    """Which positions it projects onto the vocabulary: the labelled ones; or as it comes, which on a CPU is all of them."""
    attention: str
    """transformers' name of it."""
    liger: bool
    step_seconds: tuple[float, ...]
    """Of each step after the warm-up, its data loading counted."""
    step_losses: tuple[float, ...]
    """Of the same steps, as the trainer logs them."""
    examples_per_second: float
    """Demonstrations, or pairs."""
    tokens_per_second: float
    """Real tokens; a pair's prompt counts twice, as it is computed twice."""
    real_tokens: float
    """Share of real tokens in its padded batches."""
    peak_memory_bytes: int


def check_peer(config: BenchmarkConfig) -> None:
    """Before anything starts.

    Raises:
        UserError: The peer cannot do the same as this config, or its environment is missing.
    """
    lora, parts = config.lora, config.parts
    if (parts.vision, parts.projector, parts.language) != ("frozen", "frozen", "lora"):
        raise UserError("--peer=trl compares LoRA on the language model, all else frozen; leave parts.… as they are")
    if lora.dropout or lora.rslora or lora.alpha != 2 * lora.rank or lora.targets != type(lora)().targets:
        raise UserError("--peer=trl compares LoRA on all linear layers with lora.alpha = 2 × lora.rank and no dropout; set lora.… so")
    if config.data.system_prompt != DEFAULT_SYSTEM_PROMPT:
        raise UserError("--peer=trl takes the chat template's own system prompt; leave data.system_prompt as it is")
    if not _python(config).exists():
        raise UserError(f"no TRL at trl.python={_python(config)}: `bash launch/trl_env.sh` makes .venv-trl")


def _python(config: BenchmarkConfig) -> Path:
    return config.trl.python or ROOT / ".venv-trl" / "bin" / "python"


def run_peers(config: BenchmarkConfig, model_dir: Path, records: Path) -> list[PeerFigures]:
    """TRL at its best, and on a CPU as it comes, where that is asked for; see `run_peer`."""
    best = run_peer(config, model_dir, records, "labelled")
    if best.device != "cpu" or not config.trl.defaults:
        return [best]
    return [best, run_peer(config, model_dir, records, "default")]


def run_peer(config: BenchmarkConfig, model_dir: Path, records: Path, head: Literal["labelled", "default"]) -> PeerFigures:
    """Runs TRL for some steps and returns its figures.

    Args:
        config: The benchmark; its `trl` says how.
        model_dir: Folder with config.json, tokenizer and image processor. The peer's weights are random.
        records: A data file of this project's format.
        head: As in its figures.

    Raises:
        UserError: The records are broken or of another format, or TRL failed; with its last line.
    """
    file = RecordFile(records)
    if (found := detect_format(file[0])) != "mede2" or file.is_list:
        raise UserError(f"--peer=trl reads JSONL of this project's format, and {records} looks like {'a list' if file.is_list else found}")
    kind: Any = Demonstration if config.stage == "sft" else PreferencePair
    for index in range(len(file)):  # here a broken line is named; TRL would only trip over it
        read_record(file[index], kind, "mede2", file.where(index))
    options: dict[str, object] = {
        "model": model_dir.absolute(),
        "records": records.absolute(),
        "images": image_root(records, config.data.image_root, "--data.image_root").absolute(),
        "stage": config.stage,
        "batch": config.trl.batch,
        "steps": config.trl.steps or config.steps,
        "warmup": config.warmup,
        "rank": config.lora.rank,
        "dtype": config.compute_dtype,
        "head": head,
        "attention": config.trl.attention,
        "min_pixels": config.data.min_pixels,
        "max_pixels": config.data.max_pixels,
    }
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        given = [f"--{name}={value}" for name, value in options.items() if value is not None] + ["--liger"] * config.trl.liger
        command = [str(_python(config).absolute()), str(SCRIPT), *given, f"--json={figures}"]
        # Its steps are shown as they end. It runs in a folder of its own: TRL leaves files where it stands.
        with (Path(folder) / "errors").open("w+") as errors:
            ended = subprocess.run(command, cwd=folder, stderr=errors, check=False)
            errors.seek(0)
            lines = [line for line in errors.read().splitlines() if line.strip()]
        if ended.returncode:
            last = one_line(lines[-1]) if lines else "without a word"
            raise UserError(f"TRL ended with status {ended.returncode}: {last}")
        try:
            return load_checked(figures, PeerFigures)
        except UserError as error:
            raise UserError(f"TRL left no figures that can be read: {error}") from None
