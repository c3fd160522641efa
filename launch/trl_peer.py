"""TRL on the same records, model and machine as `python -m mede2_jax.benchmark`: what users of PyTorch compare with.

    .venv-trl/bin/python launch/trl_peer.py --model=DIR --records=FILE --stage=dpo --batch=4 --steps=6 --json=FILE

`python -m mede2_jax.benchmark --peer=trl` calls it. It needs torch, transformers, peft, trl, datasets and torchvision
(`bash launch/trl_env.sh`), and nothing of this package. The model is made from its config.json with random weights. LoRA is put
on all linear layers of the language model, as in the configs here. TRL's own defaults stay where nobody asked for others:
padded batches, and (for DPO with images) the reference computed at every step.

Where there is no Triton, which is on every CPU, TRL's head projects all positions onto the vocabulary instead of the
labelled ones. Nothing on that path needs Triton, so --head=labelled has it take the labelled ones there too: the same losses,
about twice as fast.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image, List
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer import utils

LANGUAGE = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def main() -> None:
    """Trains for a few steps and prints the figures; a batch that does not fit is halved."""
    given = parse()
    batch, checkpointing = given.batch, given.gradient_checkpointing
    while True:
        try:
            figures = run(given, batch, checkpointing)
            break
        except torch.OutOfMemoryError:
            print(f"batch {batch}, gradient checkpointing {checkpointing}: out of memory", flush=True)
            batch, checkpointing = (batch, True) if not checkpointing else (batch // 2, True)
            torch.cuda.empty_cache()
            if not batch:
                raise SystemExit("error: not even one example fits") from None
    text = json.dumps(figures, indent=1)
    if given.json:
        given.json.write_text(text + "\n")
    else:
        print(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with config.json, tokenizer and image processor")
    parser.add_argument("--records", type=Path, required=True, help="JSONL of this project's format")
    parser.add_argument("--images", type=Path, help="folder that image paths start from; else that of --records")
    parser.add_argument("--stage", choices=("sft", "dpo"), required=True)
    parser.add_argument("--batch", type=int, default=4, help="examples, or pairs, a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument(
        "--head", choices=("labelled", "default"), default="labelled", help="positions that are projected onto the vocabulary"
    )
    parser.add_argument("--attention", help="transformers' attn_implementation, such as flash_attention_2; else its default")
    parser.add_argument("--liger", action="store_true", help="TRL's use_liger_kernel")
    parser.add_argument("--min_pixels", type=int, help="of an image; else as the image processor says")
    parser.add_argument("--max_pixels", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.images = given.images or given.records.parent
    return given


def run(given: argparse.Namespace, batch: int, checkpointing: bool) -> dict[str, Any]:
    """One run of TRL's trainer, timed step by step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, given.dtype)
    torch.manual_seed(0)
    head = project_labelled_only() if given.head == "labelled" else "default"
    attention = {} if given.attention is None else {"attn_implementation": given.attention}
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(given.model), dtype=dtype, **attention)
    model.config.use_cache = False
    limits = {"min_pixels": given.min_pixels, "max_pixels": given.max_pixels}
    processor = AutoProcessor.from_pretrained(given.model, **{name: value for name, value in limits.items() if value is not None})
    # A folder may hold the template with its tokenizer alone.
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    trainer_type, config_type = {"dpo": (DPOTrainer, DPOConfig), "sft": (SFTTrainer, SFTConfig)}[given.stage]
    counts = Counts(given.warmup, given.warmup + given.steps)
    trainer = counting(trainer_type, counts)(
        model=model,
        args=config_type(
            output_dir="unused",
            per_device_train_batch_size=batch,
            max_steps=counts.last,
            learning_rate=1e-5,
            bf16=dtype == torch.bfloat16 and device == "cuda",
            use_cpu=device == "cpu",
            gradient_checkpointing=checkpointing,
            use_liger_kernel=given.liger,
            max_length=None,
            save_strategy="no",
            report_to=[],
            logging_steps=1,
            disable_tqdm=True,
            dataloader_num_workers=4 if device == "cuda" else 0,
        ),
        train_dataset=records(given.records, given.images, given.stage),
        processing_class=processor,
        peft_config=LoraConfig(r=given.rank, lora_alpha=2 * given.rank, target_modules=LANGUAGE, task_type="CAUSAL_LM"),
        callbacks=[counts],
    )
    trainer.train()
    seconds = sum(counts.seconds)
    return {
        "name": f"TRL {version('trl')}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "stage": given.stage,
        "batch": batch,
        "gradient_checkpointing": checkpointing,
        "head": head,
        "attention": model.config._attn_implementation,
        "liger": given.liger,
        "step_seconds": counts.seconds,
        "step_losses": counts.losses,
        "examples_per_second": batch * given.steps / seconds,
        "tokens_per_second": counts.tokens / seconds,
        "real_tokens": counts.tokens / counts.places,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory(),
    }


def project_labelled_only() -> str:
    """Takes TRL's question for Triton for answered, where it chooses which positions to project; its kernels still ask for themselves."""
    if not hasattr(utils, "_use_triton"):
        raise SystemExit(f"error: TRL {version('trl')} does not choose by _use_triton which positions to project; use --head=default")
    utils._use_triton = lambda device: True
    return "labelled"


class Counts(TrainerCallback):
    """Steps after the first `warmup`: seconds from one's end to the next's, so that the data loader counts; and what they held."""

    def __init__(self, warmup: int, last: int) -> None:
        self.warmup, self.last = warmup, last
        self.seconds, self.losses = list[float](), list[float]()
        self.tokens = self.places = 0
        self.step, self.began = 0, time.perf_counter()

    def saw(self, attention_mask: torch.Tensor) -> None:
        """Counts a batch: real tokens (a pair's prompt twice, as it is computed), and all places."""
        if self.step >= self.warmup:
            self.tokens += int(attention_mask.sum())
            self.places += attention_mask.numel()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Called by the trainer, after each step."""
        if logs and "loss" in logs and state.global_step > self.warmup:
            self.losses.append(float(logs["loss"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.step >= self.warmup:
            self.seconds.append(now - self.began)
        self.step, took, self.began = self.step + 1, now - self.began, now
        print(f"TRL: step {self.step} of {self.last}, {took:.2f} s", flush=True)


def counting(trainer_type: type, counts: Counts) -> type:
    """The trainer, with every batch counted."""

    class Counting(trainer_type):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            counts.saw(inputs["attention_mask"])
            return super().training_step(model, inputs, *rest, **named)

    return Counting


def peak_memory() -> int:
    """This process's largest resident size in bytes; getrusage's starts from its parent's."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def records(path: Path, root: Path, stage: str) -> Dataset:
    """The records in TRL's conversational format; images are opened when a batch needs them."""
    rows = []
    for line in path.open(encoding="utf-8"):
        if not line.strip():
            continue
        record = json.loads(line)
        turns = record["prompt"] if stage == "dpo" else record["messages"][:-1]
        row: dict[str, Any] = {"prompt": [{"role": turn["role"], "content": text_of(turn["content"])} for turn in turns]}
        row["images"] = [str(root / name) for name in record.get("images", ())]
        if stage == "dpo":
            row |= {name: [{"role": "assistant", "content": record[name]}] for name in ("chosen", "rejected")}
        else:
            row["completion"] = [{"role": "assistant", "content": text_of(record["messages"][-1]["content"])}]
        rows.append(row)
    if not any(row["images"] for row in rows):
        return Dataset.from_list([{name: value for name, value in row.items() if name != "images"} for row in rows])
    return Dataset.from_list(rows).cast_column("images", List(Image()))


def text_of(content: Any) -> str:
    """The text of a turn: TRL puts the images before it itself."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


if __name__ == "__main__":
    main()
