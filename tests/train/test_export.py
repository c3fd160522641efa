"""What a run gives out is the policy that it trained."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from trainer_process import metrics, train
from training import make_config, one_device_inputs

from mede2_jax import convert
from mede2_jax.config import UserError
from mede2_jax.data.loader import make_loader
from mede2_jax.families import model_config
from mede2_jax.models.logprobs import response_sums, token_scores
from mede2_jax.models.lora import put_adapters
from mede2_jax.parallel import rules
from mede2_jax.rollout.check import check_logprobs
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.train.inputs import open_model_spec
from mede2_jax.train.model_spec import init_params
from mede2_jax.weights.model_info import read_info
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.peft import import_adapter

STEPS = 240


def converted(*arguments):
    console = Console(width=1000)
    with console.capture() as shown:
        convert.run(convert.parse(convert.ConvertConfig, [str(a) for a in arguments], program="convert", description=""), console)
    return shown.get()


@pytest.fixture(scope="module")
def narrow(tiny_model, tmp_path_factory):
    """The tiny model in bfloat16, as models are released."""
    folder = tmp_path_factory.mktemp("narrow")
    converted(f"--from={tiny_model}", f"--to={folder / 'hf'}", "--dtype=bfloat16")
    converted(f"--from={folder / 'hf'}", f"--to={folder / 'model'}")
    assert read_info(folder / "model").dtype == "bfloat16"
    return folder / "model"


@pytest.fixture(scope="module")
def pairs(sample, tmp_path_factory):
    """Six pairs of the sample, cut short."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    records = [json.loads(line) for line in (sample / "preferences.jsonl").read_text().splitlines()[:6]]
    for record in records:
        record["chosen"], record["rejected"] = (" ".join(record[side].split()[:40]) for side in ("chosen", "rejected"))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def flags(pairs, sample, model, output, *more):
    return [
        "--stage=dpo", f"--model={model}", f"--data.path={pairs}", f"--data.image_root={sample}", f"--output={output}",
        "--data.row_tokens=1024", "--rows_per_step=1", "--log_every=100", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(narrow, pairs, sample, tmp_path_factory):
    """DPO by LoRA at the paper's learning rate, as on any released model: bfloat16 weights, bfloat16 arithmetic."""
    output = tmp_path_factory.mktemp("export") / "run"
    status, said = train(flags(pairs, sample, narrow, output, f"--max_steps={STEPS}", "--checkpoint.every=60", "--checkpoint.keep_last=9"))
    assert status == 0, said
    return output, said


class Gaps:
    """log p(chosen) − log p(rejected) of each pair by a model, in float32 arithmetic."""

    def __init__(self, pairs, sample, narrow):
        self.config = make_config(pairs, sample, param_dtype=None)
        self.inputs = one_device_inputs(self.config, narrow)
        loader = make_loader(self.inputs.train, self.inputs.shape, rows_per_step=1, shuffle=False, reference=np.zeros((6, 2), np.float32))
        with loader:
            self.batches = [{name: jnp.asarray(value[0]) for name, value in batch.items()} for batch in loader]

    def of(self, model, adapter=None):
        family, sizes = model_config(model)
        stored = {path: info.dtype for path, info in ParamReader(model / "params").infos.items()}
        spec = open_model_spec(self.config, family, sizes, stored, self.inputs.mesh)
        params = init_params(spec, model, self.inputs.mesh, seed=0)
        if adapter is not None:
            params = put_adapters(params, import_adapter(adapter, family.weight_rules(sizes), family.abstract_params(sizes)).pairs)
        return self.of_params(spec, params)

    def of_params(self, spec, params):
        gaps = {}
        for batch in self.batches:
            with rules.use_mesh(self.inputs.mesh):
                scores = token_scores(spec.model(params), batch, train_vocabulary=False, chunk=64)
            sums = np.asarray(response_sums(scores.logprob, batch["scored_response"], batch["response_pair"].shape[1]))
            pair, role = np.asarray(batch["response_pair"]), np.asarray(batch["response_role"])
            for one in set(pair[pair >= 0].tolist()):
                gaps[one] = float(sums[(pair == one) & (role == 0)][0] - sums[(pair == one) & (role == 1)][0])
        return np.array([gaps[one] for one in sorted(gaps)])


@pytest.fixture(scope="module")
def gaps(pairs, sample, narrow):
    return Gaps(pairs, sample, narrow)


@pytest.mark.slow
def test_the_exported_model_is_the_policy_that_was_trained(run, gaps, narrow, tmp_path):
    """After 60 and 240 steps at 1e-6: what the update changes in log-ratios is kept; rounding to the nearest loses most of it."""
    output, said = run
    before, policy = gaps.of(narrow), gaps.of(narrow, output / "adapter")
    learned = (policy - before).mean()
    assert learned > 0.05, "there must be something to lose"
    assert abs((gaps.of(output / "model") - before).mean() / learned - 1) < 0.05
    assert "model/ is stored as float32: rounding loses 0.0% of the update" in " ".join(said.split())
    converted(f"--from={output}", "--step=60", f"--to={tmp_path / '60'}", "--dtype=float32")
    early = (gaps.of(tmp_path / "60") - before).mean()
    assert 0 < early < learned
    for step, there in (("60", early), ("last", learned)):
        for rounding, keeps in (("nearest", False), ("auto", True)):
            to = tmp_path / f"{step}-{rounding}"
            converted(f"--from={output}", f"--step={step}", f"--to={to}", f"--rounding={rounding}")
            info = read_info(to)
            assert info.dtype == "bfloat16" and info.rounding.how == rounding and info.rounding.lost_to_nearest > 0.3
            kept = (gaps.of(to) - before).mean() / there
            if keeps:  # a model of so few weights shows the noise: within what was foretold, thrice
                assert abs(kept - 1) < 3 * info.rounding.noise and abs(info.rounding.lost) < 0.01
            else:
                assert kept < 0.75 and info.rounding.lost == info.rounding.lost_to_nearest


def assert_sampled_as_trained(run, sample, folder, engine, **how):
    """Of what the run left, and of the same in bfloat16: each sampled token's log-probability is the one that training computes."""
    output, _ = run
    converted(f"--from={output}", "--step=last", f"--to={folder / 'narrow'}")
    assert read_info(folder / "narrow").dtype == "bfloat16"
    options = {"questions": sample / "questions.jsonl", "limit": 2, "n": 2, "max_tokens": 12, "check_logprobs": True}
    wanted = RolloutConfig.model_validate({**options, "engine": engine, engine: {"dtype": "float32", **how}})
    for model in (output / "model", folder / "narrow"):
        found = check_logprobs(wanted, model, Console(quiet=True))
        assert found.responses == 4 and len(found.difference) > 12
        assert found.difference.max() < 1e-4, model


@pytest.mark.slow
def test_the_flax_sampler_samples_what_is_exported(run, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_sampled_as_trained(run, sample, tmp_path, "flax", slots=2, samples=2)


@pytest.mark.slow
def test_vllm_samples_what_is_exported(run, sample, vllm_env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_sampled_as_trained(run, sample, tmp_path, "vllm", env=vllm_env, cpu_cache_gb=1)


@pytest.mark.slow
def test_the_last_step_of_a_run_is_its_model(run, narrow, tmp_path):
    output, _ = run
    converted(f"--from={output}", "--step=last", f"--to={tmp_path / 'model'}", "--dtype=float32")
    ours, theirs = ParamReader(tmp_path / "model" / "params"), ParamReader(output / "model" / "params")
    assert ours.infos == theirs.infos
    for path in ours.infos:
        assert np.abs(ours.read(path) - theirs.read(path)).max() < 1e-7, path
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (output / "model" / name).read_bytes()
    assert read_info(tmp_path / "model").parents == read_info(output / "model").parents == (read_info(narrow).digest,)


@pytest.mark.slow
def test_a_step_that_is_not_there_is_one_line(run, tmp_path, tiny_model):
    output, _ = run
    for given, expected in (
        ([], r"is a run: give --step=N, last or best, or --from=.*/model"),
        (["--step=61"], r"has no checkpoint of step 61; give --step=N, one of 60, 120, 180, 240$"),
        (["--step=best"], r"no checkpoint of .* was evaluated, so none is the best; give --step=N, one of 60, "),
        (["--step=first"], r"--step: String should match pattern"),
        (["--step=60", f"--model={tiny_model}"], r"is not the model that .* started from .*--model=MODEL_DIR"),
        (["--step=60", f"--adapter={output / 'adapter'}"], r"--adapter is not for a run"),
    ):
        with pytest.raises(UserError, match=expected):
            converted(f"--from={output}", f"--to={tmp_path / 'model'}", *given)
    with pytest.raises(UserError, match=r"--step is for a run directory, and --from=.* is none"):
        converted(f"--from={tiny_model}", f"--to={tmp_path / 'model'}", "--step=last")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_parameters_trained_in_full_keep_their_update_too(narrow, pairs, sample, tmp_path):
    """The same loss, without adapters: masters are float32, and small steps from bfloat16's grid go back to it."""
    output = tmp_path / "run"
    parts = ["--parts.language=full", "--parts.projector=full", "--max_steps=20", "--export_dtype=stored"]
    status, said = train(flags(pairs, sample, narrow, output, *parts))
    assert status == 0, said
    info = read_info(output / "model")
    assert info.dtype == "bfloat16" and info.rounding.lost_to_nearest > 0.3 and abs(info.rounding.lost) < 0.01
    converted(f"--from={output}", "--step=last", f"--to={tmp_path / 'model'}")
    assert read_info(tmp_path / "model").digest == info.digest, "both read the same numbers and draw the same bits"
    status, said = train(flags(pairs, sample, narrow, tmp_path / "plain", *parts, "--export_rounding=nearest"))
    assert status == 0, said
    assert read_info(tmp_path / "plain" / "model").rounding.lost == pytest.approx(info.rounding.lost_to_nearest)


@pytest.mark.slow
def test_the_best_step_is_exported(narrow, pairs, sample, tmp_path):
    """Evaluated on pairs whose sides are exchanged, a run gets worse and worse: the best step is not the last."""
    output, exchanged = tmp_path / "run", tmp_path / "exchanged.jsonl"
    records = [json.loads(line) for line in pairs.read_text().splitlines()]
    exchanged.write_text("".join(json.dumps(one | {"chosen": one["rejected"], "rejected": one["chosen"]}) + "\n" for one in records))
    more = [
        "--max_steps=12",
        "--eval_every=2",
        f"--data.eval_path={exchanged}",
        "--optimizer.learning_rate=0.3",
        "--optimizer.schedule=constant",
    ]
    status, said = train(flags(pairs, sample, narrow, output, *more, "--export=best", "--optimizer.warmup_ratio=0"))
    assert status == 0, said
    evaluated = {record["step"]: record["eval_loss"] for record in metrics(output) if "eval_loss" in record}
    best = min(evaluated, key=evaluated.get)
    assert best < 12 and f"exporting step {best}, of the lowest evaluation loss: {evaluated[best]:.4f}" in " ".join(said.split())
    for step in ("best", best, "last"):
        converted(f"--from={output}", f"--step={step}", f"--to={tmp_path / str(step)}")
    digests = {step: read_info(tmp_path / str(step)).digest for step in ("best", best, "last")}
    assert digests["best"] == digests[best] != digests["last"]
    ours, theirs = ParamReader(tmp_path / "best" / "params"), ParamReader(output / "model" / "params")
    path = "language/layers/mlp/up_proj/kernel"
    assert np.abs(np.float32(ours.read(path)) - np.float32(theirs.read(path))).max() < 1e-2
    last = ParamReader(tmp_path / "last" / "params")
    assert np.abs(np.float32(last.read(path)) - np.float32(theirs.read(path))).max() > 0.1


def test_the_best_step_needs_an_evaluation(pairs, sample):
    with pytest.raises(ValueError, match="export=best needs evaluation"):
        make_config(pairs, sample, export="best")
