"""A response's text is that of its token ids: special tokens that a model says, and thoughts that a server sets aside."""

import pytest
from chat_server import ChatServer, byte_prompt
from transformers import AutoTokenizer

from mede2_jax.config import UserError
from mede2_jax.data.records import Message
from mede2_jax.engines.chat import CUT, ChatRequest, Sampling, TokenRules, before_stop_text, tokens_text
from mede2_jax.engines.flax.slots import Sample
from mede2_jax.engines.vllm.client import OpenAIChat, VLLMExtras
from mede2_jax.engines.vllm.pool import ServerConfig
from mede2_jax.engines.wire.openai_request import chat_messages

SPECIAL = ["<think>", "</think>", "<answer>", "</answer>", "<|note|>"]
SAID = [
    "<think> fluid </think> <answer> B </answer>",
    "<think></think><answer>B</answer>",
    "<think>\n\n体液 über\n</think>\n\n<answer>A</answer>\n",
    "no thought, <answer> C",
    "<|note|><|note|> <think>",
    "",
]


@pytest.fixture(scope="module", params=["qwen2_5_vl", "internvl3"])
def tokenizer(request, tiny_model, tiny_internvl):
    """With special tokens as people add them."""
    found = AutoTokenizer.from_pretrained(tiny_model if request.param == "qwen2_5_vl" else tiny_internvl)
    found.add_special_tokens({"additional_special_tokens": SPECIAL}, replace_extra_special_tokens=False)
    assert len(found("<think>", add_special_tokens=False)["input_ids"]) == 1
    return found


@pytest.fixture(scope="module")
def end(tokenizer):
    return tokenizer.convert_tokens_to_ids("<|im_end|>")


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("said", SAID)
def test_a_sample_keeps_its_special_tokens_but_not_the_one_that_ends_it(tokenizer, end, said):
    tokens = ids(tokenizer, said)
    ended, cut = Sample(0), Sample(0)
    ended.take([*tokens, end, tokens[0] if tokens else end], [-1.0] * (len(tokens) + 2), tokenizer, (end,), Sampling(max_tokens=99))
    assert (ended.text, ended.tokens, ended.finish_reason) == (said, [*tokens, end], "stop")
    if tokens:
        cut.take(tokens, [-1.0] * len(tokens), tokenizer, (end,), Sampling(max_tokens=len(tokens)))
        assert (cut.text, cut.tokens, cut.finish_reason) == (said, tokens, "length")


@pytest.mark.parametrize(
    ("stop", "text"),
    [("</answer>", "<think> x </think> <answer> B "), ("<answer>", "<think> x </think> "), ("</think> <", "<think> x ")],
)
def test_a_stop_text_may_be_a_special_token(tokenizer, end, stop, text):
    tokens = ids(tokenizer, "<think> x </think> <answer> B </answer> and more")
    sample = Sample(0)
    for token in tokens:
        if sample.finish_reason is None:
            sample.take([token], [-1.0], tokenizer, (end,), Sampling(max_tokens=99, stop=(stop,)))
    assert (sample.text, sample.finish_reason) == (text, "stop") and stop in tokens_text(tokenizer, sample.tokens)


class Speaker:
    """What a server says to request number i, by a tokenizer."""

    def __init__(self, tokenizer, end, said, change=lambda message: None, finish="stop"):
        self.tokenizer, self.end, self.said, self.message, self.finish = tokenizer, end, said, change, finish

    def __call__(self, reply):
        for choice in reply["choices"]:
            tokens = ids(self.tokenizer, self.said) + ([self.end] if self.finish == "stop" else [])
            choice |= {"message": {"role": "assistant", "content": self.said}, "token_ids": tokens, "finish_reason": self.finish}
            self.message(choice["message"])
        return reply


def ask(speaker, *, stop=(), with_text=True, notify=lambda line: None, count=1):
    def prompt(request):
        return byte_prompt(chat_messages(request, "default"), {})

    text = (lambda tokens: tokens_text(speaker.tokenizer, tokens)) if with_text else None
    vllm = VLLMExtras(TokenRules((speaker.end,), ()), prompt, text=text)
    asked = [ChatRequest(f"q{number}", (Message(role="user", content="Why?"),), (), 2, 1) for number in range(count)]
    with ChatServer(change=speaker) as server:
        chat = OpenAIChat([server.url], Sampling(max_tokens=99, stop=stop), ServerConfig(patience=20.0), vllm=vllm, notify=notify)
        with chat:
            texts = [completion.text for reply in chat.answer(asked) for completion in reply.completions]
        assert server.requests[0]["skip_special_tokens"] is False
    assert len({*texts}) == 1 and len(texts) == 2 * count
    return texts[0]


def without_special(message):
    for token in SPECIAL:
        message["content"] = message["content"].replace(token, "")


@pytest.mark.parametrize("said", [said for said in SAID if said])
def test_what_a_server_leaves_out_comes_back_from_the_token_ids(tokenizer, end, said):
    lines = []
    assert ask(Speaker(tokenizer, end, said, without_special), notify=lines.append, count=3) == said
    assert len(lines) == 1 and lines[0].endswith("gives texts that are not those of their token ids; the text of the ids is taken")
    assert ask(Speaker(tokenizer, end, said), notify=lines.append) == said and len(lines) == 1


def test_the_end_of_a_response_is_no_text(tokenizer, end):
    def with_end(message):
        message["content"] += "<|im_end|>"

    assert ask(Speaker(tokenizer, end, SAID[0], with_end)) == SAID[0]
    assert ask(Speaker(tokenizer, end, SAID[0], without_special, finish="length")) == SAID[0]
    assert ask(Speaker(tokenizer, end, SAID[0] + " more", without_special), stop=("</answer>", "</think> <")) == "<think> fluid "


def test_a_letter_that_was_cut_off_is_no_difference(tokenizer, end):
    whole = ids(tokenizer, "x 液")
    assert tokenizer.decode(whole[:-1]).endswith(CUT) and tokens_text(tokenizer, whole[:-1]) == "x "
    sampled = Sample(0)
    sampled.take(whole[:-1], [-1.0] * (len(whole) - 1), tokenizer, (end,), Sampling(max_tokens=len(whole) - 1))
    assert (sampled.text, sampled.tokens, sampled.finish_reason) == ("x ", whole[:-1], "length")

    class Cut(Speaker):
        def __call__(self, reply):
            for choice in super().__call__(reply)["choices"]:
                choice |= {"token_ids": whole[:-1], "message": {"role": "assistant", "content": self.said}}
            return reply

    lines = []
    for shown in ("x ", f"x {CUT}"):
        assert ask(Cut(tokenizer, end, shown, finish="length"), notify=lines.append) == "x " and not lines


def moved(field, value):
    def change(message):
        message["content"] = message["content"].partition("</think>")[2]
        message[field] = value

    return change


def parts(kind):
    def change(message):
        thought, _, rest = message["content"].partition("</think>")
        message["content"] = [{"type": kind, "text": thought, kind: thought}, {"type": "text", "text": rest}]

    return change


ASIDE = {
    "reasoning": moved("reasoning", "hm"),
    "reasoning_content": moved("reasoning_content", "hm"),
    "thinking": moved("thinking", "hm"),
    "thoughts": moved("thoughts", ["hm"]),
    "reasoning_details": moved("reasoning_details", [{"type": "reasoning.text", "text": "hm"}]),
    "tool_calls": moved("tool_calls", [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]),
    "content, part thinking": parts("thinking"),
    "content, part reasoning": parts("reasoning"),
}


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("where", ASIDE)
def test_a_thought_that_was_set_aside_is_refused_wherever_it_is(tokenizer, end, where, with_text):
    with pytest.raises(UserError, match=f"out of their text, into {where}; start it without --reasoning-parser") as error:
        ask(Speaker(tokenizer, end, SAID[0], ASIDE[where]), with_text=with_text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize(
    "more", [{"reasoning": None}, {"reasoning_content": ""}, {"tool_calls": []}, {"name": "x", "id": "m1"}, {"details": {"text": " "}}]
)
def test_fields_without_text_take_nothing_away(tokenizer, end, more, with_text):
    lines = []
    assert ask(Speaker(tokenizer, end, SAID[0], lambda message: message.update(more)), with_text=with_text, notify=lines.append) == SAID[0]
    assert not lines


def test_a_text_in_parts_is_one_text(tokenizer, end):
    def change(message):
        message["content"] = [{"type": "text", "text": message["content"][:9]}, {"type": "output_text", "text": message["content"][9:]}]

    assert ask(Speaker(tokenizer, end, SAID[0], change), with_text=False) == SAID[0]


def test_a_field_that_repeats_the_text_takes_nothing_away(tokenizer, end):
    """Whether something is missing, the token ids say; where nobody has them, the field's name has to do."""
    assert ask(Speaker(tokenizer, end, SAID[0], lambda message: message.update(echo=message["content"]))) == SAID[0]


def test_the_first_of_several_stop_texts_cuts():
    assert before_stop_text("a b c", ("c", "b")) == "a " and before_stop_text("a b c", ()) == "a b c"
