"""Responses to MedQA and their score."""

import json

from mede2_jax.score.__main__ import main

ITEMS = 12


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def medqa_file(tmp_path):
    """MedQA's files with twelve questions; the right answer of number n is the letter n modulo 4."""
    records = []
    for number in range(ITEMS):
        options = {letter: f"drug {letter}{number}" for letter in "ABCD"}
        answer = "ABCD"[number % 4]
        step = "step1" if number < 8 else "step2&3"
        records.append(
            {"question": f"Case {number}?", "options": options, "answer": options[answer], "answer_idx": answer, "meta_info": step}
        )
    return write(tmp_path / "phrases_no_exclude_test.jsonl", records)


def replies(right, texts="<think> … </think> <answer> {} </answer>"):
    """One reply an item, of which those numbered are right."""
    return [{"id": f"medqa-{n}", "response": texts.format("ABCD"[n % 4] if n in right else "ABCD"[(n + 1) % 4])} for n in range(ITEMS)]


def scored(tmp_path, data, file, *flags):
    out = tmp_path / "out"
    main(["--task=medqa", f"--data={data}", f"--responses={file}", f"--out={out}", *flags])
    verdicts = [json.loads(line) for line in (out / "verdicts.jsonl").read_text("utf-8").splitlines()]
    return json.loads((out / "score.json").read_text("utf-8")), verdicts
