"""Engines of paid APIs against servers on loopback, and what they are asked; for several files of tests."""

from gemini_server import GeminiServer

from mede2_jax.data.records import Message
from mede2_jax.engines.chat import ChatRequest, Sampling
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.engine import open_api

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
QUICK = {"first_rest": 0.02, "longest_rest": 0.05, "patience": 10.0}


def request(number, n=1, **changes):
    messages, images = (Message(role="user", content=f"case {number}"),), ()
    return ChatRequest(**{"id": f"q{number}", "messages": messages, "images": images, "n": n, "seed": number} | changes)


def engine(server, sampling=None, notify=lambda line: None, totals=None, **options):
    api, model = ("gemini", server.model) if isinstance(server, GeminiServer) else ("openai", "tiny")
    config = APIConfig(**{"api": api, "model": model, "base_url": server.url, **QUICK, **options})
    return open_api(config, sampling or Sampling(max_tokens=400), notify, totals)


def ask(server, requests, **options):
    with engine(server, **options) as chat:
        return sorted(chat.answer(requests), key=lambda reply: int(reply.request.id[1:])), chat.usage


def texts(replies):
    return [[completion.text for completion in reply.completions] for reply in replies]


def words(count):
    return lambda body, texts, images: " ".join(["so"] * count)
