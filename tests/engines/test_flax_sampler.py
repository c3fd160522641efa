"""The Flax sampler: what its samples depend on, what it says of them, and what it refuses."""

import contextlib
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sampler_models import make_image, make_request, to_model_directory, write_checkpoint
from scipy.stats import chisquare

from mede2_jax.config import UserError
from mede2_jax.data.rows import DEMONSTRATION, BatchShape, EncodedExample, assemble_row, causal_segment, prompt_tokens
from mede2_jax.engines.chat import ChatFailure, ChatReply, Sampling, token_rules
from mede2_jax.engines.flax.config import FlaxConfig
from mede2_jax.engines.flax.prompts import Limits, encode_prompt
from mede2_jax.engines.flax.sampler import FlaxSampler
from mede2_jax.families import model_config
from mede2_jax.models.logprobs import token_logprobs
from mede2_jax.weights.model_directory import load_params

FAMILIES = ("qwen2_5_vl", "internvl3")
ONE = {"slots": 2, "samples": 4, "max_prompt_tokens": 512, "dtype": "float32", "steps": 8, "mesh": {"data": 1}}
IMAGES = (make_image(150, 90), make_image(64, 200, seed=1))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model directory of each family."""
    folder = tmp_path_factory.mktemp("models")
    return {family: to_model_directory(write_checkpoint(folder / f"hf-{family}", family), folder / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def model(models):
    return models["qwen2_5_vl"]


@pytest.fixture(scope="module")
def engines():
    """Started engines by what they were made with, so that tests share what was compiled."""
    started = {}
    with contextlib.ExitStack() as stack:

        def engine(directory, *, devices=1, sampling=None, **config):
            key = (directory, devices, repr(sampling), repr(config))
            if key not in started:
                started[key] = stack.enter_context(make(directory, devices=devices, sampling=sampling, **config))
            return started[key]

        yield engine


def make(directory, *, devices=1, sampling=None, **config):
    return FlaxSampler(
        directory,
        Sampling(**{"max_tokens": 24, **(sampling or {})}),
        FlaxConfig.model_validate(ONE | config),
        devices=jax.devices()[:devices],
    )


def answers(engine, requests):
    """Replies by the id of their request."""
    return {reply.request.id: reply for reply in engine.answer(requests)}


def mixed_requests(n=4, count=5):
    return [make_request(number, images=IMAGES[: number % 3], n=n, seed=1000 * number, words=9 * number + 3) for number in range(count)]


@functools.cache
def trained(directory):
    """Processor, model config, and the model's compiled `token_logprobs` and last hidden state, as training has them."""
    family, sizes = model_config(directory)
    graph = nnx.graphdef(nnx.eval_shape(lambda: family.build(sizes, rngs=nnx.Rngs(0))))
    model = nnx.merge(graph, load_params(directory, family.abstract_params(sizes)))
    logprobs = jax.jit(lambda batch: token_logprobs(model, batch, train_vocabulary=False)[0])
    return family.load_processor(directory), sizes, model, logprobs


def row_of(processor, request, response=()):
    """A prompt and a response as a batch of one row; the response is scored."""
    images = [processor.encode_image(image) for image in request.images]
    grids = tuple(processor.grid(image.height, image.width) for image in request.images)
    prompt = prompt_tokens(request.messages, processor, grids)
    tokens = np.concatenate([prompt, np.array(response, np.int32)])
    segment = causal_segment(tokens, np.arange(len(prompt), len(tokens)), 0, processor, grids)
    example = EncodedExample((segment,), grids, (DEMONSTRATION,))
    size = -(-len(tokens) // 256) * 256
    shape = BatchShape(size, example.patch_count, size, 1, processor.patch_dim, processor.position_axes)
    row = assemble_row([(0, example, images)], shape, processor.pad_token_id)
    return {name: jnp.asarray(value)[None] for name, value in row.items()}, len(tokens)


def trained_logprobs(directory, reply):
    """What training computes for each sample of a reply."""
    processor, _, _, logprobs = trained(directory)
    for completion in reply.completions:
        batch, _ = row_of(processor, reply.request, completion.token_ids)
        yield np.asarray(logprobs(batch))[: len(completion.token_ids)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_training(models, engines, family):
    """Over several calls and several blocks of prompt and response; banned tokens and temperature count for nothing."""
    requests = [make_request(0, n=2, seed=3, words=270), make_request(1, images=IMAGES, n=2, seed=5)]
    engine = engines(models[family], sampling={"max_tokens": 300, "temperature": 0.8, "top_p": 0.95}, steps=32)
    found = answers(engine, requests)
    for reply in found.values():
        for completion, wanted in zip(reply.completions, trained_logprobs(models[family], reply), strict=True):
            assert len(completion.token_ids) > 260 or completion.finish_reason == "stop"
            np.testing.assert_allclose(completion.logprobs, wanted, atol=1e-4)
    assert any(len(completion.token_ids) > 260 for reply in found.values() for completion in reply.completions)


@functools.cache
def next_token_logits(directory, request):
    """At the end of the prompt, with what may not be sampled at −∞."""
    processor, sizes, model, _ = trained(directory)
    batch, length = row_of(processor, request)
    logits = np.array(model.hidden_states(batch)[0, length - 1] @ model.vocabulary().T, np.float64)
    logits[list(token_rules(processor, sizes.language.vocab_size).banned)] = -np.inf
    return logits


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8)])
def test_samples_follow_the_softmax(model, engines, temperature, top_p):
    request = make_request(0, n=4000)
    options = {"sampling": {"max_tokens": 1, "temperature": temperature, "top_p": top_p}, "samples": 500, "slots": 1}
    (reply,) = answers(engines(model, **options), [request]).values()
    tokens = np.array([completion.token_ids[0] for completion in reply.completions])
    logits = next_token_logits(model, make_request(0))

    def p_value(temperature):
        weights = np.exp((logits - logits.max()) / temperature)
        order = np.argsort(-weights)
        count = int(np.searchsorted(np.cumsum(weights[order]), top_p * weights.sum())) + 1 if top_p < 1 else len(order)
        inside = np.isin(np.arange(len(weights)), order[:count])
        expected = np.where(inside, weights, 0) / weights[inside].sum() * len(tokens)
        if not inside[tokens].all():
            return 0.0
        counts, rare = np.bincount(tokens, minlength=len(weights)), expected < 5
        return chisquare(np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())).pvalue

    assert p_value(temperature) > 1e-3
    assert p_value(1.2 * temperature) < 1e-6 and p_value(temperature / 1.2) < 1e-6, "the test must tell a wrong temperature"


@pytest.mark.slow
def test_a_sample_follows_from_its_seed_alone(model, engines):
    """Neither from n, nor from the other questions, their order, the slot, the width of a slot or the steps of a call."""
    requests = mixed_requests()
    together = answers(engines(model), requests)
    singles = [
        make_request(number, images=IMAGES[: number % 3], n=1, seed=1000 * number + index, words=9 * number + 3)
        for number, index in itertools.product(reversed(range(5)), (2, 0, 3, 1))
    ]
    other = engines(model, slots=3, samples=3, steps=5)
    alone = {(reply.request.id, reply.completions[0].seed): reply.completions[0] for reply in other.answer(singles)}
    missing = answers(engines(model), [make_request(3, n=2, seed=3002, words=30)])["q3"]
    for number, request in enumerate(requests):
        for index, completion in enumerate(together[request.id].completions):
            other = alone[request.id, 1000 * number + index]
            assert completion.seed == 1000 * number + index
            assert (completion.token_ids, completion.text, completion.finish_reason) == (other.token_ids, other.text, other.finish_reason)
            np.testing.assert_allclose(completion.logprobs, other.logprobs, atol=1e-4)
    assert [completion.token_ids for completion in missing.completions] == [
        completion.token_ids for completion in together["q3"].completions[2:]
    ]
    everything = [completion.token_ids for reply in together.values() for completion in reply.completions]
    assert len(set(everything)) == len(everything)


@pytest.mark.slow
def test_more_samples_than_a_slot_has(model, engines):
    (four,) = answers(engines(model), [make_request(0, n=10, seed=7)]).values()
    (three,) = answers(engines(model, slots=3, samples=3, steps=5), [make_request(0, n=10, seed=7)]).values()
    assert len(four.completions) == 10
    assert [completion.token_ids for completion in four.completions] == [completion.token_ids for completion in three.completions]


@pytest.mark.slow
def test_an_end_token_ends_a_response_and_banned_tokens_never_come(tmp_path, engines):
    """Of a model to which all tokens are nearly alike: its weights are small."""
    model = to_model_directory(write_checkpoint(tmp_path / "hf", "qwen2_5_vl", scale=0.02), tmp_path / "model")
    engine = engines(model, sampling={"temperature": 2.0, "max_tokens": 100}, samples=48)
    (reply,) = answers(engine, [make_request(0, n=96)]).values()
    family, sizes = model_config(model)
    rules = token_rules(family.load_processor(model), sizes.language.vocab_size)
    tokens = [token for completion in reply.completions for token in completion.token_ids]
    assert len(rules.banned) * len(tokens) / sizes.language.vocab_size > 20, "that many would have come"
    assert not set(tokens) & set(rules.banned)
    for completion in reply.completions:
        ended = completion.token_ids[-1] in rules.stop
        assert completion.finish_reason == ("stop" if ended else "length")
        assert ended or len(completion.token_ids) == 100
        assert not set(completion.token_ids[:-1]) & set(rules.stop)
        assert len(completion.logprobs) == len(completion.token_ids)
    assert {completion.finish_reason for completion in reply.completions} == {"stop", "length"}


@pytest.mark.slow
def test_a_stop_text_ends_a_response(model, engines):
    (whole,) = answers(engines(model), [make_request(0, n=3)]).values()
    decode = model_config(model)[0].load_processor(model).chat.tokenizer.decode
    ids = whole.completions[0].token_ids
    text = decode(ids[9:11])  # of two tokens, in two calls of 5 steps
    with make(model, sampling={"stop": (text, "never to be seen")}, steps=5) as engine:
        stopped = answers(engine, [make_request(0, n=3)])["q0"].completions
    first = next(count for count in range(1, len(ids) + 1) if text in decode(ids[:count]))
    assert stopped[0].token_ids == ids[:first] and stopped[0].finish_reason == "stop"
    assert stopped[0].text == whole.completions[0].text[: whole.completions[0].text.index(text)]
    assert len(stopped[0].logprobs) == first
    for before, after in zip(whole.completions[1:], stopped[1:], strict=True):
        assert text in before.text or before.token_ids == after.token_ids


def test_nothing_is_compiled_after_each_size_was_met(model, engines):
    engine = engines(model)
    assert len(list(engine.answer(mixed_requests()))) == 5
    compiled = engine.programs.compilations
    again = [make_request(9, n=1, words=4), make_request(8, images=IMAGES, n=3), make_request(7, images=IMAGES[:1], n=9, words=20)]
    assert len(list(engine.answer(again))) == 3
    assert engine.programs.compilations == compiled
    assert compiled <= 1 + 1 + 2 + 3  # the cache, decoding; prompts of 256 and 512 tokens; images of a few sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mesh"),
    [
        ("qwen2_5_vl", {"data": 2, "fsdp": 2, "tensor": 2}),
        ("internvl3", {"data": 2, "tensor": 4}),
        ("qwen2_5_vl", {"data": 1, "tensor": 8}),
        ("internvl3", {"data": 8}),
    ],
)
def test_eight_devices_answer_as_one(models, engines, family, mesh):
    """With key heads that the tensor axis divides, that it has to repeat, and heads that it cannot split."""
    requests = mixed_requests(n=3)
    one = answers(engines(models[family]), requests)
    with make(models[family], devices=8, slots=1, mesh={"fsdp": 1, **mesh}) as engine:
        eight = answers(engine, requests)
    for request in requests:
        for ours, theirs in zip(one[request.id].completions, eight[request.id].completions, strict=True):
            assert ours.token_ids == theirs.token_ids
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(models, engines, family):
    (reply,) = answers(engines(models[family], dtype="bfloat16"), [make_request(0, images=IMAGES, n=4)]).values()
    for completion, wanted in zip(reply.completions, trained_logprobs(models[family], reply), strict=True):
        difference = np.abs(np.array(completion.logprobs) - wanted)
        assert 1e-4 < difference.mean() < 0.1


def test_a_schema_that_would_not_be_kept_is_refused():
    asked = dataclasses.replace(make_request(), schema={"type": "object"})
    assert encode_prompt(asked, None, Limits(10, 10, None)).reason.startswith("the Flax sampler does not hold a response to a JSON schema")


def test_what_cannot_be_answered_has_a_reason_and_the_rest_goes_on(model, engines):
    requests = [
        make_request(0),
        make_request(1, words=3000),
        make_request(2, text="a picture <|image_pad|> in words"),
        make_request(3, images=(make_image(20, 2000), make_image(5, 1200))),
        make_request(4),
        make_request(5, n=0),
    ]
    found = answers(engines(model), requests)
    assert isinstance(found["q0"], ChatReply) and isinstance(found["q4"], ChatReply)
    reasons = {key: reply.reason for key, reply in found.items() if isinstance(reply, ChatFailure)}
    assert sorted(reasons) == ["q1", "q2", "q3", "q5"]
    assert "tokens, more than max_prompt_tokens=512; raise it" in reasons["q1"]
    assert "reserved token '<|image_pad|>'" in reasons["q2"]
    assert "longer than 200 times its other side" in reasons["q3"]
    assert "n=0; ask for at least 1 sample" in reasons["q5"]
    assert all("\n" not in reason for reason in reasons.values())


def test_a_prompt_and_response_past_the_models_positions(models):
    limit = model_config(models["internvl3"])[1].language.max_positions
    with make(models["internvl3"], sampling={"max_tokens": limit - 10}, slots=1, samples=1) as engine:
        found = answers(engine, [make_request(0)])["q0"]
    assert f"more than the model's {limit:,} positions; lower max_tokens" in found.reason


def test_requests_are_taken_as_there_is_room(model, engines):
    taken = []

    def ask():
        for number in range(20):
            taken.append(number)
            yield make_request(number)

    for done, _ in enumerate(engines(model).answer(ask())):
        assert len(taken) - done <= 3 * ONE["slots"]  # worked on, prepared ahead, and just finished
    assert len(taken) == 20


def test_an_answer_that_is_broken_off_leaves_the_engine_usable(model, engines):
    first = next(iter(engines(model).answer(mixed_requests())))
    again = answers(engines(model), mixed_requests())
    assert len(again) == 5
    assert again[first.request.id].completions == first.completions


def test_what_is_finished_is_given_out_before_the_requests_fail(model, engines):
    def ask():
        yield from (make_request(number) for number in range(4))
        raise UserError("the rest cannot be read")

    found = []
    with pytest.raises(UserError, match="the rest cannot be read"):
        for reply in engines(model).answer(ask()):
            found.append(reply.request.id)
    assert found == ["q0", "q1"], "two slots were at work when the next requests were asked for"


def test_a_model_that_does_not_fit_is_one_line(model):
    with pytest.raises(UserError, match=r"the device is out of memory .*lower slots=2, samples=4 or max_prompt_tokens"):
        make(model, max_prompt_tokens=2**32).__enter__()


def test_a_broken_model_is_one_line(tmp_path):
    directory = to_model_directory(write_checkpoint(tmp_path / "hf", "qwen2_5_vl", scale=1e30), tmp_path / "model")
    with make(directory) as engine, pytest.raises(UserError, match="log-probabilities that are not finite"):
        list(engine.answer([make_request(0)]))


def test_what_is_no_model_directory(tmp_path):
    with pytest.raises(UserError, match="is not a model directory"):
        make(tmp_path).__enter__()
