"""Requests to a server of Gemini's protocol on loopback."""

from mede2_jax.data.records import Message
from mede2_jax.engines.chat import ChatRequest, Sampling
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.engine import open_api

QUICK = {"first_rest": 0.02, "longest_rest": 0.05, "patience": 10.0}


def request(number=1, **changes):
    values = {"messages": (Message(role="user", content=f"case {number}"),), "images": (), "n": 1, "seed": number} | changes
    return ChatRequest(f"q{number}", **values)


def engine(server, sampling=None, notify=lambda line: None, **options):
    config = APIConfig(**{"api": "gemini", "model": "gemini-2.5-pro", "base_url": getattr(server, "url", server), **QUICK, **options})
    return open_api(config, sampling or Sampling(), notify)


def ask(server, requests, **options):
    with engine(server, **options) as chat:
        return sorted(chat.answer(requests), key=lambda reply: int(reply.request.id[1:]))


def once(fault):
    """A fault that the first request meets."""
    return lambda number, body: fault(body) if number == 0 else None


def given(value):
    return lambda body: value


def candidate(reason, text="a", **fields):
    parts = [] if text is None else [{"text": text}]
    return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason, **fields}]}
