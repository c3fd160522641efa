"""A small benchmark with images, and what `evaluate` and `score` leave of models that were asked it; scored by the real command."""

import hashlib
import io
import json
import random

from PIL import Image, ImageDraw

from mede2_jax.score.__main__ import main as score
from mede2_jax.tasks.catalogue import find_task, open_items
from mede2_jax.tasks.image_files import image_bytes

TASK, PROMPT = "medxpertqa_mm", "mede2"
FINDINGS = ("a wedge-shaped opacity", "a fluid level", "a lucent line", "a step in the cortex", "a ring of enhancement")
SYSTEMS = ("Skeletal", "Nervous", "Respiratory", "Cardiovascular")
TASKS = ("Diagnosis", "Treatment", "Basic Science")


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def picture(number, size=(160, 120)):
    """A film with a bright shape somewhere."""
    draw = random.Random(number)
    image = Image.new("L", size, 18 + number % 20)
    pen = ImageDraw.Draw(image)
    width, height = size
    for _ in range(5):
        x, y = draw.randrange(width), draw.randrange(height)
        r = draw.randrange(width // 16, width // 4)
        pen.ellipse((x - r, y - r // 2, x + r, y + r // 2), fill=draw.randrange(40, 200))
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return file.getvalue()


def benchmark(folder, items=12, size=(160, 120)):
    """MedXpertQA-MM's files in small; the right answer of number n is the letter n modulo 5."""
    rows = []
    for number in range(items):
        options = {"ABCDE"[n]: f"{text} on the {('left', 'right')[number % 2]}" for n, text in enumerate(FINDINGS)}
        names = [f"MM-{number}-{one}.png" for one in "ab"[: 1 + number % 2]]
        for place, name in enumerate(names):
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(2 * number + place, size))
        tail = " ".join(f"({letter}) {text}" for letter, text in options.items())
        rows.append(
            {
                "id": f"MM-{number}",
                "question": f"A {40 + number}-year-old patient has a cough, case {number}. What is seen?\nAnswer Choices: {tail}",
                "options": options,
                "label": "ABCDE"[number % 5],
                "images": names,
                "medical_task": TASKS[number % 3],
                "body_system": SYSTEMS[number % 4],
                "question_type": ("Reasoning", "Understanding")[number % 3 == 0],
            }
        )
    write_jsonl(folder / "MM" / "test.jsonl", rows)
    return folder


def answer(letter, words="The film shows it clearly."):
    return f"<think>\n{words}\nWait, let me look again.\n</think>\n<answer> {letter} </answer>"


def evaluation(folder, data, reply, samples=1, flags=()):
    """What `evaluate` leaves of one task and prompt.

    `reply(item, sample)` is a text, or (text, finish reason), or None for a sample that failed.
    """
    task = find_task(TASK)
    records, failed = [], []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for item in open_items(task, data).items:
        asked = task.asked(item, PROMPT)
        images = []
        for image in asked.images:
            held = image_bytes(image, [data / one for one in task.image_folders])
            images.append(f"images/{hashlib.sha256(held).hexdigest()}.png")
            (folder / images[-1]).write_bytes(held)
        name = f"{TASK}/{PROMPT}/{item.id}"
        for sample in range(samples):
            said = reply(item, sample)
            if said is None:
                failed.append({"question": name, "samples": [sample], "reason": "the server could not"})
                continue
            text, finish = said if isinstance(said, tuple) else (said, "stop")
            records.append(
                {
                    "id": f"{name}#{sample}",
                    "parents": [name],
                    "source": TASK,
                    "metadata": {"prompt": PROMPT, "item": item.id},
                    "prompt": [json.loads(message.model_dump_json()) for message in asked.messages],
                    "images": images,
                    "sample": sample,
                    "response": text,
                    "finish_reason": finish,
                    "response_tokens": len(text) // 4,
                    "model": "0" * 64,
                }
            )
    write_jsonl(folder / "rollouts.jsonl", records)
    config = {"temperature": 0.0, "n": samples, "max_tokens": 2048, "seed": 0}
    manifest = {
        "command": "python -m mede2_jax.evaluate",
        "config": config,
        "model": {"digest": f"sha256:{'ab' * 32}", "family": "qwen2_5_vl"},
        "engine": "vllm",
        "finished": True,
        "images": {"root": str(folder.resolve())},
        "failed": failed,
    }
    (folder / "rollouts.jsonl.manifest.json").write_text(json.dumps(manifest))
    out = folder / TASK / PROMPT
    out.parent.mkdir(parents=True, exist_ok=True)
    score([f"--task={TASK}", f"--data={data}", f"--responses={folder / 'rollouts.jsonl'}", f"--prompt={PROMPT}", f"--out={out}", *flags])
    return folder


def learner(skill, seed=0, words="The film shows it clearly."):
    """Replies that are right as often as `skill` says; some are cut, some hold no answer."""

    def reply(item, sample):
        draw = random.Random(f"{seed} {item.id} {sample}")
        luck = draw.random()
        letter = item.answer if draw.random() < skill else draw.choice([one for one in item.options if one != item.answer])
        if luck < 0.04:
            return f"<think>\n{words}\nIt may be {letter}, or", "length"
        if luck < 0.07:
            return f"<think>\n{words}\n</think>\nBoth of these could be meant, and the film does not tell."
        return answer(letter, words)

    return reply
