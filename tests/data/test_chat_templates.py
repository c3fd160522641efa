"""Which chat template counts is what transformers says; and what a template makes of a conversation holds its texts."""

import itertools
import json
import signal
import threading
import time

import pytest
from data_builders import INTERNVL_TEMPLATE, TEMPLATE, write_internvl, write_processor
from test_chat import decode, message
from transformers import AutoTokenizer
from transformers.processing_utils import ProcessorMixin

from mede2_jax.config import UserError
from mede2_jax.data import chat_templates
from mede2_jax.data.chat_templates import ORDER, describe_templates, find_templates
from mede2_jax.data.internvl3 import InternVL3Processor
from mede2_jax.data.processor import ProcessorOptions
from mede2_jax.data.qwen2_5_vl import Qwen2_5VLProcessor

TEXT_ONLY = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
PRINTS = TEXT_ONLY.replace("+ message.content +", "~ message.content ~")
ONE_LINE = "{%- for message in messages -%}"


def put(directory, name, template, mark):
    """Puts a template into one of the files that may hold one; the mark tells it from others."""
    template = f"{{#- {mark} -#}}{template}"
    file = directory / name
    if name.endswith(".jinja"):
        file.write_text(template)
    else:
        content = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(content | {"chat_template": template}))
    return template


def owners(directory):
    """The template of transformers' processor, else of its tokenizer."""
    found, _ = ProcessorMixin.get_processor_dict(directory)
    return found.get("chat_template") or AutoTokenizer.from_pretrained(directory).get_chat_template()


@pytest.mark.parametrize("names", [names for count in range(1, 5) for names in itertools.combinations(ORDER, count)], ids=" ".join)
def test_the_template_that_counts_is_transformers(tmp_path, names):
    directory = write_processor(tmp_path / "model")
    (directory / "chat_template.jinja").unlink()
    written = {name: put(directory, name, TEMPLATE, name) for name in reversed(names)}
    processor = Qwen2_5VLProcessor.load(directory)
    assert processor.chat.tokenizer.chat_template == owners(directory) == written[names[0]]
    line = describe_templates(directory)
    assert (line == "") == (len(names) == 1)
    if line:
        assert line.startswith(f"chat template: that of {names[0]}, as AutoProcessor") and all(name in line for name in names[1:])
    # a copy that a run saves has the same
    processor.save(tmp_path / "saved")
    assert find_templates(tmp_path / "saved") == find_templates(directory)


@pytest.mark.parametrize("names", [[name, other] for name in ORDER for other in ORDER if name != other], ids=" ".join)
def test_templates_that_agree_are_no_matter(tmp_path, names):
    directory = write_processor(tmp_path)
    (directory / "chat_template.jinja").unlink()
    for name in names:
        put(directory, name, TEMPLATE + ("\n" if name.endswith("jinja") else ""), "same")
    assert describe_templates(directory) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}], TEMPLATE),
        ([{"name": "default", "template": TEMPLATE}], TEMPLATE),
        (TEMPLATE, TEMPLATE),
    ],
)
def test_the_default_of_several(tmp_path, value, expected):
    directory = write_processor(tmp_path)
    (directory / "chat_template.jinja").unlink()
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": value}))
    assert Qwen2_5VLProcessor.load(directory).chat.tokenizer.chat_template == owners(directory) == expected


@pytest.mark.parametrize("value", [5, ["x"], {"default": 5}, [{"name": "default", "template": ["x"]}], True])
@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_what_is_no_template_is_one_line(tmp_path, value, name):
    directory = write_processor(tmp_path)
    (directory / name).write_text(json.dumps({"chat_template": value}))
    with pytest.raises(UserError, match=rf"{name}: chat_template must be text, found") as caught:
        find_templates(directory)
    assert "\n" not in str(caught.value)


def test_a_template_that_is_not_utf_8_or_not_there(tmp_path):
    directory = write_processor(tmp_path)
    (directory / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"chat_template\.jinja: not UTF-8 text \(byte 0\)"):
        Qwen2_5VLProcessor.load(directory)
    (directory / "chat_template.jinja").unlink()
    assert find_templates(directory) == {}
    with pytest.raises(UserError, match="has no chat template"):
        Qwen2_5VLProcessor.load(directory)


PARTS = message("user", "one ", "two")
TURNS = [message("user", "a scan"), message("assistant", "ok"), message("user", "and this")]


def refusal(directory, messages, load=Qwen2_5VLProcessor.load):
    with pytest.raises(UserError) as caught:
        load(directory).chat.prompt(messages)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        PRINTS,
        TEXT_ONLY.replace("+ message.content +", "+ (message.content | string) +"),
        TEXT_ONLY.replace("+ message.content +", "+ (message.content if message.content is string else message.content | tojson) +"),
        TEXT_ONLY.replace("+ message.content +", "+ (message.content if message.content is string else message.content[0] | string) +"),
        TEXT_ONLY.replace("'\n' + message.content +", "('\n%s' | format(message.content)) +"),
    ],
    ids=["prints", "string", "tojson", "the first part", "format"],
)
def test_a_template_that_prints_parts_is_refused_for_them_and_taken_for_texts(tmp_path, template):
    directory = write_processor(tmp_path, template)
    for messages in ([PARTS], [message("user", None, "a scan")], [message("user", "x"), message("assistant", "y"), PARTS]):
        assert "prints contents that are given in parts" in refusal(directory, messages)
    processor = Qwen2_5VLProcessor.load(directory)
    assert "a scan" in decode(processor, processor.chat.prompt(TURNS))


def test_a_template_for_texts_fails_on_parts_in_one_line(tmp_path):
    directory = write_processor(tmp_path, TEXT_ONLY)
    assert "it may be one for texts only, use that of the vision-language model" in refusal(directory, [PARTS])
    processor = Qwen2_5VLProcessor.load(directory)
    assert "a scan" in decode(processor, processor.chat.prompt(TURNS))


CONTENT = "{{ message.content }}"


@pytest.mark.parametrize(
    ("template", "lost"),
    [
        (TEMPLATE.replace(ONE_LINE, "{%- for message in messages[-1:] -%}"), 0),
        (TEMPLATE.replace(CONTENT, "{{ message.content | upper }}"), 0),
        (TEMPLATE.replace(CONTENT, "{{ message.content | truncate(5, true, '') }}"), 0),
        (TEMPLATE.replace(CONTENT, "{{ message.content.replace('k', '') }}"), 1),
        (TEMPLATE.replace(CONTENT, "{{ message.content if message.role == 'user' else '' }}"), 1),
        (TEMPLATE.replace(CONTENT, "{{ message.content.split('this')[0] }}"), 2),
        (TEMPLATE.replace(ONE_LINE, "{%- for message in messages | reverse -%}"), 1),
        (TEMPLATE.replace(CONTENT, "{{ message.content | reverse }}"), 0),
    ],
    ids=["only the last", "upper", "cut", "replaced", "no assistant", "cut at a word", "turned round", "backwards"],
)
def test_a_template_that_loses_a_text_is_refused(tmp_path, template, lost):
    directory = write_processor(tmp_path, template)
    try:
        Qwen2_5VLProcessor.load(directory)
    except UserError as error:  # of a template that loses the texts with which it is tried
        assert "does not show the text of message" in str(error)
        return
    assert f"does not show the text of message {lost} as it is and in its place" in refusal(directory, TURNS)
    internvl = write_internvl(tmp_path / "internvl", template=INTERNVL_TEMPLATE.replace("{{ part.text }}", "{{ part.text.lower() }}"))
    assert "does not show the text of message 1" in refusal(
        internvl, [message("system", "x"), message("user", None, "A Scan")], InternVL3Processor.load
    )


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_blanks_around_a_text_are_the_templates(tmp_path, role):
    processor = Qwen2_5VLProcessor.load(write_processor(tmp_path, TEMPLATE.replace(CONTENT, "{{ message.content | trim }}")))
    messages = [message(role, "  fever\n"), message("user", " x ")]
    assert f"{role}\nfever<|im_end|>\n<|im_start|>user\nx<|im_end|>" in decode(processor, processor.chat.prompt(messages))


def test_a_system_prompt_counts_as_no_message(tmp_path):
    cut = TEMPLATE.replace(CONTENT, "{{ message.content.replace('scan', '') }}")
    directory = write_processor(tmp_path, cut)
    with pytest.raises(UserError, match="does not show the text of message 0 as it is"):
        Qwen2_5VLProcessor.load(directory, ProcessorOptions(system_prompt="Be brief.")).chat.prompt(TURNS)
    with pytest.raises(UserError, match=r"does not show data\.system_prompt='Read the scan\.' as it is"):
        Qwen2_5VLProcessor.load(directory, ProcessorOptions(system_prompt="Read the scan."))


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        ENDLESS + TEMPLATE,
        TEMPLATE + ENDLESS,
        TEMPLATE.replace(CONTENT, ENDLESS + CONTENT),
        TEMPLATE.replace("{{ part.text }}", ENDLESS + "{{ part.text }}"),
        TEMPLATE.replace("{{ '<|vision_start|>", ENDLESS + "{{ '<|vision_start|>"),
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}" + TEMPLATE,
    ],
    ids=["before", "after", "of a text", "of a part", "of an image", "macro"],
)
def test_a_template_without_end_is_one_line(tmp_path, monkeypatch, template):
    monkeypatch.setattr(chat_templates, "SECONDS", 1)
    before, began = signal.getsignal(signal.SIGPROF), time.process_time()
    with pytest.raises(UserError, match=r"has no end: it takes more than 1 second") as caught:
        Qwen2_5VLProcessor.load(write_processor(tmp_path, template))
    assert "\n" not in str(caught.value) and time.process_time() - began < 60
    assert signal.getsignal(signal.SIGPROF) == before and signal.getitimer(signal.ITIMER_PROF) == (0, 0)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1/0 }}",
        "{{ messages + 'x' }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ nothing.there }}",
        "{{ 'a'.foo() }}",
        "{%",
    ],
)
def test_a_template_that_fails_is_one_line(tmp_path, template):
    with pytest.raises(UserError, match="the chat template") as caught:
        Qwen2_5VLProcessor.load(write_processor(tmp_path, template + TEMPLATE))
    assert "\n" not in str(caught.value)


def test_a_processor_is_loaded_in_a_thread_too(model_directory):
    found = []
    thread = threading.Thread(target=lambda: found.append(Qwen2_5VLProcessor.load(model_directory)))
    thread.start()
    thread.join()
    assert found[0].fingerprint == Qwen2_5VLProcessor.load(model_directory).fingerprint
