"""A tiny checkpoint with random weights, in the Hugging Face format of the released ones.

    python -m mede2_jax.tiny --to=DIR
    python -m mede2_jax.tiny --family=internvl3 --format=original --to=DIR

For tests, smoke runs and the embedded default of training: everything about it is real (config, names, tokenizer, chat template,
processor) except the size and the weights. The same arguments give the same bytes. Its tokenizer is trained on the given texts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from rich.console import Console
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mede2_jax import convert
from mede2_jax.command import run_command
from mede2_jax.config import Config, UserError
from mede2_jax.families import DEFAULT_FAMILY, FamilyName, family_named
from mede2_jax.flags import parse
from mede2_jax.foreign import parse_json
from mede2_jax.tiny_checkpoints.recipe import Recipe
from mede2_jax.weights.hf import CheckpointWriter
from mede2_jax.weights.staging import staged_directory

SAMPLE_TEXTS = tuple(
    Path(__file__).resolve().parents[1] / "data" / "sample" / f"{name}.jsonl" for name in ("demonstrations", "preferences")
)
# How Qwen2 cuts text into words before merging: contractions, letters, single digits, punctuation, line ends, spaces.
WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


class TinyConfig(Config):
    """Where the checkpoint goes, and its variable sizes."""

    to: Path
    """Folder to write the checkpoint into."""
    family: FamilyName = DEFAULT_FAMILY
    """Of which model family."""
    format: str | None = None
    """For a family whose checkpoints come in several: hf (transformers', the default) or original."""
    texts: tuple[Path, ...] = SAMPLE_TEXTS
    """Files whose text the tokenizer learns its words from (JSONL records or plain text)."""
    vocab_size: int = pydantic.Field(1536, ge=320, le=65536)
    """Rows of the embedding; the tokenizer has at most as many tokens."""
    seed: int = 0
    """Of the random weights."""


def main(argv: Sequence[str]) -> None:
    """Writes the checkpoint."""
    config = parse(
        TinyConfig,
        argv,
        program="python -m mede2_jax.tiny",
        description="Write a tiny checkpoint in Hugging Face format, for tests, smoke runs and the embedded default of training. "
        "The weights are random: it knows nothing.\n\n"
        "  try it     python -m mede2_jax.tiny --to=runs/tiny-hf\n"
        "  then       python -m mede2_jax.convert --from=runs/tiny-hf --to=runs/m0",
    )
    if config.to.exists() and (not config.to.is_dir() or any(config.to.iterdir())):
        raise UserError(f"--to={config.to} exists; choose another directory, or delete it")
    recipe, texts = _recipe(config.family, config.format), read_texts(config.texts)
    with staged_directory(config.to, overwrite=config.to.exists()) as partial:
        write_tiny_checkpoint(partial, texts=texts, seed=config.seed, vocab_size=config.vocab_size, recipe=recipe)
    print(f"wrote a tiny random {config.family} checkpoint to {config.to}")


def write_tiny_checkpoint(
    to: str | Path, *, texts: Sequence[str], seed: int = 0, vocab_size: int = 1536, recipe: Recipe | None = None
) -> None:
    """Writes config.json, model.safetensors (float32), tokenizer, image processor and generation config into `to`.

    Args:
        to: Folder, made if needed.
        texts: What the tokenizer learns its words from.
        seed: Of the weights.
        vocab_size: Rows of the embedding and of the head.
        recipe: What makes it one of its family; by default, of the default family.

    Raises:
        UserError: `vocab_size` does not hold the 256 bytes and the special tokens.
    """
    to, recipe = Path(to), recipe or _recipe(DEFAULT_FAMILY, None)
    if vocab_size < 256 + len(recipe.special_tokens):
        raise UserError(f"vocab_size {vocab_size} is too small; give at least {256 + len(recipe.special_tokens)}")
    to.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, vocab_size, recipe.special_tokens)
    tokenizer.save(str(to / "tokenizer.json"))
    files = recipe.files(vocab_size, {token: tokenizer.get_vocab()[token] for token in recipe.special_tokens})
    for name, content in files.items():
        _write_json(to / name, content)
    rng = np.random.default_rng(seed)
    shapes = recipe.tensor_shapes(files["config.json"])
    with CheckpointWriter(to, [(name, np.dtype(np.float32), shape) for name, shape in shapes]) as writer:
        for name, info in writer.tensors.items():
            writer.write(name, _initial(rng, name, info.shape))


def model_directory(to: Path, family: FamilyName = DEFAULT_FAMILY, format: str | None = None) -> Path:
    """The model directory of the tiny checkpoint of the sample texts: the one in `to` if it is there and current, else a new one.

    Args:
        to: Where it is or will be.
        family: Of which model family.
        format: In which of the family's formats; None: its first.

    Raises:
        UserError: The sample data is missing, or `to` is in use by something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder)
        write_tiny_checkpoint(checkpoint, texts=read_texts(SAMPLE_TEXTS), recipe=_recipe(family, format))
        # The weights follow from the seed, so these files tell whether the sample data or this module has changed.
        names = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
        current = (to / "model.json").exists() and all(_same(to / name, checkpoint / name) for name in names)
        if not current:
            to.parent.mkdir(parents=True, exist_ok=True)
            wanted = convert.ConvertConfig.model_validate({"from": checkpoint, "to": to, "overwrite": to.exists()})
            convert.run(wanted, Console(quiet=True))
    return to


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The text of JSONL records (every string in them) or of plain files.

    Raises:
        UserError: A file cannot be read, or a `.jsonl` file has a broken line.
    """
    texts: list[str] = []
    for path in paths:
        try:
            content = Path(path).read_text(encoding="utf-8")
            texts += (
                [text for line in content.split("\n") if line.strip() for text in _strings(parse_json(line))]
                if path.suffix == ".jsonl"
                else [content]
            )
        except OSError as error:
            raise UserError(f"cannot read {str(path)!r}: {error.strerror}; give files to learn words from with --texts") from None
        except ValueError as error:
            raise UserError(f"{path}: not UTF-8 JSON Lines: {error}") from None
    return texts


def train_tokenizer(texts: Sequence[str], vocab_size: int, special_tokens: Sequence[str]) -> Tokenizer:
    """A byte-level BPE tokenizer as Qwen2's: text vocabulary first, then the special tokens; `vocab_size` tokens at most."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special_tokens), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return tokenizer


def _recipe(family: FamilyName, format: str | None) -> Recipe:
    recipes = family_named(family).tiny
    if format is not None and format not in recipes:
        raise UserError(f"--format={format}: {family} checkpoints come as {' or '.join(recipes)}")
    return recipes[format or next(iter(recipes))]


def _initial(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Biases 0, norm scales 1, layer scales 0.1 (which are no `.weight`), all else normal with the released initializer_range."""
    if len(shape) == 1:
        return np.full(shape, 0.0 if name.endswith(".bias") else 1.0 if name.endswith(".weight") else 0.1, np.float32)
    return rng.normal(0.0, 0.02, shape).astype(np.float32)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
