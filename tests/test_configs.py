"""The experiment configs load, say where their values come from, and hold the paper's values."""

import re
from pathlib import Path
from typing import get_args

import pytest

from mede2_jax.curate.config import CurateConfig, StepName
from mede2_jax.flags import parse
from mede2_jax.rollout.command import RolloutCommand
from mede2_jax.tasks.catalogue import find_task
from mede2_jax.train.config import TrainConfig

FOLDER = Path(__file__).resolve().parents[1] / "configs"
FUNNELS = sorted(FOLDER.glob("curate_*.yaml"))
CONFIGS = sorted(set(FOLDER.glob("*.yaml")) - set(FUNNELS))
NAMES = {
    "sft_qwen2_5_vl_7b_lora",
    "sft_qwen2_5_vl_32b_lora",
    "sft_qwen2_5_vl_72b_lora",
    "dpo_qwen2_5_vl_7b_full",
    "dpo_qwen2_5_vl_32b_lora",
    "dpo_qwen2_5_vl_72b_lora",
    "sft_internvl3_8b_lora",
    "dpo_internvl3_8b_full",
    "dpo_internvl3_38b_lora",
    "dpo_internvl3_78b_lora",
}


def load(path, *flags):
    return parse(TrainConfig, [f"--config={path}", *flags], program="train", description="")


def test_all_experiments_are_there():
    assert {path.stem for path in CONFIGS} >= NAMES


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_the_papers_recipe(path):
    config = load(path, "--model=m", "--data.path=d.jsonl")
    stage, part = path.stem.split("_")[0], path.stem.split("_")[-1]
    assert config.stage == stage
    assert config.parts.model_dump() == {"vision": "frozen", "projector": "frozen", "language": part}
    assert config.learning_rate == {"sft": 1e-4, "dpo": 1e-6}[stage]
    assert config.optimizer.schedule == "cosine"
    assert config.rows_per_step * config.accumulation == 64
    assert config.rows_per_step % (config.mesh.data * config.mesh.fsdp) == 0
    assert (config.lora.rank, config.lora.alpha) == (8, 16)
    assert (config.dpo.beta, config.dpo.loss) == (0.1, "sigmoid")


def marked(path):
    """The first lines of a file each of whose values says where it comes from."""
    lines = path.read_text("utf-8").splitlines()
    values = [line for line in lines if re.match(r" *\w+: *[^# ]", line)]
    assert values
    assert [line for line in values if not re.search(r"# \[(paper|framework|ours)\]", line)] == []
    return "\n".join(lines[:15])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_opens_with_its_command_and_marks_every_value(path):
    header = marked(path)
    assert f"python -m mede2_jax.train --config=configs/{path.name} --model=" in header
    assert "H100" in header


@pytest.mark.parametrize("path", FUNNELS, ids=lambda path: path.stem)
def test_a_funnel_is_the_papers_and_marks_every_value(path):
    flags = [f"--config={path}", "--questions=b.jsonl", "--out=c.jsonl", "--leakage.data=x"]
    config = parse(CurateConfig, flags, program="curate", description="")
    images = path.stem == "curate_multimodal"
    assert config.steps == tuple(step for step in get_args(StepName) if images or step not in ("type", "refinement"))
    assert len(config.difficulty.rollouts) == len(config.solvability.rollouts) == 2 and config.difficulty.pass_rate is None
    assert not config.idle and config.type.drop == ("pattern_recognition",)
    assert [find_task(name).name for name in config.leakage.task] == list(config.leakage.task)
    header = marked(path)
    assert f"python -m mede2_jax.curate --config=configs/{path.name} --questions=" in header
    for command in re.findall(r"mede2_jax\.rollout (.*)", header):
        parse(RolloutCommand, [part for part in command.split() if part != "…"], program="rollout", description="")


def test_both_funnels_are_there():
    assert {path.stem for path in FUNNELS} == {"curate_text", "curate_multimodal"}
