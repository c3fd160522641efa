"""Chats with a vLLM server, and the same conversations in our own model."""

import base64
import dataclasses
import io
import json
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from mede2_jax.data.records import Message
from mede2_jax.data.rows import BatchShape, EncodedExample, Segment, assemble_row
from mede2_jax.engines.vllm.server import VLLMConfig, VLLMServer
from mede2_jax.families import model_config
from mede2_jax.models.logprobs import token_logprobs
from mede2_jax.weights.model_directory import load_params

TOKENS, MAX_TOKENS = 512, 16
IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


@dataclasses.dataclass
class Case:
    """A conversation whose images are the first `images` of the test's."""

    turns: list
    images: int = 0


CASES = {
    "text": Case([("user", "What is the likely diagnosis?")]),
    "system": Case([("system", "Be brief."), ("user", "What is it?")]),
    "image first": Case([("user", [IMAGE, text("What does this show?")])], 1),
    "image last": Case([("user", [text("Look at this: "), IMAGE])], 1),
    "images amid text": Case([("user", [text("Compare "), IMAGE, text(" with "), IMAGE, text("\nand "), IMAGE, text(". Worse?")])], 3),
    "three images first": Case([("user", [IMAGE, IMAGE, IMAGE, text("\nWhich is worse?")])], 3),
    "several turns": Case([("user", [IMAGE, text("What?")]), ("assistant", "A lung."), ("user", "Sure?")], 1),
}


@dataclasses.dataclass
class Answer:
    """What the server says of one conversation."""

    prompt: list
    tokens: list
    logprobs: np.ndarray


def start(env, model, log, **options):
    """A server with little memory, in float32."""
    settings = {"env": env, "dtype": "float32", "max_model_len": 2048, "cpu_cache_gb": 1, "images_per_prompt": 3, "start_timeout": 300}
    return VLLMServer(VLLMConfig.model_validate({**settings, **options}), model, log=log)


def pictures(sample):
    names = sorted(path.name for path in (sample / "images").iterdir())
    return [Image.open(sample / "images" / names[index]).convert("RGB") for index in (0, 4, 9)]


def ask(server, case, images, **options):
    """The server's greedy answer."""
    remaining = iter(images)
    messages = [
        {"role": role, "content": content if isinstance(content, str) else [_part(part, remaining) for part in content]}
        for role, content in case.turns
    ]
    wanted = {"max_tokens": MAX_TOKENS, "temperature": 0, "logprobs": True, "top_logprobs": 0, "return_token_ids": True}
    body = json.dumps({"model": server.model_name, "messages": messages, **wanted, **options}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
    request = urllib.request.Request(f"{server.base_url}/chat/completions", body, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        found = json.load(answer)
    (choice,) = found["choices"]
    logprobs = np.array([item["logprob"] for item in choice["logprobs"]["content"]])
    return Answer(found["prompt_token_ids"], choice["token_ids"], logprobs)


class Ours:
    """Our processor and model of a model directory."""

    def __init__(self, directory, images):
        family, sizes = model_config(directory)
        self.processor, self.images = family.load_processor(directory), images
        self.encoded = [self.processor.encode_image(image) for image in images]
        self.params = load_params(directory, family.abstract_params(sizes))
        graph = nnx.graphdef(nnx.eval_shape(lambda: family.build(sizes, rngs=nnx.Rngs(0))))
        self.score = jax.jit(lambda params, row: token_logprobs(nnx.merge(graph, params), row, train_vocabulary=False))
        multiple, patches = self.processor.patch_multiple, sum(len(image.patches) for image in self.encoded)
        self.shape = BatchShape(
            TOKENS, -(-patches // multiple) * multiple, MAX_TOKENS, 1, self.processor.patch_dim, self.processor.position_axes
        )

    def grids(self, case):
        return [self.processor.grid(image.height, image.width) for image in self.images[: case.images]]

    def prompt(self, case):
        messages = [Message(role=role, content=content if isinstance(content, str) else tuple(content)) for role, content in case.turns]
        tokens = self.processor.chat.prompt(messages)
        return np.repeat(tokens, self.processor.token_repeats(tokens, self.grids(case)))

    def logprobs(self, case, response):
        """Of a response's tokens after our own prompt."""
        prompt, response = self.prompt(case), np.array(response, np.int32)
        tokens, scored = np.concatenate([prompt, response]), len(prompt) + np.arange(len(response))
        segment = Segment(
            tokens=tokens,
            positions=self.processor.positions(tokens, self.grids(case)),
            key_start=np.zeros(len(tokens), np.int32),
            key_end=np.arange(1, len(tokens) + 1, dtype=np.int32),
            image_index=self.processor.image_index(tokens, self.grids(case)),
            scored_index=(scored - 1).astype(np.int32),
            scored_target=response,
            scored_response=np.zeros(len(response), np.int32),
        )
        example = EncodedExample((segment,), tuple(self.grids(case)), (0,))
        row = assemble_row([(0, example, self.encoded[: case.images])], self.shape, self.processor.pad_token_id)
        return np.asarray(self.score(self.params, {name: jnp.asarray(value)[None] for name, value in row.items()}))[0][: len(response)]


def _part(part, images):
    if part is not IMAGE:
        return part
    buffer = io.BytesIO()
    next(images).save(buffer, "PNG")  # without loss
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}}
