"""Reading a judge's reply: what is taken, what is refused and how the fault reads; positive and negative."""

import json
import time

import pytest

from mede2_jax.reasoning.judge_reply import Unreadable, Verdict
from mede2_jax.reasoning.rubric import ASPECTS, MMRP, NAMES, failed, read_reply, reply_schema

PAPER = dict.fromkeys(NAMES.values(), "Yes") | {"No_Hallucination": "No"}
OTHER = PAPER | {"Reflection_Presence": "No"}
REASONS = {name: {"Reason": f"of {name}", "Verdict": word} for name, word in PAPER.items()}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PAPER),
        json.dumps(PAPER, indent=2),
        f"```json\n{json.dumps(PAPER)}\n```",
        f"```\n{json.dumps(PAPER, indent=4)}\n```\nThat is my evaluation.",
        f"Here it is: {json.dumps(PAPER)} I hope it helps.",
        json.dumps(PAPER | {"No_Hallucination": " no "}).replace("Yes", "YES"),
        json.dumps(PAPER | {"Overall": "good"}),
    ],
)
def test_a_readable_reply(text):
    verdicts = read_reply(text, reasons=False)
    assert list(verdicts) == list(ASPECTS)
    assert {aspect: verdict.met for aspect, verdict in verdicts.items()} == {aspect: aspect != "no_hallucination" for aspect in ASPECTS}
    assert {verdict.reason for verdict in verdicts.values()} == {None}


def test_reasons_are_kept():
    verdicts = read_reply(json.dumps(REASONS), reasons=True)
    assert verdicts["no_hallucination"] == Verdict(met=False, reason="of No_Hallucination")
    assert verdicts["reflection"] == Verdict(met=True, reason="of Reflection_Presence")


@pytest.mark.parametrize(
    ("text", "reasons", "fault"),
    [
        ("", False, "it is empty"),
        ("  \n", False, "it is empty"),
        ("I cannot judge this.", False, "it holds no JSON object"),
        (json.dumps(PAPER)[:-30], False, "it holds no JSON object"),
        (json.dumps(PAPER)[:-30] + "}", False, "it is not valid JSON"),
        (json.dumps([PAPER, OTHER]), False, "it holds objects that differ, in 'Reflection_Presence'"),
        (json.dumps({name: word for name, word in PAPER.items() if name != "No_Hallucination"}), False, "'No_Hallucination' is missing"),
        (json.dumps(PAPER | {"No_Hallucination": "Yes/No"}), False, "'No_Hallucination' must be Yes or No, found \"Yes/No\""),
        (json.dumps(PAPER | {"No_Hallucination": True}), False, "'No_Hallucination' must be Yes or No, found true"),
        (json.dumps(PAPER | {"No_Hallucination": None}), False, "'No_Hallucination' must be Yes or No, found null"),
        (json.dumps(PAPER)[:-1] + ', "No_Hallucination": "Yes"}', False, "'No_Hallucination' is given twice"),
        (json.dumps(PAPER), True, "'Answer_Correctness' must be an object with 'Reason' and 'Verdict', found \"Yes\""),
        (json.dumps(REASONS | {"Answer_Correctness": {"Verdict": "Yes"}}), True, "'Answer_Correctness' must be an object"),
        (json.dumps(REASONS | {"Answer_Correctness": {"Reason": "r", "Verdict": "maybe"}}), True, 'must be Yes or No, found "maybe"'),
        (json.dumps(REASONS), False, "'Answer_Correctness' must be Yes or No, found {\"Reason\": "),
        ("{" * 100_000 + "}" * 100_000, False, "it is not valid JSON"),
        ('{"a":' * 100_000 + "}" * 100_000, False, "its JSON is nested too deeply"),
    ],
)
def test_a_reply_that_cannot_be_read_says_why(text, reasons, fault):
    with pytest.raises(Unreadable) as error:
        read_reply(text, reasons=reasons)
    assert fault in str(error.value) and len(str(error.value)) < 200


TEXT = json.dumps(PAPER)
TEMPLATE = '{"Answer_Correctness": "Yes/No", "Logical_Consistency": "Yes/No"}'


@pytest.mark.parametrize(
    "text",
    [
        f"<think>The format is {TEMPLATE}, so I fill it in.</think>\n{TEXT}",
        f"<think>First I thought {json.dumps(OTHER)}, but it does reflect.</think>{TEXT}",
        f"<THINKING>{{a, b}}</THINKING>\n```json\n{TEXT}\n```",
        f'```json\n{{"draft": 1}}\n```\nFinal:\n```json\n{TEXT}\n```',
        f"```json\n{TEXT}\n```\nAs said:\n```json\n{json.dumps(PAPER, indent=1)}\n```",
        f"Here it is:\n\n{TEXT}\n\nLet me know {{if}} you need more.",
        f"For the set {{1, 2}} and f{{x}}: {TEXT}",
        f"The form is {TEMPLATE}. Mine is {TEXT}",
        f"[{TEXT}]",
        f"```JSON\n{TEXT}\n```",
        f"```python\nresult = {TEXT}\n```",
        f"\ufeff{TEXT}",
        f'{{"steps": [1, 2]}}\n{{"Answer": "B"}}\n{TEXT}',
        f"<think>All is well: {TEXT}</think>",  # nothing follows: it is the one object there is
        f"<think>never closed {TEXT}",
    ],
)
def test_a_good_judgment_in_a_loose_envelope_is_read(text):
    assert {aspect: verdict.met for aspect, verdict in read_reply(text, reasons=False).items()} == {
        aspect: aspect != "no_hallucination" for aspect in ASPECTS
    }


@pytest.mark.parametrize(
    "text",
    [
        f"{TEXT}\n{json.dumps(OTHER)}",
        f"Either {TEXT} or {json.dumps(OTHER)}",
        f"<think>hm</think>{json.dumps(OTHER)} No: {TEXT}",
        f'{TEXT}\nCorrection: {{"Reflection_Presence": "No"}}',
        f"```json\n{json.dumps(OTHER)}\n```\n```json\n{TEXT}\n```",
        f"<think>{TEXT} or {json.dumps(OTHER)}</think>",
    ],
)
def test_of_two_judgments_that_differ_none_is_guessed(text):
    with pytest.raises(Unreadable, match="it holds objects that differ, in 'Reflection_Presence'"):
        read_reply(text, reasons=False)


def test_an_object_that_says_a_thing_twice_is_not_passed_over_for_another():
    twice = TEXT[:-1] + ', "No_Hallucination": "Yes"}'
    with pytest.raises(Unreadable, match="'No_Hallucination' is given twice"):
        read_reply(f"{twice} {TEXT}", reasons=False)


def test_reasons_come_from_the_last_of_equal_judgments():
    again = {name: said | {"Reason": "again"} for name, said in REASONS.items()}
    text = f"<think>{json.dumps(PAPER)}</think>{json.dumps(REASONS)} {json.dumps(again)}"
    assert {verdict.reason for verdict in read_reply(text, reasons=True).values()} == {"again"}


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        '{"',
        '{"a":',
        '{"a":{},',
        '{"a',
        '{ "b": [',
        "</think>",
        '{"a":1}',
        "\n{",
        '"{',
        "```{",
        "```json {",
        "```{}",
        "}```",
        "} ",
        "```",
    ],
)
def test_a_runaway_reply_is_read_at_once(piece):
    start = time.process_time()
    with pytest.raises(Unreadable):
        read_reply(piece * (1_000_000 // len(piece)), reasons=False)
    assert time.process_time() - start < 2.0


def test_all_criteria_make_a_response_positive_and_any_negative():
    met = dict.fromkeys(ASPECTS, True)
    assert failed(met) == ()
    for criterion in MMRP:
        assert failed(met | {criterion: False}) == (criterion,)
    assert failed(met | {"reflection": False, "logical_consistency": False}) == ("logical_consistency", "reflection")
    assert failed(met | {"correctness": False}) == (), "wrong conclusions are taken out before"
    assert failed(met | {"reflection": False}, ("no_hallucination",)) == ()


@pytest.mark.parametrize("reasons", [False, True])
def test_the_schema_asks_for_what_is_read(reasons):
    schema = reply_schema(reasons=reasons)
    assert schema["required"] == list(schema["properties"]) == list(NAMES.values()) and schema["additionalProperties"] is False

    def example(part):
        return (
            {name: example(inner) for name, inner in part["properties"].items()} if part["type"] == "object" else part.get("enum", ["x"])[0]
        )

    assert all(verdict.met for verdict in read_reply(json.dumps(example(schema)), reasons=reasons).values())
