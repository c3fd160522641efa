"""What kernels other than large products move in a training step compiled for a GPU, with and without what was built against it.

    .venv-plan-gpu/bin/python tests/benchmarks/memory_traffic.py --model=DIR [--topology=h100:1] [--rows=1,4] [further options of plan]

DIR needs a config.json. Each line is one `python -m mede2_jax.plan` of 7B LoRA SFT, rows of 4,096 tokens of text. Milliseconds are the
bytes of a row at the makers' bandwidth; `remat` counts instructions that XLA computes again by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAN = [
    *("--config=configs/sft_qwen2_5_vl_7b_lora.yaml", "--mesh.fsdp=1", "--accumulation=1", "--remat=dots_no_batch"),
    *("--data.row_tokens=4096", "--synthetic.images=0", "--synthetic.prompt_tokens=100", "--synthetic.response_tokens=1900,1900"),
]
# XLA's own values, which stay since they are given.
BEFORE = "--xla_gpu_memory_limit_slop_factor=95 --xla_gpu_dot_merger_threshold_mb=32"
CASES = [
    ("stacked layers, XLA's flags", BEFORE, ["--frozen_layers=stacked"]),
    ("stacked layers", "", ["--frozen_layers=stacked"]),
    ("layers apart", "", ["--frozen_layers=apart"]),
    ("layers apart, logprob_chunk=1024", "", ["--frozen_layers=apart", "--logprob_chunk=1024"]),
]


def main() -> None:
    """Prints one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with a config.json")
    parser.add_argument("--topology", default="h100:1")
    parser.add_argument("--rows", default="1,4", help="rows of a step, several separated by commas")
    given, more = parser.parse_known_args()
    print(f"{'':34} {'rows':>4} {'GB a row':>9} {'ms a row':>9} {'remat':>6} {'GiB':>6} {'MFU in turn':>12} {'compile s':>10}")
    for rows in map(int, given.rows.split(",")):
        for name, flags, options in CASES:
            found = planned([f"--model={given.model}", f"--topology={given.topology}", f"--rows_per_step={rows}", *options, *more], flags)
            plan, times, memory = found["plan"], found["roofline"], found["plan"]["memory"]
            moved, again = plan["traffic"]["other"] / rows / 1e9, plan["traffic"]["rematerialised"]
            print(
                f"{name:34} {rows:4} {moved:9.1f} {times['other_kernels'] / rows * 1e3:9.1f} {again:6,} {memory['total'] / 2**30:6.1f} "
                f"{times['mfu_in_turn']:12.0%} {plan['compile_seconds']:10.0f}",
                flush=True,
            )


def planned(options: list[str], flags: str) -> dict:
    """One plan's figures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "mede2_jax.plan", *PLAN, *options, f"--json={file}"]
        environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr.splitlines()[-1] if done.stderr else f"plan ended with {done.returncode}")
        return json.loads(file.read_text())


if __name__ == "__main__":
    main()
