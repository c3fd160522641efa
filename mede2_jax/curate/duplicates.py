"""Questions that are there twice: the same text and the same pictures, though spaced, ordered, written or cut otherwise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mede2_jax.curate.candidates import Bank, Known
from mede2_jax.curate.config import DuplicateOptions
from mede2_jax.curate.texts import TextIndex, same_answer, share_options, similarity
from mede2_jax.curate.verdict import Dropped, Step

EXACT, NEAR = "the same as another", "nearly the same as another"
Alike = Mapping[int, Mapping[int, float]]


def find_duplicates(bank: Bank, numbers: Sequence[int], options: DuplicateOptions) -> Step:
    """Of questions that are there several times all but the first.

    With images both text and images must be alike, without any the text and most options; and two that are known to have different answers
    are different questions. They hang together all the same, and so do those that share a picture: `together` says so for the split.

    Args:
        bank: All questions.
        numbers: Of those that are looked at, in their order.
        options: What counts as alike.
    """
    alike = bank.alike(options.image_distance)
    step = Step("duplicates")
    texts, by_image = TextIndex(options.similarity), defaultdict[int, list[int]](list)
    for number in numbers:
        known = bank.questions[number]
        if known.images:
            near = {image: None for one in known.images for image in (one, *alike.get(one, ()))}
            others = list(dict.fromkeys(other for image in near for other in by_image[image]))
            found = [(other, similarity(known.text, bank.questions[other].text)) for other in others]
        else:
            found = texts.like(known.text)
        step.together += [(number, other) for other, _ in found]
        if (match := _first(bank, known, found, alike, options)) is not None:
            step.dropped[number] = match
            continue
        for image in known.images:
            by_image[image].append(number)
        if not known.images:
            texts.add(number, known.text)
    return step


def _first(bank: Bank, known: Known, found: Sequence[tuple[int, float]], alike: Alike, options: DuplicateOptions) -> Dropped | None:
    """The first of the questions found of which one is a duplicate."""
    for number, share in found:
        other = bank.questions[number]
        if share < options.similarity or not share_options(known.text, other.text) or not same_answer(known.text, other.text):
            continue
        distance = _distance(known.images, other.images, alike)
        if distance is None:
            continue
        is_exact = share == 1.0 and known.images == other.images
        return Dropped(
            EXACT if is_exact else NEAR, by=other.id, similarity=round(share, 4), distance=round(distance, 4) if known.images else None
        )
    return None


def _distance(images: Sequence[int], others: Sequence[int], alike: Alike) -> float | None:
    """How far the most different of two questions' images are apart, taken in their order; None: they are other images."""
    if len(images) != len(others):
        return None
    shares = [0.0 if one == other else alike.get(one, {}).get(other) for one, other in zip(images, others, strict=True)]
    return None if None in shares else max((share for share in shares if share is not None), default=0.0)
