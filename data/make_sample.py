"""Writes data/sample: clinical questions with demonstrations, and multimodal cases with drawn images, as preference pairs,
as questions, and as responses to these.

    python data/make_sample.py                # rewrites data/sample, bit for bit the same on every run
    python data/make_sample.py --to=DIR

The contents come from two hand-written banks, data/bank/questions.json and data/bank/cases.json, which hold each condition's
findings, reasoning, differential and reflection; this file turns them into varied prose and data/draw.py draws the images.
Needs NumPy and Pillow only. No patient is behind any of it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from draw import draw

HERE = Path(__file__).resolve().parent
# Word for word as in the paper, Appendix A.
SYSTEM_PROMPT = (
    "You are a helpful assistant. A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning process "
    "and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here "
    "</think> <answer> answer here </answer>."
)
# The four criteria of MMRP; each rejected response fails exactly one and, as in the paper, still ends with the right answer.
FLAWS = ("illogical", "ignores_image", "hallucinates", "no_reflection")
# Pixels, width by height: none square, and few a multiple of 28, so that partial windows and resizing occur.
SIZES = ((196, 168), (150, 180), (224, 200), (168, 196), (112, 84), (280, 230), (182, 210))
TALL_SIZES = ((140, 168), (168, 224), (150, 190), (196, 238), (126, 154))  # heads and limbs
WIDE_SIZES = ((280, 112), (252, 98), (224, 140), (266, 126), (238, 104))  # ECG strips and sections, read along their length
# What a case's text hides from the model.
FACTS = ("look", "link", "differential", "reflection", "illogic", "hallucination", "blind")
COLUMN_MAP = """# Which column of text_questions.csv is what:
#   python -m mede2_jax.bank --source=data/sample/text_questions.yaml --data=data/sample --out=bank.jsonl
name: sample_text
title: Sample, text questions
files: [text_questions.csv]
columns:
  id: id
  question: question
  answer: answer
  options: [a, b, c, d]
  groups: [specialty]
kinds:
  column: kind
  values: {choice: choice, short: short}
licence: Apache-2.0
"""
OPENINGS = (
    "Let me work through this step by step.",
    "First I will collect what is certain.",
    "I should begin with the findings before naming anything.",
    "Let me take the case apart.",
    "What do we know?",
)
CHECKS = (
    "Wait, let me check this.",
    "Before I settle on it, a check.",
    "Let me question my own conclusion.",
    "One doubt remains.",
    "Hold on.",
)


def main() -> None:
    """Writes the sample folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=HERE / "sample", help="folder to write (default: data/sample)")
    to = parser.parse_args().to
    (to / "images").mkdir(parents=True, exist_ok=True)
    for stale in [*(to / "images").iterdir(), *to.glob("*.jsonl"), *to.glob("text_questions.*")]:
        stale.unlink()
    write_lines(to / "demonstrations.jsonl", demonstrations())
    write_lines(to / "preferences.jsonl", preferences(to))
    write_lines(to / "questions.jsonl", questions())
    write_lines(to / "rollouts.jsonl", rollouts())
    write_table(to / "text_questions.csv", text_questions())
    (to / "text_questions.yaml").write_text(COLUMN_MAP, encoding="utf-8", newline="\n")


def demonstrations() -> Iterator[dict[str, Any]]:
    """One text question with its worked demonstration for each condition of the bank."""
    for index, item in enumerate(json.loads((HERE / "bank" / "questions.json").read_text("utf-8"))):
        rng = random.Random(f"demonstration {item['id']}")
        options = shuffled(rng, [item["answer"], *(name for name, _ in item["differential"])]) if index % 2 else None
        question = f"{item['stem']} {item['question']}" + (list_options(options) if options else "")
        answer = f"{letter(options, item['answer'])}. {item['answer']}" if options else item["answer"]
        yield {
            "id": f"sample-question-{item['id']}",
            "messages": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": question},
                {"role": "assistant", "content": tagged(demonstration(item, options, rng, length=index % 4), answer)},
            ],
            "images": [],
            "metadata": {"specialty": item["specialty"], "answer": item["answer"]},
        }


def text_questions() -> Iterator[dict[str, str]]:
    """The same questions as rows of a table, as others keep theirs; every other one is a choice."""
    for index, item in enumerate(json.loads((HERE / "bank" / "questions.json").read_text("utf-8"))):
        rng = random.Random(f"demonstration {item['id']}")
        options = shuffled(rng, [item["answer"], *(name for name, _ in item["differential"])]) if index % 2 else []
        yield {
            "id": item["id"],
            "specialty": item["specialty"],
            "kind": "choice" if options else "short",
            "question": f"{item['stem']} {item['question']}",
            **{name.lower(): option for name, option in itertools.zip_longest("ABCD", options, fillvalue="")},
            "answer": letter(options, item["answer"]) or item["answer"],
        }


def demonstration(item: dict[str, Any], options: list[str] | None, rng: random.Random, *, length: int) -> str:
    """Reasoning in prose: `length` 0 is brief, 1 adds alternatives, 2 numbers the findings and plans, 3 restates the case as well."""
    findings = shuffled(rng, item["findings"]) if length else item["findings"][:2]
    parts = [rng.choice(OPENINGS)] if length else []
    if length == 3:
        parts.append(f"The case again, in its own words: {item['stem']} What is asked: {item['question']}")
    if length >= 2:
        parts += [f"({number}) {sentence(text)}" for number, text in enumerate(findings, 1)]
        parts.append(f"How do these belong together? {sentence(item['link'])}")
    else:
        parts += [sentence("; ".join(findings)), sentence(item["link"])]
    for name, why in shuffled(rng, item["differential"])[: min(length + 1, 3)]:
        label = f"option {letter(options, name)}" if options else f'"{name}"'
        form = rng.choice(("What about {}? {}", "I considered {}. {}", "Next, {}. {}", "Why not {}? {}"))
        parts.append(form.format(label, sentence(why)))
    parts.append(f"{rng.choice(CHECKS)} {sentence(item['reflection'])}")
    if length >= 2:
        parts.append(f"What follows for the patient? {sentence(item['next'])}")
    if length == 3:
        parts.append(f"In short: {'; '.join(item['findings'])}; nothing that I was told contradicts this reading.")
    parts.append(f"So the answer is {letter(options, item['answer'])}." if options else f'So I answer "{item["answer"]}".')
    return " ".join(parts)


def preferences(to: Path) -> Iterator[dict[str, Any]]:
    """Two patients for each case of the bank; draws their images into `to/images`."""
    for index, variant, case, patient, rng in patients():
        images = [save_image(to, case, variant, number, view, patient["side"]) for number, view in enumerate(case["views"])]
        flaw = FLAWS[(index + variant) % len(FLAWS)]
        answer = case["answer"].format(**patient)
        yield {
            "id": f"sample-pair-{case['id']}-{variant + 1}",
            "prompt": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": user_parts(case, patient, style=index % 3)},
            ],
            "images": images,
            "chosen": tagged(chosen(case, rng).format(**patient), answer),
            "rejected": tagged(rejected(case, flaw, rng).format(**patient), answer),
            "metadata": {"modality": case["modality"], "answer": answer, "rejected_fails": flaw},
        }


def questions() -> Iterator[dict[str, Any]]:
    """The patients of the preference pairs, with their images, as questions; half of the cases list options.

    `metadata` has what a judge of reasoning needs to know and the model is not told: the findings, what joins them, the
    alternatives, and the marks of each flaw.
    """
    for index, variant, case, patient, _ in patients():
        rng = random.Random(f"question {case['id']} {variant}")
        answer = case["answer"].format(**patient)
        others = [text.format(**patient) for text in case.get("other_options", [])]
        options = shuffled(rng, [answer, *others]) if others else None
        facts = {name: filled(case[name], patient) for name in FACTS}
        yield {
            "id": f"sample-case-{case['id']}-{variant + 1}",
            "prompt": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": user_parts(case, patient, style=index % 3, options=options)},
            ],
            "images": [image_path(case, variant, number, view) for number, view in enumerate(case["views"])],
            "answer": letter(options, answer) if options else answer,
            **({"options": dict(zip("ABCDE", options, strict=False))} if options else {}),
            "metadata": {"modality": case["modality"], **facts},
        }


def rollouts() -> Iterator[dict[str, Any]]:
    """Eight responses to each question, in the format that sampling writes: two good ones, one for each flaw, one with two flaws, and one
    that ends wrongly or not at all. No model wrote them: `model` says so, and the counts of tokens are 0.

    `metadata.made` says what each was made to be; the offline judge does not look at it.
    """
    for (_, variant, case, patient, _), question in zip(patients(), questions(), strict=True):
        rng = random.Random(f"rollouts {case['id']} {variant}")
        options, answer = question.get("options"), question["answer"]
        text = options[answer] if options else answer
        right = f"{answer}. {text}" if options else text
        others = [f"{name}. {other}" for name, other in options.items() if name != answer] if options else [case["differential"][0][0]]
        responses = [("good", chosen(case, rng), right), ("good", chosen(case, rng), right)]
        responses += [(flaw, rejected(case, flaw, rng), right) for flaw in FLAWS]
        responses.append(("hallucinates no_reflection", careless(case, rng), right))
        responses.append(("wrong", chosen(case, rng), rng.choice(others)) if variant else ("truncated", chosen(case, rng), ""))
        for sample, (made, reasoning, ending) in enumerate(responses):
            response = tagged(reasoning.format(**patient), ending)
            if made == "wrong":  # its reasoning names what it ends with
                response = tagged(reasoning.replace(f'"{case["answer"]}"', f'"{ending}"').format(**patient), ending)
            elif made == "truncated":
                response = response[: len(response) // 2]
            yield {
                **question,
                "id": f"{question['id']}#{sample}",
                "parents": [question["id"]],
                "source": "sample generator",
                "metadata": {**question["metadata"], "made": made},
                "sample": sample,
                "response": response,
                "finish_reason": "length" if made == "truncated" else "stop",
                "prompt_tokens": 0,
                "response_tokens": 0,
                "seed": sample,
                "model": "sample generator",
            }


def careless(case: dict[str, Any], rng: random.Random) -> str:
    """Invents findings, and is sure of itself."""
    look = [sentence(text) for text in case["look"]]
    against = [f"It is not {name}." for name, _ in shuffled(rng, case["differential"])]
    return " ".join([*look, sentence(case["hallucination"]), sentence(case["link"]), *against, f'This is certain: "{case["answer"]}".'])


def patients() -> Iterator[tuple[int, int, dict[str, Any], dict[str, str], random.Random]]:
    """(number, which of the two, case, its words, random numbers that follow) of each patient."""
    cases = json.loads((HERE / "bank" / "cases.json").read_text("utf-8"))
    for index, (variant, case) in enumerate(itertools.product(range(2), cases)):
        rng = random.Random(f"preference {case['id']} {variant}")
        yield index, variant, case, make_patient(rng, case, variant), rng


def filled(value: Any, patient: dict[str, str]) -> Any:
    """The text, or the texts in nested lists, in this patient's words."""
    return value.format(**patient) if isinstance(value, str) else [filled(item, patient) for item in value]


def make_patient(rng: random.Random, case: dict[str, Any], variant: int) -> dict[str, str]:
    """The words that differ between the two patients of a case."""
    female = rng.random() < 0.5
    young = case["id"] in ("pneumothorax", "sickle", "epidural", "schistocytes", "apl", "shaft-fracture", "hydrocephalus")
    return {
        "age": str(rng.randint(18, 34) if young else rng.randint(61, 79)),
        "person": "woman" if female else "man",
        "he": "she" if female else "he",
        "He": "She" if female else "He",
        "side": ("left", "right")[variant],
        "other": ("right", "left")[variant],
    }


def save_image(to: Path, case: dict[str, Any], variant: int, number: int, view: list[str], side: str) -> str:
    """Draws one image; returns its path relative to the JSONL. Radiographs are PNG or JPEG, so that both are exercised."""
    kind, finding = view[0], view[1]
    seed = sum(ord(character) * 31**place for place, character in enumerate(case["id"][:6])) + 3 * variant + number
    sizes = {"ecg": WIDE_SIZES, "oct": WIDE_SIZES, "head_ct": TALL_SIZES, "limb": TALL_SIZES}.get(kind, SIZES)
    image = draw(kind, finding, size=sizes[seed % len(sizes)], side=view[2] if len(view) > 2 else side, seed=seed)
    path = image_path(case, variant, number, view)
    if path.endswith(".jpg"):
        image.save(to / path, quality=80, optimize=True)
    else:
        image.save(to / path, optimize=True)
    return path


def image_path(case: dict[str, Any], variant: int, number: int, view: list[str]) -> str:
    """Where an image lies, relative to the JSONL."""
    photograph = view[0] in ("fundus", "smear", "histology") or (view[0] == "chest" and variant == 1)
    return f"images/{case['id']}-{variant + 1}{'abc'[number]}.{'jpg' if photograph else 'png'}"


def user_parts(case: dict[str, Any], patient: dict[str, str], *, style: int, options: list[str] | None = None) -> list[dict[str, str]]:
    """The user's turn: images first, images last, or each image after its label."""
    stem, question = case["stem"].format(**patient), case["question"].format(**patient)
    question += list_options(options) if options else ""
    images: list[dict[str, str]] = [{"type": "image"} for _ in case["views"]]
    if style == 0:
        return [*images, {"type": "text", "text": f"{stem} {question}"}]
    if style == 1:
        return [{"type": "text", "text": f"{stem} {question}"}, *images]
    parts = [{"type": "text", "text": stem}]
    for name, image in zip("ABC", images, strict=False):
        parts += [{"type": "text", "text": f"\nImage {name}: " if len(images) > 1 else "\nImage: "}, image]
    return [*parts, {"type": "text", "text": f"\n{question}"}]


def chosen(case: dict[str, Any], rng: random.Random) -> str:
    """Meets all four criteria: orderly, looks at the images, invents nothing, checks itself."""
    parts = [rng.choice(OPENINGS), *(sentence(text) for text in case["look"]), sentence(case["link"])]
    for name, why in shuffled(rng, case["differential"]):
        parts.append(rng.choice((f"Could it be {name}? {sentence(why)}", f"Against {name}: {sentence(why, capital=False)}")))
    parts.append(f"{rng.choice(CHECKS)} {sentence(case['reflection'])}")
    parts.append(f'Everything considered, I answer "{case["answer"]}".')
    return " ".join(parts)


def rejected(case: dict[str, Any], flaw: str, rng: random.Random) -> str:
    """Fails the one criterion named by `flaw`."""
    look = [sentence(text) for text in case["look"]]
    check = f"{rng.choice(CHECKS)} {sentence(case['reflection'])}"
    ending = f'So the answer is "{case["answer"]}".'
    if flaw == "illogical":
        parts = [*look, sentence(case["illogic"]), check]
    elif flaw == "ignores_image":
        others = " or ".join(name for name, _ in case["differential"])
        parts = [sentence(case["blind"]), f"One could also think of {others}, which is what a careful colleague would bring up."]
        parts.append(
            "To check myself I went over the age, the complaint and the course again; they do not contradict the usual explanation."
        )
    elif flaw == "hallucinates":
        parts = [look[0], sentence(case["hallucination"]), sentence(case["link"]), check]
    else:
        parts = [*look, sentence(case["link"]), *(f"It is not {name}." for name, _ in case["differential"])]
        parts.append("All this is obvious at first sight, no other reading is possible, and it needs no further thought.")

    return " ".join([*parts, ending])


def tagged(reasoning: str, answer: str) -> str:
    """The response format that the system prompt asks for."""
    return f"<think> {reasoning} </think> <answer> {answer} </answer>"


def list_options(options: list[str]) -> str:
    """The answer choices, one a line."""
    return "\nAnswer Choices:" + "".join(f"\n({name}) {text}" for name, text in zip("ABCDE", options, strict=False))


def letter(options: list[str] | None, text: str) -> str:
    """The letter of a choice; empty without choices."""
    return "ABCDE"[options.index(text)] if options else ""


def sentence(text: str, *, capital: bool = True) -> str:
    """`text` with its first letter raised (unless told not to) and one full stop."""
    return (text[0].upper() if capital else text[0]) + text[1:].rstrip(".") + "."


def shuffled(rng: random.Random, items: list[Any]) -> list[Any]:
    """A shuffled copy."""
    return rng.sample(items, len(items))


def write_table(path: Path, rows: Iterator[dict[str, str]]) -> None:
    """Writes CSV, UTF-8, the names of the columns first."""
    records = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def write_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Writes JSON Lines, UTF-8, one record a line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
