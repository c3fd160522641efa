"""From what people said in Label Studio to records: judgments by people, which pair takes as it takes a judge's, or reviews."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mede2_jax import __version__
from mede2_jax.config import UserError
from mede2_jax.data.judged import difference
from mede2_jax.data.records import JudgedBy, Judgment, Record, Review
from mede2_jax.foreign import shown
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.outputs.publish import check_replaceable
from mede2_jax.outputs.together import Part, write_together
from mede2_jax.reasoning.judge_reply import Verdict
from mede2_jax.reasoning.remarks import MERITS
from mede2_jax.review.annotations import Opinion, read_opinions
from mede2_jax.review.config import ImportConfig
from mede2_jax.review.subjects import Subject, Subjects

COMMAND = "python -m mede2_jax.review import"


def bring_in(config: ImportConfig, console: Console) -> None:
    """Writes the reviews.

    Args:
        config: Of which export, and where to.
        console: Where to say what came out.

    Raises:
        UserError: Something the user gave cannot be used; what was there is as it was.
    """
    assert config.out is not None
    what = "judgments" if config.rollouts is not None else "reviews"
    check_replaceable(config.out, COMMAND, what)
    subjects = Subjects(config, lambda line: console.print(line, soft_wrap=True, markup=False))
    opinions, left = read_opinions(config.export, subjects.kind)
    if not opinions:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left.items()) or "nobody has annotated anything"
        raise UserError(f"there is no whole review in the export ({reasons})")
    records = list(_records(opinions, subjects))
    manifest = _manifest(config, subjects, opinions, left)
    write_together([Part(config.out, what, records)], [config.out], manifest, COMMAND, what)
    console.print(_table(opinions, left))
    console.print(f"{what + ':':11} {config.out}", soft_wrap=True, markup=False)


def _records(opinions: Sequence[Opinion], subjects: Subjects) -> Iterator[Record]:
    """In the order of the file that was reviewed; of one thing by the numbers of the people."""
    of: defaultdict[str, list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        if opinion.id not in subjects:
            raise UserError(
                f"{opinion.where}: reviews {shown(opinion.id)!r}, which is not in {subjects.path}; give the file that was exported"
            )
        of[opinion.id].append(opinion)
    for id in subjects:
        if id not in of:
            continue
        subject = subjects.read(id)
        for place, opinion in enumerate(sorted(of[id], key=lambda one: one.annotator)):
            if other := difference(opinion.of, subject.of):
                what = "another text" if other == "response" else "other images"
                raise UserError(f"{opinion.where}: people saw {what} than {shown(id)!r} has now in {subjects.path}; export it again")
            yield _judgment(opinion, subject, place) if subjects.kind == "response" else _review(opinion)


def _judgment(opinion: Opinion, subject: Subject, place: int) -> Judgment:
    verdicts: dict[str, Any] = {criterion: Verdict(met=met) for criterion, met in opinion.verdicts.items()}
    return Judgment(
        id=f"{opinion.id}@{_name(opinion)}",
        parents=(opinion.id,),
        metadata=_comment(opinion),
        question=subject.question,
        repeat=place,
        of=opinion.of,
        outcome="correct" if subject.outcome == "correct" else None,  # where rules say anything else, people decide
        judge=JudgedBy(engine="people", model=_name(opinion)),
        **verdicts,
    )


def _review(opinion: Opinion) -> Review:
    return Review(
        id=f"{opinion.id}@{_name(opinion)}",
        parents=(opinion.id,),
        metadata=_comment(opinion),
        of=opinion.of,
        annotator=_name(opinion),
        verdicts={merit: opinion.verdicts[merit] for merit in MERITS},
    )


def _name(opinion: Opinion) -> str:
    """Who it was: by the number that Label Studio has given, since a name or an address is nobody's business here."""
    return f"annotator-{opinion.annotator}"


def _comment(opinion: Opinion) -> dict[str, Any]:
    return {"comment": opinion.comment} if opinion.comment else {}


def _manifest(config: ImportConfig, subjects: Subjects, opinions: Sequence[Opinion], left: Counter[str]) -> dict[str, Any]:
    name = "rollouts" if subjects.kind == "response" else "demonstrations"
    return {
        "command": COMMAND,
        "config": config.model_dump(mode="json"),
        "export": [{"path": str(path.absolute()), "digest": file_digest(path)} for path in config.export],
        name: {"path": str(subjects.path.absolute()), "digest": file_digest(subjects.path)},
        "images": {"root": str(subjects.root.absolute())},
        "versions": {"mede2_jax": __version__},
        "finished": True,
        "counts": {
            "annotations": len(opinions) + left.total(),
            "reviews": len(opinions),
            f"{subjects.kind}s": len({one.id for one in opinions}),
        },
        "dropped": dict(left),
        "annotators": dict(sorted(Counter(map(_name, opinions)).items())),
    }


def _table(opinions: Sequence[Opinion], left: Counter[str]) -> Table:
    table = Table(title="reviews", show_header=False)
    table.add_row("annotations", f"{len(opinions) + left.total():,}")
    for reason, count in left.items():
        table.add_row("  left out", f"{count:,}: {reason}")
    table.add_row("  reviews", f"{len(opinions):,}")
    people = Counter(map(_name, opinions))
    for name, count in sorted(people.items()):
        table.add_row(f"    {name}", f"{count:,}")
    per = Counter(Counter(one.id for one in opinions).values())
    table.add_section()
    for number, count in sorted(per.items()):
        table.add_row(f"reviewed by {number}", f"{count:,}")
    return table
