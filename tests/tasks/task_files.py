"""Small files in the shapes that the owners publish, with texts of our own."""

import csv
import json


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def write_csv(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def write_parquet(path, records):
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def medxpertqa(number, label="B", *, subset="MM", images=("a",), options=5, **more):
    """A row as on the hub."""
    texts = {"ABCDEFGHIJ"[n]: f"finding {n}" for n in range(options)}
    tail = " ".join(f"({one}) {text}" for one, text in texts.items())
    row = {
        "id": f"{subset}-{number}",
        "question": f"A patient, number {number}. What is seen?\nAnswer Choices: {tail}",
        "options": texts,
        "label": label,
        "medical_task": "Diagnosis",
        "body_system": "Skeletal",
        "question_type": "Reasoning" if number % 2 else "Understanding",
    }
    return row | ({"images": [f"{subset}-{number}-{one}.jpeg" for one in images]} if images else {}) | more


def mmmu(number, subject="Pharmacy", answer="A", options=("True", "False"), question="See <image 1>.", images=None, **more):
    """A row of the parquet files; images are structs of bytes and path, or null."""
    images = {1: b"one"} if images is None else images
    columns = {f"image_{n}": {"bytes": images[n], "path": f"{n}.png"} if n in images else None for n in range(1, 8)}
    return {
        "id": f"validation_{subject}_{number}",
        "question": question,
        "options": repr(list(options)),
        "answer": answer,
        "question_type": "multiple-choice" if options else "open",
        **columns,
        **more,
    }


def mmmu_pro(number, subject="Pharmacy", answer="C", options=("a", "b", "c", "d"), **more):
    row = mmmu(number, subject, answer, options, **more)
    del row["question_type"]
    return row | {"id": f"test_{subject}_{number}", "subject": subject}


def medqa(number, answer="C", step="step1"):
    options = {letter: f"drug {letter}{number}" for letter in "ABCD"}
    return {"question": f"Case {number}?", "answer": options[answer], "options": options, "meta_info": step, "answer_idx": answer}


def medbullets(number, answer="E", options=5):
    texts = {f"op{letter}": f"step {letter}" for letter in "abcde"[:options]}
    question = f"Case {number},\nwith a line end?"
    return {"link": f"https://example.org/{number}", "question": question, **texts, "answer_idx": answer, "answer": "x", "explanation": "y"}


def mmxu(number, answer="D", patient="p10000032", prior=None):
    now, before = (f"files/p10/{patient}/s{number}{n}/a.jpg" for n in (1, 0))
    options = {letter: f"change {letter}" for letter in "ABCD"}
    row = {"id": number, "content_type": "worsen", "question": "What changed?", "options": options, "answer": answer}
    return row | {"cur_image_path": now, "prior_image_path": before if prior is None else prior}


def diagnosisarena(number, options, answer="B"):
    sections = {name: f"{name} of {number}" for name in ("Case Information", "Physical Examination", "Diagnostic Tests")}
    return {"id": number, **sections, "Final Diagnosis": "gout", "Options": options, "Right Option": answer}
