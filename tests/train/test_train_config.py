"""The training options: what a newcomer types, what `--help` shows."""

import re

import pytest

from mede2_jax.config import UserError
from mede2_jax.flags import parse
from mede2_jax.train.__main__ import main
from mede2_jax.train.config import TrainConfig, embedded_defaults

KNOWN_ELSEWHERE = {
    "save_steps": "checkpoint.every",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "rows_per_step",
    "gradient_accumulation_steps": "accumulation",
    "model_name_or_path": "model",
    "cutoff_len": "data.row_tokens",
    "max_length": "data.row_tokens",
    "quantization_bit": "frozen_dtype",
    "load_in_8bit": "frozen_dtype",
    "pref_beta": "dpo.beta",
    "beta": "dpo.beta",
    "label_smoothing": "dpo.label_smoothing",
    "dpo_label_smoothing": "dpo.label_smoothing",
    "pref_ftx": "dpo.sft_weight",
    "finetuning_type": "parts.language",
    "lora_rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_target": "lora.targets",
    "learning_rate": "optimizer.learning_rate",
    "learning_rte": "optimizer.learning_rate",
    "optimiser.learning_rate": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule",
    "packing": "data.packing",
    "output_dir": "output",
    "eval_steps": "eval_every",
    "fsdp": "mesh.fsdp",
    "epoch": "epochs",
}
# Each looks like an option here and does something else, or does what nothing here does.
UNLIKE_ANY = [
    "max_samples",
    "overwrite_cache",
    "plot_loss",
    "ref_model",
    "template",
    "do_train",
    "trust_remote_code",
    "ddp_timeout",
    "mask_history",
    "video_max_pixels",
    "use_dora",
    "galore_rank",
    "oft_rank",
    "ld_alpha",
    "lora_bias",
    "local_rank",
    "log_level",
    "swanlab_project",
    "label_smoothing_factor",
    "revision",
    "ppo_epochs",
    "eval_packing",
    "eos_token",
    "tool_format",
    "max_prompt_length",
    "eval_strategy",
    "run_name",
    "streaming",
]


def unknown(*flags):
    """The line that unknown flags end in."""
    with pytest.raises(UserError) as error:
        parse(TrainConfig, [f"--{flag}=1" for flag in flags], program="train", description="")
    return str(error.value)


@pytest.mark.parametrize(("theirs", "ours"), KNOWN_ELSEWHERE.items())
def test_names_of_other_trainers_lead_to_ours(theirs, ours):
    assert unknown(theirs) == f"unknown option '--{theirs}' (did you mean '--{ours}'?); see --help"


@pytest.mark.parametrize("name", UNLIKE_ANY)
def test_no_suggestion_rather_than_a_wrong_one(name):
    assert unknown(name) == f"unknown option '--{name}'; see --help"


def test_all_unknown_names_are_in_one_line(tmp_path):
    assert unknown("save_steps", "template") == (
        "unknown options '--save_steps' (did you mean '--checkpoint.every'?), '--template'; see --help"
    )
    (tmp_path / "c.yaml").write_text("model_name_or_path: m\nlora_rank: 8\nlora:\n  r: 8\ntemplate: qwen2_vl\n")
    with pytest.raises(UserError) as error:
        parse(TrainConfig, [f"--config={tmp_path / 'c.yaml'}"], program="train", description="")
    assert str(error.value).removeprefix(str(tmp_path)) == (
        "/c.yaml: unknown keys 'model_name_or_path' (did you mean 'model'?), 'lora_rank' (did you mean 'lora: {rank: …}'?), "
        "'lora.r' (did you mean 'lora.rank'?), 'template'"
    )


def test_every_former_name_leads_to_an_option_and_is_none():
    for theirs, ours in TrainConfig.FORMER_NAMES.items():
        assert f"(did you mean '--{ours}'?)" in unknown(theirs)


def shown_help(capsys, *flags):
    with pytest.raises(SystemExit):
        main([*flags, "--help"])
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize("flags", [[], ["--stage=sft"], ["--model=m"]])
def test_help_shows_what_holds_for_a_run_of_ones_own(capsys, flags):
    text = shown_help(capsys, *flags)
    for shown in (
        "Tokens a row holds. (default: 4096)",
        "over all devices of all processes. (default: 8)",
        "Passes over the training data. (default: 3)",
    ):
        assert shown in text, shown
    assert "preferences.jsonl" not in text


def test_help_says_in_one_line_what_the_embedded_default_changes(capsys):
    text = shown_help(capsys)
    for stage in ("sft", "dpo"):
        values = embedded_defaults(stage)
        for said in (f"rows_per_step={values['rows_per_step']}", f"data.row_tokens={values['data']['row_tokens']}"):
            assert said in text
        assert str(values["optimizer"]["learning_rate"]) in text and str(values["epochs"]) in text


def test_each_family_has_a_run_of_its_own():
    """One quickstart must not delete the other's."""
    outputs = {embedded_defaults(stage, family)["output"] for stage in ("sft", "dpo") for family in ("qwen2_5_vl", "internvl3")}
    assert len(outputs) == 4 and "runs/dpo" in outputs
