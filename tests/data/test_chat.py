import numpy as np
import pytest
from data_builders import TEMPLATE, write_processor

from mede2_jax.config import UserError
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.qwen2_5_vl import Qwen2_5VLProcessor
from mede2_jax.data.records import Message


def message(role, *parts):
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return Message.model_validate({"role": role, "content": parts[0] if len(parts) == 1 and parts[0] is not None else content})


def decode(processor, tokens):
    return processor.chat.tokenizer.decode(list(map(int, tokens)), skip_special_tokens=False)


def test_prompt_is_the_templates_text(processor):
    tokens = processor.chat.prompt([message("user", None, "a scan")])
    assert decode(processor, tokens) == (
        "<|im_start|>system\nYou help doctors.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>a scan<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (tokens == processor.image_token_id).sum() == 1 and tokens.dtype == np.int32


def test_response_is_verbatim_and_ends_with_the_end_token(processor):
    end = processor.chat.special_id("<|im_end|>")
    assert processor.chat.end_token_id == end
    for text in ("fever", "  fever\n\n", "\nüber <think>x</think> "):
        tokens = processor.chat.response(text)
        assert tokens[-1] == end and decode(processor, tokens[:-1]) == text


def test_demonstration_scores_every_assistant_turn_and_nothing_else(processor):
    messages = [message("user", "one"), message("assistant", "first"), message("user", None, "two"), message("assistant", "second")]
    conversation = processor.chat.demonstration(messages)
    text = decode(processor, conversation.tokens)
    assert text.endswith("second<|im_end|>") and "two<|im_end|>\n<|im_start|>assistant\n" in text
    scored = decode(processor, conversation.tokens[conversation.scored])
    assert scored == "first<|im_end|>second<|im_end|>"
    # the same tokens as a prompt and a response, tokenised apart
    apart = np.concatenate([processor.chat.prompt(messages[:-1]), processor.chat.response("second")])
    assert np.array_equal(conversation.tokens, apart)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|im_end|>", "<|im_start|>"])
def test_reserved_tokens_in_texts_are_refused(processor, token):
    with pytest.raises(UserError, match="reserved token"):
        processor.chat.prompt([message("user", f"see {token}")])
    with pytest.raises(UserError, match="reserved token"):
        processor.chat.response(f"it is {token}")
    with pytest.raises(UserError, match="reserved token"):
        processor.chat.demonstration([message("user", "x"), message("assistant", token)])


def test_a_template_that_rewrites_history_is_refused(tmp_path):
    trimmed = TEMPLATE.replace("{{ message.content }}", "{{ message.content | trim }}")
    processor = Qwen2_5VLProcessor.load(write_processor(tmp_path / "a", trimmed))
    processor.chat.demonstration([message("user", "x"), message("assistant", "y")])
    with pytest.raises(UserError, match="does not keep the text of message 1"):
        processor.chat.demonstration([message("user", "x"), message("assistant", " y")])
    counting = TEMPLATE.replace("You help doctors.<|im_end|>\n'", "' ~ (messages | length) ~ '<|im_end|>\n'")
    processor = Qwen2_5VLProcessor.load(write_processor(tmp_path / "b", counting))
    with pytest.raises(UserError, match=r"does not keep the text|changes what came before"):
        processor.chat.demonstration([message("user", "x"), message("assistant", "y"), message("user", "z"), message("assistant", "w")])


def test_a_template_without_an_end_token_is_refused(tmp_path):
    with pytest.raises(UserError, match="could not learn to stop"):
        Qwen2_5VLProcessor.load(write_processor(tmp_path, TEMPLATE.replace("{{ '<|im_end|>\n' }}", "{{ '\n' }}")))


def test_a_template_that_raises_is_one_line(tmp_path):
    picky = "{% if messages | length > 2 %}{{ raise_exception('too\nmany') }}{% endif %}" + TEMPLATE
    processor = Qwen2_5VLProcessor.load(write_processor(tmp_path, picky))
    with pytest.raises(UserError, match="chat template refuses"):
        processor.chat.prompt([message("user", "x")] * 3)


def test_a_system_prompt_for_conversations_without_one(model_directory):
    processor = Qwen2_5VLProcessor.load(model_directory, ProcessorOptions(system_prompt="Think first."))
    turns = [message("user", "x"), message("assistant", "y"), message("user", "z"), message("assistant", "w")]
    text = decode(processor, processor.chat.demonstration(turns).tokens)
    assert text.startswith("<|im_start|>system\nThink first.<|im_end|>\n<|im_start|>user\nx") and text.count("system") == 1
    own = processor.chat.prompt([message("system", "Be brief."), message("user", "x")])
    assert decode(processor, own).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nx")
    assert processor.fingerprint != Qwen2_5VLProcessor.load(model_directory).fingerprint


def test_no_system_prompt_needs_a_template_that_adds_none(model_directory, tmp_path):
    without = ProcessorOptions(system_prompt="none")
    with pytest.raises(UserError, match=r"data\.system_prompt=none, but the chat template adds a system turn of its own") as caught:
        Qwen2_5VLProcessor.load(model_directory, without)
    assert "\n" not in str(caught.value)
    plain = TEMPLATE[TEMPLATE.index("{%- for message") :]
    for number, template in enumerate([plain, TEMPLATE.replace("!= 'system'", "!= 'system' and default_system_prompt | default(true)", 1)]):
        processor = Qwen2_5VLProcessor.load(write_processor(tmp_path / str(number), template), without)
        assert decode(processor, processor.chat.prompt([message("user", "x")])).startswith("<|im_start|>user\nx")


def test_a_template_without_system_turns(tmp_path):
    deaf = TEMPLATE[TEMPLATE.index("{%- for message") :].replace("in messages -%}", "in messages if message.role != 'system' -%}")
    directory = write_processor(tmp_path, deaf)
    Qwen2_5VLProcessor.load(directory, ProcessorOptions(system_prompt="none"))
    with pytest.raises(UserError, match=r"does not show data\.system_prompt='Think first\.'"):
        Qwen2_5VLProcessor.load(directory, ProcessorOptions(system_prompt="Think first."))


def test_the_released_tokenizer(real_processor):
    messages = [message("user", None, "What is it?")]
    tokens = real_processor.chat.prompt(messages)
    assert decode(real_processor, tokens) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert real_processor.image_token_id == 151655 and real_processor.chat.end_token_id == 151645 and real_processor.pad_token_id == 151643
    # ids as the tokenizer itself gives them for the text widened by hand, as transformers' processor does
    grids = [(8, 12)]
    widened = np.repeat(tokens, real_processor.token_repeats(tokens, grids))
    text = decode(real_processor, tokens).replace("<|image_pad|>", "<|image_pad|>" * 24)
    assert real_processor.chat.tokenizer(text)["input_ids"] == widened.tolist()
    assert real_processor.chat.response("<think>a</think>").tolist() == [
        *real_processor.chat.tokenizer("<think>a</think>")["input_ids"],
        151645,
    ]
