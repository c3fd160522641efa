"""A labelled set: questions, changed copies of some of them, and others that are only like them."""

import io
import json
import random
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[2]
SYNONYMS = {
    **{
        "man": "gentleman",
        "woman": "lady",
        "pain": "discomfort",
        "has": "reports",
        "with": "accompanied by",
        "for": "over",
        "shows": "reveals",
    },
    **{"and": "as well as", "blood pressure": "BP", "years": "yr", "the": "this", "is": "appears", "no": "without any", "minute": "min"},
}


def radiograph(seed, *, size=(300, 260)):
    """A drawn chest, which differs from others in place, size, ribs and texture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]] / np.array(size)[:, None, None]
    (left, up), scale = rng.normal(0, 0.03, 2), rng.normal(1, 0.06)
    x, y = (columns - 0.5) * scale + 0.5 + left, (rows - 0.5) * scale + 0.5 + up
    lungs = sum(np.exp(-((x - place) ** 2 / 0.02 + (y - 0.45) ** 2 / 0.06)) for place in (0.3, 0.7))
    ribs = 12 * np.sin(y * 60 + rng.uniform(0, 6) + 3 * (x - 0.5) ** 2)
    texture = sum(gaussian_filter(rng.normal(0, 1, size), width) * width * weight for width, weight in ((4, 3), (12, 5), (40, 10)))
    grey = 80 - 60 * lungs + 90 * np.exp(-((x - 0.5) ** 2 / 0.004)) + ribs + texture
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def cropped(image, left, top, right, bottom):
    width, height = image.size
    return image.crop((round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom))))


def as_jpeg(image, quality=60):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


PICTURES = {
    "re-encoded": as_jpeg,
    "resized": lambda image: image.resize((image.width * 3 // 5, image.height * 3 // 5)),
    "cropped": lambda image: as_jpeg(cropped(image, 0.025, 0.025, 0.025, 0.025)),
    "cropped at one side": lambda image: cropped(image, 0.05, 0, 0, 0),
    "cropped at a corner": lambda image: cropped(image, 0, 0.04, 0.03, 0),
    "mirrored": ImageOps.mirror,
}


def spaced(stem):
    return re.sub(r"(\d) ?([A-Za-z%/])", r"\1  \2", stem).replace(", ", " , ").upper()


def reworded(stem):
    for word, other in SYNONYMS.items():
        stem = re.sub(rf"\b{word}\b", other, stem)
    return stem


TEXTS = {
    "spaced otherwise": lambda stem, options: (spaced(stem), options),
    "reordered": lambda stem, options: (stem, list(reversed(options))),
    "with a typing error": lambda stem, options: (stem.replace("e", "", 1), options),
    "reworded": lambda stem, options: (reworded(stem), options),
}


def stems():
    """Sixty-nine stems of our own, with the right answer and others."""
    for item in json.loads((ROOT / "data" / "bank" / "questions.json").read_text("utf-8")):
        yield f"{item['stem']} {item['question']}", [item["answer"], *(name for name, _ in item["differential"])]


def question(id, stem, options, right, images=()):
    lettered = dict(zip("ABCDE", options, strict=False))
    text = f"{stem}\nAnswer Choices: {' '.join(f'({letter}) {option}' for letter, option in lettered.items())}"
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}] if images else text
    answer = next(letter for letter, option in lettered.items() if option == right)
    return {"id": id, "prompt": [{"role": "user", "content": content}], "images": list(images), "options": lettered, "answer": answer}


def originals(folder):
    """The questions that are changed: each of our stems as text, and with a picture."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (stem, options) in enumerate(stems()):
        yield number, "", question(f"t{number}", stem, options, options[0]), (stem, options)
        image = f"images/{number}.png"
        radiograph(number).save(folder / image)
        yield number, image, question(f"m{number}", f"{stem} The film is shown.", options, options[0], [image]), (stem, options)


def changed(folder, rng=None):
    """Changed copies of the originals, as (kind, id of the original, question)."""
    rng = rng or random.Random(5)
    for number, image, original, (stem, options) in list(originals(folder)):
        kind = list(TEXTS)[number % len(TEXTS)]
        said, ordered = TEXTS[kind](stem, options)
        if not image:
            yield kind, original["id"], question(f"copy-{original['id']}", said, ordered, options[0])
            continue
        how = list(PICTURES)[number % len(PICTURES)]
        kept = f"images/{number}-changed.{'jpg' if number % 2 else 'png'}"
        PICTURES[how](Image.open(folder / image)).convert("L").save(folder / kept)
        said = f"{reworded(stem) if number % 7 == 0 else spaced(stem)} The film is shown."
        kind = "reworded" if number % 7 == 0 else how
        yield kind, original["id"], question(f"copy-{original['id']}", said, rng.sample(options, len(options)), options[0], [kept])


def others(folder):
    """Questions that are like the originals and are none of them."""
    stems_of = list(stems())
    for number, (stem, options) in enumerate(stems_of):
        before = stem.rpartition(". ")[0]
        # The same patient, asked something else.
        yield question(
            f"else-{number}", f"{before}. What is the best next step?", ["Wait", "Operate", "Give fluids", f"Treat {number}"], "Operate"
        )
        # The same words with another picture, and the same picture with other words.
        image = f"images/other-{number}.png"
        radiograph(1000 + number).save(folder / image)
        yield question(f"film-{number}", f"{stem} The film is shown.", options, options[0], [image])
        other = stems_of[(number + 1) % len(stems_of)]
        yield question(f"words-{number}", f"{other[0]} Look at the film.", other[1], other[1][0], [f"images/{number}.png"])
