"""docs/own_data.md, run as it is written: from five lines to an adapter that vLLM serves and transformers loads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cheap_programs import one_device

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "own_data.md"
LEARNT = "<think>Scurvy is a lack of ascorbic acid.</think><answer>Vitamin C</answer>"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), flags=re.S)


@pytest.mark.slow
def test_the_page_as_it_is_written(tmp_path, vllm_env):
    (tmp_path / ".venv-vllm").symlink_to(vllm_env)
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    python = Path(sys.prefix) / "bin"
    # The last step is for an environment with torch, as this one is.
    environment = one_device(PATH=f"{python}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(ROOT))
    script = "\n".join(["set -e", *blocks("bash")]).replace("bash launch/vllm_env.sh\n", "")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rollout = json.loads((tmp_path / "runs" / "own" / "rollouts.jsonl").read_text("utf-8"))
    assert rollout["response"] == LEARNT
    done = subprocess.run(["python", "-c", *blocks("python")], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and LEARNT in done.stdout, done.stdout + done.stderr[-3000:]
