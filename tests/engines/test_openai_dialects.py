"""Models and servers that take, or say, things in ways of their own: asked in the way they take, and read at the first reply."""

import json

import pytest
from chat_server import ChatServer
from paying import SCHEMA, ask, engine, request

from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatFailure, ChatReply, Sampling
from mede2_jax.engines.paid.cache import Cache


def refusal(status, message, param=None, code=None):
    return status, {}, json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}).encode()


def detail(status, content):
    return status, {}, json.dumps({"detail": content}).encode()


class NewModel(ChatServer):
    """Takes `max_completion_tokens` alone, as the chat server's own answer wants `max_tokens`."""

    def __init__(self, refuses):
        super().__init__(faults=lambda number, body: refuses(body))
        self.asked = []

    def answer(self, body, headers):
        self.asked.append(dict(body))
        inner = {"n": 1, "seed": 7, **body}
        inner.setdefault("max_tokens", body.get("max_completion_tokens"))
        return super().answer(inner | {"sent": sorted(body)}, headers)


def takes(*names, message="Unsupported parameter: '{0}' is not supported with this model.", param=True, code="unsupported_parameter"):
    """A server that refuses these, one at a time."""

    def refuses(body):
        for name in names:
            if name in body["sent"]:
                return refusal(400, message.format(name), name if param else None, code)
        return None

    return refuses


def new_openai(body):
    """Word for word what the newer models answer."""
    if "max_tokens" in body["sent"]:
        text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return refusal(400, text, "max_tokens", "unsupported_parameter")
    if body.get("temperature", 1.0) != 1.0 or "temperature" in body["sent"]:
        text = "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported."
        return refusal(400, text, "temperature", "unsupported_value")
    return None


def validated(body):
    """A server that forbids what it does not know, as pydantic says it."""
    for name in ("seed", "top_p"):
        if name in body["sent"]:
            return detail(422, [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}])
    return None


def no_schema(body):
    if body.get("response_format", {}).get("type") == "json_schema":
        return refusal(400, "This response_format type is unavailable now")
    return None


def no_schema_422(body):
    if "response_format" in body:
        return detail(422, "Failed to deserialize the JSON body: response_format.type: unknown variant `json_schema`, expected `text`")
    return None


def not_both(body):
    if {"temperature", "top_p"} <= {*body["sent"]}:
        return refusal(400, "`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    return None


DIALECTS = {
    "a newer OpenAI model": (new_openai, {"max_tokens", "temperature"}),
    "no top_p and no seed": (takes("top_p", "seed"), {"top_p", "seed"}),
    "nothing but the conversation": (
        takes("temperature", "top_p", "seed", "max_tokens", "response_format"),
        {"temperature", "top_p", "seed", "max_tokens", "response_format"},
    ),
    "named in the text alone": (takes("seed", message="Unrecognized request argument supplied: {0}", param=False, code=None), {"seed"}),
    "unknown field": (takes("top_p", message="unknown field `{0}`, expected one of `model`, `messages`", param=False), {"top_p"}),
    "one temperature alone": (
        takes("temperature", message="invalid {0}: only 1 is allowed for this model", param=False, code=None),
        {"temperature"},
    ),
    "its default alone": (
        takes("temperature", "top_p", message="Only the default value of {0} can be used", code=None),
        {"temperature", "top_p"},
    ),
    "another name": (takes("max_tokens", message="Please use max_completion_tokens instead of {0}.", code=None), {"max_tokens"}),
    "422": (validated, {"seed", "top_p"}),
    "no schema": (no_schema, {"response_format"}),
    "no schema, 422": (no_schema_422, {"response_format"}),
    "not both": (not_both, {"top_p"}),
}
ASKED = Sampling(temperature=0.5, max_tokens=400)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_server_is_asked_in_the_way_it_takes(dialect, tmp_path):
    refuses, gone = DIALECTS[dialect]
    lines, asked = [], [request(number, schema=SCHEMA) for number in range(1, 9)]
    with NewModel(refuses) as server:
        replies, usage = ask(server, asked, sampling=ASKED, notify=lines.append, concurrency=1, cache=tmp_path / "c")
        refused = len(server.asked) - usage.paid
        again, _ = ask(server, asked, sampling=ASKED, cache=tmp_path / "c")
    answered = [reply for reply in replies if isinstance(reply, ChatReply)]
    assert len(answered) >= 6 and refused == len(gone), "learnt once"
    *_, last = server.asked
    assert not gone & last.keys() and ("max_tokens" in gone) == (last.get("max_completion_tokens") == 400)
    assert {"temperature", "top_p", "seed", "response_format"} - gone <= last.keys()
    # Said once, and known of every answer, also of one from the cache.
    (said,) = [line for line in lines if "price" not in line]
    assert all(name in said for name in gone) and server.url in said
    without = tuple(sorted(gone - {"max_tokens"}))
    assert {reply.usage.without for reply in answered} == {without}
    assert {reply.usage.without for reply in again if isinstance(reply, ChatReply)} == {without}


def test_the_line_says_what_was_asked_for():
    lines = []
    with NewModel(new_openai) as server:
        ask(server, [request(1)], sampling=ASKED, notify=lines.append)
    assert lines[-1] == (
        f"{server.url} takes no temperature=0.5: asked without, so that its own way holds; and max_tokens as max_completion_tokens"
    )


def test_many_at_a_time_learn_it_once():
    lines = []
    with NewModel(new_openai) as server:
        replies, usage = ask(server, map(request, range(1, 60)), sampling=ASKED, notify=lines.append, concurrency=16)
    assert sum("max_completion_tokens" in line for line in lines) == 1
    assert len(server.asked) - usage.paid <= 2 * 16 and len(replies) == 59


VALUES = {
    "a value of the user's": (400, "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, got 2.5.", "temperature"),
    "a reply that is too long": (
        400,
        "max_tokens is too large: 8192. This model supports at most 4096 completion tokens, whereas you provided 8192.",
        "max_tokens",
    ),
    "a prompt that is too long": (
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 9000",
        "messages",
    ),
    "an unknown model": (400, "Unknown model: tiny", None),
    "a picture": (400, "You uploaded an unsupported image. Please make sure your image has of one the following formats", None),
    "nothing said": (400, "Bad request", None),
}


@pytest.mark.parametrize("case", VALUES)
def test_what_the_user_has_to_mend_is_no_dialect(case):
    status, message, param = VALUES[case]
    lines = []
    with ChatServer(faults=lambda number, body: refusal(status, message, param)) as server:
        (failed,), usage = ask(server, [request(1, schema=SCHEMA)], notify=lines.append)
    assert isinstance(failed, ChatFailure) and failed.reason.startswith(f"400 {message[:40]}")
    assert len(server.requests) == 1 and usage.paid == 0 and not [line for line in lines if "takes" in line]


def test_what_did_not_help_is_not_remembered():
    """Every field is named, one after another, and at last nothing is left that could be."""
    lines = []

    def refuses(number, body):
        return refusal(400, f"Unsupported parameter: '{min(body)}'", min(body.keys() & {"temperature", "seed", "top_p"}, default="model"))

    with ChatServer(faults=refuses) as server:
        (failed,), _ = ask(server, [request(1)], notify=lines.append)
        assert isinstance(failed, ChatFailure) and len(server.requests) == 5
        ask(server, [request(2)], notify=lines.append)
    assert len(server.requests) == 10 and not [line for line in lines if "takes" in line]


# Loose envelopes.


def change(**fields):
    def changed(reply):
        reply["choices"][0] |= {"message": {"role": "assistant", "content": "a whole answer"}, "finish_reason": "stop"} | fields
        return reply

    return changed


def parts(*content):
    return change(message={"role": "assistant", "content": list(content)})


def less(*names):
    def changed(reply):
        reply = change()(reply)
        for name in names:
            reply.pop(name, None)
            reply["choices"][0].pop(name, None)
        return reply

    return changed


TEXT = {"type": "text", "text": "a whole answer"}
ENVELOPES = {
    "no usage": less("usage"),
    "usage is null": lambda reply: change()(reply) | {"usage": None},
    "no prompt tokens": lambda reply: change()(reply) | {"usage": {"completion_tokens": 5}},
    "counts that are none": lambda reply: change()(reply) | {"usage": {"prompt_tokens": "many", "completion_tokens": -3}},
    **{
        f"usage is {usage!r}": lambda reply, usage=usage: change()(reply) | {"usage": usage}
        for usage in ([], "7", 7, True, [{"prompt_tokens": 1}])
    },
    **{
        f"counts of {ascii(count)[:9]}": lambda reply, count=count: (
            change()(reply) | {"usage": {"prompt_tokens": count, "completion_tokens": count}}
        )
        for count in (True, 10**400, [1], {"total": 1}, 1e300)
    },
    "no index": less("index"),
    "an index of null": change(index=None),
    "a model that is no text": lambda reply: change()(reply) | {"model": {"id": "m"}},
    "a refusal that is no text": change(message={"role": "assistant", "content": "a whole answer", "refusal": False}),
    "an index from 1": change(index=1),
    "no model, no id": less("model", "id", "object", "created"),
    "eos_token": change(finish_reason="eos_token"),
    "end_turn": change(finish_reason="end_turn"),
    "STOP": change(finish_reason="STOP"),
    "null": change(finish_reason=None),
    "no finish reason": less("finish_reason"),
    "parts": parts(TEXT),
    "parts of another kind": parts({"type": "output_text", "text": "a whole answer", "annotations": []}),
    "a thought among the parts": parts({"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, TEXT),
    "two parts": parts({"type": "text", "text": "a whole "}, {"type": "text", "text": "answer"}),
    "texts as parts": parts("a whole answer"),
    "a thought set aside": change(message={"role": "assistant", "content": "a whole answer", "reasoning_content": "hm"}),
    "an empty refusal": change(message={"role": "assistant", "content": "a whole answer", "refusal": ""}),
}


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_a_whole_answer_in_a_loose_envelope_is_read_at_the_first_reply(envelope, tmp_path):
    with ChatServer(change=ENVELOPES[envelope]) as server:
        (reply,), usage = ask(server, [request(1)], cache=tmp_path / "c")
    assert isinstance(reply, ChatReply) and reply.completions[0].text == "a whole answer"
    assert (reply.completions[0].finish_reason, usage.paid, len(server.requests)) == ("stop", 1, 1)
    with Cache(tmp_path / "c") as cache:
        assert cache._file.execute("SELECT count(*) FROM outcomes").fetchone()[0] == 1


@pytest.mark.parametrize("end", ["length", "max_tokens", "MAX_TOKENS", "max_output_tokens"])
def test_a_cut_answer_is_known_as_such_by_any_name(end):
    with ChatServer(change=change(finish_reason=end)) as server:
        (reply,), _ = ask(server, [request(1)])
    assert reply.completions[0].finish_reason == "length" and len(server.requests) == 1


@pytest.mark.parametrize("end", ["abort", "error", "tool_calls", "function_call", "insufficient_system_resource"])
def test_an_end_that_says_the_answer_is_not_whole_is_asked_again(end):
    with ChatServer(change=change(finish_reason=end)) as server:
        (failed,), _ = ask(server, [request(1)])
    assert failed.reason == f"failed 4 times, last: it ended by {end!r}" and len(server.requests) == 4


def test_a_server_of_the_samplers_must_say_what_a_prompt_has():
    """What is lenient for judgments is not for training data: there token counts are records."""
    from mede2_jax.engines.wire.attempts import MalformedReply
    from mede2_jax.engines.wire.openai_reply import parse_reply

    reply = parse_reply(b'{"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}')
    with pytest.raises(MalformedReply, match="it does not say how many tokens the prompt has"):
        _ = reply.prompt_tokens


def test_a_request_of_openais_needs_a_key_whatever_is_learnt():
    with pytest.raises(UserError, match="no API key"):
        engine(type("Server", (), {"url": "https://api.openai.com/v1"})())
