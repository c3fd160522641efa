"""Real vLLM on a model directory, against vLLM on the exported checkpoint and against our own model."""

import os
import shutil

import numpy as np
import pytest
from PIL import ImageOps
from rich.console import Console
from vllm_reference import CASES, Ours, ask, pictures, start

from mede2_jax import convert, tiny
from mede2_jax.families import model_config
from mede2_jax.tree import flatten
from mede2_jax.weights.peft import Adapter, export_adapter
from mede2_jax.weights.table import Transpose

pytestmark = pytest.mark.slow
ADAPTED = ("text", "image first", "images amid text")
MODELS = {"qwen2_5_vl": ("qwen2_5_vl", None), "internvl3": ("internvl3", "hf"), "internvl3-original": ("internvl3", "original")}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request, tmp_path_factory):
    return tiny.model_directory(tmp_path_factory.mktemp(request.param) / "model", *MODELS[request.param])


@pytest.fixture(scope="module")
def images(sample):
    return pictures(sample)


@pytest.fixture(scope="module")
def ours(model, images):
    return Ours(model, images)


@pytest.fixture(scope="module")
def adapter(model):
    """A random adapter as a run writes it: of every linear layer, of InternVL3 of the decoder's, since vLLM adapts no other there."""
    family, sizes = model_config(model)
    table, abstract = family.weight_rules(sizes), family.abstract_params(sizes)
    linears = {rule.path.removesuffix("/kernel") for rule in table.rules if isinstance(rule.op, Transpose) and rule.part[1] == 1}
    adapted = sorted(path for path in linears if family.name == "qwen2_5_vl" or path.startswith("language/"))
    shapes = {path.removesuffix("/kernel"): leaf.shape for path, leaf in flatten(abstract).items()}
    rng = np.random.default_rng(0)

    def matrix(*shape):
        return rng.normal(0, 0.1, shape).astype(np.float32)

    pairs = {path: (matrix(*shapes[path][:-1], 4), matrix(*shapes[path][:-2], 4, shapes[path][-1])) for path in adapted}
    export_adapter(model.parent / "adapter", Adapter(pairs, rank=4, alpha=8.0), table, abstract)
    return model.parent / "adapter"


@pytest.fixture(scope="module")
def served(vllm_env, model, images, adapter):
    """The answers of one server: of the model, by case; and of the adapter on it, to some."""
    with start(vllm_env, model, model.parent / "orbax.log", adapter=adapter) as server:
        base = server.model_name.removesuffix("-adapter")
        assert base != server.model_name
        adapted = {name: ask(server, CASES[name], images) for name in ADAPTED}
        return {name: ask(server, case, images, model=base) for name, case in CASES.items()}, adapted


@pytest.fixture(scope="module")
def answers(served):
    return served[0]


@pytest.fixture(scope="module")
def answers_of_export(vllm_env, model, images):
    """vLLM's own loader on the exported checkpoint; model.json is there only because the server asks for it."""
    exported = export(model, model.parent / "exported")
    shutil.copyfile(model / "model.json", exported / "model.json")
    with start(vllm_env, exported, model.parent / "export.log", extra=("--load-format", "safetensors")) as server:
        return {name: ask(server, case, images) for name, case in CASES.items()}


def export(model, to, **options):
    convert.run(convert.ConvertConfig.model_validate({"from": model, "to": to, **options}), Console(quiet=True))
    return to


@pytest.mark.parametrize("name", CASES)
def test_prompts_are_those_of_training(name, ours, answers):
    assert answers[name].prompt == ours.prompt(CASES[name]).tolist()


@pytest.mark.parametrize("name", CASES)
def test_logprobs_are_ours(name, ours, answers):
    answer = answers[name]
    assert len(answer.tokens) == len(answer.logprobs) > 0
    # Another image processor's pixels would pass with 1e-3 in so small a model.
    assert np.abs(ours.logprobs(CASES[name], answer.tokens) - answer.logprobs).max() <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_the_exported_checkpoint_answers_the_same(name, answers, answers_of_export):
    one, other = answers[name], answers_of_export[name]
    assert one.tokens == other.tokens and one.prompt == other.prompt
    assert np.abs(one.logprobs - other.logprobs).max() <= 1e-3


def test_pixels_matter(model, ours, images, answers):
    """Else the parity above would also hold for a model that sees nothing."""
    case, answer = CASES["image first"], answers["image first"]
    inverted = Ours(model, [ImageOps.invert(image) for image in images])
    assert np.abs(inverted.logprobs(case, answer.tokens) - answer.logprobs).max() > 1e-3


def test_an_adapter_answers_as_the_merged_model(model, images, ours, adapter, served):
    merged = model.parent / "merged"
    export(model, model.parent / "merged-hf", adapter=adapter)
    export(model.parent / "merged-hf", merged)
    expected = Ours(merged, images)
    for name, answer in served[1].items():
        assert np.abs(expected.logprobs(CASES[name], answer.tokens) - answer.logprobs).max() <= 1e-3, name
        assert np.abs(ours.logprobs(CASES[name], answer.tokens) - answer.logprobs).max() > 0.01, name


def test_two_ranks_answer_as_one(vllm_env, tiny_model, images, monkeypatch):
    """Tensor parallelism: vLLM slices what the loader gives to each rank."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores, one for each rank")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # a rank to each memory node otherwise
    ours = Ours(tiny_model, images)
    with start(vllm_env, tiny_model, tiny_model.parent / "two.log", tensor_parallel_size=2) as server:
        for name in ("text", "images amid text"):
            answer = ask(server, CASES[name], images)
            assert np.abs(ours.logprobs(CASES[name], answer.tokens) - answer.logprobs).max() <= 1e-4, name
