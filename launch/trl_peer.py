"""TRL on the same records, model and machine as `python -m mede2_jax.benchmark`: what users of PyTorch compare with.

    python launch/trl_peer.py --model=DIR --records=FILE --stage=dpo --batch=4 --steps=6 --json=FILE

Needs torch, transformers, peft, trl, datasets and torchvision in this Python; nothing of this package. The model is made from
its config.json with random weights. LoRA is put on all linear layers of the language model, as in the configs here. TRL's
own defaults stay where nobody asked for others: padded batches, and (for DPO with images) the reference computed at every step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

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
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with config.json, tokenizer and image processor")
    parser.add_argument("--records", type=Path, required=True, help="JSONL of this project's format")
    parser.add_argument("--stage", choices=("sft", "dpo"), required=True)
    parser.add_argument("--batch", type=int, default=4, help="examples, or pairs, a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--max_pixels", type=int, default=589824)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(given: argparse.Namespace, batch: int, checkpointing: bool) -> dict[str, Any]:
    """One run of TRL's trainer, timed step by step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, given.dtype)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(given.model), dtype=dtype)
    model.config.use_cache = False
    processor = AutoProcessor.from_pretrained(given.model, max_pixels=given.max_pixels)
    clock = Clock(given.warmup)
    common = {
        "output_dir": "unused",
        "per_device_train_batch_size": batch,
        "max_steps": given.warmup + given.steps,
        "learning_rate": 1e-5,
        "bf16": dtype == torch.bfloat16 and device == "cuda",
        "use_cpu": device == "cpu",
        "gradient_checkpointing": checkpointing,
        "max_length": None,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 1000,
        "disable_tqdm": True,
        "dataloader_num_workers": 4 if device == "cuda" else 0,
    }
    lora = LoraConfig(r=given.rank, lora_alpha=2 * given.rank, target_modules=LANGUAGE, task_type="CAUSAL_LM")
    kinds = {"dpo": (DPOTrainer, DPOConfig), "sft": (SFTTrainer, SFTConfig)}
    trainer_type, config_type = kinds[given.stage]
    trainer = trainer_type(
        model=model,
        args=config_type(**common),
        train_dataset=records(given.records, given.stage),
        processing_class=processor,
        peft_config=lora,
        callbacks=[clock],
    )
    trainer.train()
    step = statistics.median(clock.seconds)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "stage": given.stage,
        "batch": batch,
        "gradient_checkpointing": checkpointing,
        "step_seconds": step,
        "examples_per_second": batch / step,
        "peak_memory_bytes": memory,
    }


class Clock(TrainerCallback):
    """Seconds of each step after the first `warmup`, from one step's end to the next's, so that the data loader counts."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.seconds, self.last = warmup, list[float](), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if state.global_step > self.warmup:
            self.seconds.append(now - self.last)
        self.last = now


def records(path: Path, stage: str) -> Dataset:
    """The records in TRL's conversational format, images opened."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        images = [Image.open(path.parent / name).convert("RGB") for name in record["images"]]
        turns = record["prompt"] if stage == "dpo" else record["messages"][:-1]
        prompt = [{"role": turn["role"], "content": text_of(turn["content"])} for turn in turns]
        row: dict[str, Any] = {"prompt": prompt} | ({"images": images} if images else {})
        if stage == "dpo":
            row |= {name: [{"role": "assistant", "content": record[name]}] for name in ("chosen", "rejected")}
        else:
            row["completion"] = [{"role": "assistant", "content": text_of(record["messages"][-1]["content"])}]
        rows.append(row)
    return Dataset.from_list(rows)


def text_of(content: Any) -> str:
    """The text of a turn: TRL puts the images before it itself."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


if __name__ == "__main__":
    main()
