"""Tables of scores: how many are right, by group, how they were read, what they are of, and how two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mede2_jax.config import counted
from mede2_jax.report.comparisons import Comparison
from mede2_jax.report.items import Content
from mede2_jax.report.peers import PEERS, PeerReading
from mede2_jax.report.scores import Board, Part, Score
from mede2_jax.report.tables import Cell, Table, between, cells, percent
from mede2_jax.statistics.intervals import wilson

ENDS = ("unparsed", "cut", "refused", "failed")


def scores_table(boards: Sequence[Board], base: str) -> Table:
    """One row a score; `base` is the model that gains are over."""
    rows, sections = [], []
    for board in boards:
        for score in board.scores:
            part, said = score.said.overall, score.said
            items = f"{part.items:,}" + (f" of {said.partial.of:,}" if said.partial else "")
            rows.append(
                cells(
                    Cell(score.model, "\n".join(score.notices), "bad" if score.notices else ""),
                    items,
                    right(part),
                    percent(part.accuracy),
                    between(part.interval),
                    *(f"{getattr(part, end):,}" for end in ENDS),
                    gain(board, score, base),
                )
            )
            sections.append(board.name)
    kinds = sorted({score.said.overall.interval_method for board in boards for score in board.scores} - {""})
    notes = [f"95% intervals: {'; '.join(kinds)}.", "Unparsed, failed, refused and cut replies stay in the denominator."]
    if len(rows) > 1:
        notes.append(f"Δ: points over {base}.")
    columns = ("model", "items", "correct", "%", "95% interval", *ENDS, "Δ")
    return Table("scores", "Scores", columns, tuple(rows), tuple(notes), tuple(sections))


def gain(board: Board, score: Score, base: str) -> str:
    """Points over another model of the board; nothing where it is not there, or is this one."""
    of_base = [one.said.overall.accuracy for one in board.scores if one.model == base]
    return "" if not of_base or score.model == base else f"{100 * (score.said.overall.accuracy - of_base[0]):+.2f}"


def right(part: Part) -> str:
    """k of n; of several samples an item, of all of these."""
    return f"{part.correct:,} of {part.samples:,}" + (" samples" if part.samples != part.items else "")


def group_tables(boards: Sequence[Board]) -> Iterator[Table]:
    """Of each board the scores of parts of the items, by the owner's columns."""
    for board in boards:
        names = list(dict.fromkeys(name for score in board.scores for name in score.said.by))
        rows, sections = [], []
        for name in names:
            for value in dict.fromkeys(value for score in board.scores for value in score.said.by.get(name, {})):
                parts = [score.said.by.get(name, {}).get(value) for score in board.scores]
                items = sorted({part.items for part in parts if part is not None})
                rows.append(cells(value or "(none)", "–".join(f"{one:,}" for one in items), *map(_part_cell, parts)))
                sections.append(name.replace("_", " "))
        if rows:
            columns = ("", "items", *(score.model for score in board.scores))
            yield Table(f"groups-{board.slug}", f"By group · {board.name}", columns, tuple(rows), sections=tuple(sections))


def _part_cell(part: Part | None) -> Cell:
    return Cell("–") if part is None else Cell(percent(part.accuracy), f"{right(part)}\n{between(part.interval)}")


def readings_table(contents: Sequence[Content], peers: Mapping[tuple[str, str], Mapping[str, PeerReading]]) -> Table:
    """How answers were read: steps of the rule, and what other harnesses make of the same replies."""
    rows, sections, notes = [], [], []
    for content in contents:
        for score in content.board.scores:
            said, part = score.said, score.said.overall
            steps = ", ".join(f"{step} {count:,}" for step, count in said.steps.items())
            owner = "" if said.owners_figure is None else percent(said.owners_figure)
            found = peers.get((content.board.slug, score.model), {})
            theirs = (_peer_cell(found.get(name), part) for name in PEERS)
            rows.append(cells(score.model, steps, *(f"{getattr(part, end):,}" for end in ENDS), percent(part.accuracy), owner, *theirs))
            sections.append(content.board.name)
            if said.difference_from_owner:
                notes.append(f"{content.board.name}: {said.difference_from_owner}")
    if any(score.said.owners_figure is not None for content in contents for score in content.board.scores):
        notes.append("The owner guesses a letter where nothing can be read; his figure is what he would print for these replies.")
    if peers:
        notes.append("MedEvalKit reads every reply: where it finds no answer, as the option whose text is most like it.")
        notes.append("VLMEvalKit is shown as it reads before it asks a judge.")
    columns = ("model", "read by", *ENDS, "%", "owner's figure", *PEERS)
    return Table("readings", "How answers were read", columns, tuple(rows), tuple(dict.fromkeys(notes)), tuple(sections), headings=2)


def _peer_cell(reading: PeerReading | None, ours: Part) -> Cell:
    if reading is None:
        return Cell("–")
    share = reading.correct / reading.samples
    difference = "" if reading.samples != ours.samples else f"\n{100 * (share - ours.correct / ours.samples):+.2f} to ours"
    unread = f"\n{reading.unread:,} not read" if reading.unread else ""
    return Cell(percent(share), f"{reading.correct:,} of {reading.samples:,}{difference}{unread}")


def comparisons_table(found: Sequence[Comparison]) -> Table:
    """Each pair of models."""
    rows = []
    for one in found:
        pair = f"{one.second} − {one.first}"
        if one.fault:
            rows.append(cells(pair, Cell("not comparable", one.fault, "bad"), *[""] * 6))
            continue
        interval = "" if one.interval is None else f"{100 * one.interval.low:+.2f} to {100 * one.interval.high:+.2f}"
        clear = one.holm is not None and one.holm < 0.05
        rows.append(
            cells(
                pair,
                f"{one.items:,}",
                Cell(f"{100 * one.difference:+.2f}", interval),
                "–" if one.only_first is None else f"{one.only_second:,} / {one.only_first:,}",
                Cell(_p(one.p), one.test),
                Cell(_p(one.holm), "significant at 5%" if clear else "not significant", "good" if clear else ""),
                "–" if one.detectable is None else f"{100 * one.detectable:.2f}",
                "–" if one.fewest is None else f"{one.fewest}",
            )
        )
    columns = ("models", "items", "points", "only 2nd / only 1st right", "p", "p (Holm)", "detectable", "fewest items")
    tests = sum(one.p is not None for one in found)
    notes = (
        f"p (Holm): corrected for {counted(tests, 'comparison')}, all that are shown here.",
        "detectable: the smallest true difference, in points, that this test finds four times of five, with so many items and as much "
        "disagreement.",
        "fewest items: the smallest net number of items that can be significant at 5%, if all that differ go one way.",
    )
    return Table("comparisons", "Models on the same items", columns, tuple(rows), notes, tuple(one.board.name for one in found))


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def samples_tables(boards: Sequence[Board]) -> Iterator[Table]:
    """pass@k and MV@k, where items have several samples."""
    for board in boards:
        some = [score for score in board.scores if score.said.at.pass_]
        ks = sorted({int(k) for score in some for k in score.said.at.pass_})
        rows: list[tuple[Cell, ...]] = []
        for score in some:
            at = score.said.at
            for name, values in (("pass@k", at.pass_), ("MV@k", at.majority)):
                found = [values.get(str(k)) for k in ks]
                curve = (Cell("–") if one is None else Cell(percent(one.value), between(one.interval)) for one in found)
                rows.append((Cell(score.model), Cell(name), *curve))
        if not rows:
            continue
        if chance := next((score.said.at.chance for score in some if score.said.at.chance), None):
            rows.append(cells("by chance", "pass@k", *(percent(chance[str(k)]) if str(k) in chance else "–" for k in ks)))
        columns = ("model", "", *(f"k = {k}" for k in ks))
        notes = ("MV@k shares ties: each of t winners counts 1/t. Both are exact means over all subsets of k samples.",)
        yield Table(f"samples-{board.slug}", f"Several samples · {board.name}", columns, tuple(rows), notes, headings=2)


def leakage_table(boards: Sequence[Board]) -> Table | None:
    """What was found of the benchmarks in training data; None where no score says."""
    rows, sections = [], []
    for board in boards:
        for score in board.scores:
            if (leakage := score.said.leakage) is None:
                continue
            without, all_of = leakage.without_touched, score.said.overall
            rows.append(
                cells(
                    score.model,
                    f"{len(leakage.touched):,} of {all_of.items:,}",
                    Cell(percent(all_of.accuracy), f"{right(all_of)}\n{between(all_of.interval)}"),
                    "–" if without is None else Cell(percent(without.accuracy), f"{right(without)}\n{between(without.interval)}"),
                    ", ".join(leakage.touched[:8]) + (", …" if len(leakage.touched) > 8 else ""),
                    "\n".join(
                        one.data.rpartition("/")[2] + ("" if one.same_files else " (another copy of the files)") for one in leakage.checked
                    ),
                )
            )
            sections.append(board.name)
    if not rows:
        return None
    columns = ("model", "touched items", "% of all", "% without them", "which", "data that were checked")
    notes = ("Training data were checked against these benchmarks; touched items have something of theirs in the training data.",)
    return Table("leakage", "Benchmark items in training data", columns, tuple(rows), notes, tuple(sections))


def proof_table(boards: Sequence[Board], files: Mapping[tuple[str, str], str]) -> Table:
    """What each score is of, by digests; `files` are the copies of score.json beside the page."""
    rows, sections = [], []
    for board in boards:
        for score in board.scores:
            said, sampled = score.said, score.said.sampled
            rows.append(
                cells(
                    score.model,
                    Cell(_model(said.responses.models, sampled)),
                    Cell(short(said.data.digest), ", ".join(name.rpartition("/")[2] for name in said.data.files)),
                    short(said.prompts.digest),
                    Cell(short(said.responses.digest), said.responses.path),
                    Cell(_sampling(sampled)),
                    Cell(f"rules {said.rules}", f"mede2_jax {said.version}"),
                    _file_cell(files.get((board.slug, score.model), "")),
                )
            )
            sections.append(board.name)
    columns = ("score", "model", "benchmark", "prompts", "replies", "sampling", "read by", "file")
    notes = ("Digests are SHA-256, the first twelve digits here; the files beside this page have all of them.",)
    return Table("proof", "What each score is of", columns, tuple(rows), notes, tuple(sections), headings=len(columns))


def _file_cell(path: str) -> Cell:
    return Cell(path.rpartition("/")[2], link=path)


def _model(models: Sequence[str], sampled: Mapping[str, Any]) -> str:
    model = sampled.get("model")
    digest = model.get("digest") if isinstance(model, Mapping) else None
    return short(digest) if isinstance(digest, str) else ", ".join(short(one) for one in models[:3]) or "not said"


def _sampling(sampled: Mapping[str, Any]) -> str:
    options = sampled.get("sampling")
    if not isinstance(options, Mapping):
        return "not said"
    names = ("n", "temperature", "top_p", "max_tokens", "seed")
    engine = sampled.get("engine")
    return ", ".join([*([str(engine)] if engine else []), *(f"{name} {options[name]}" for name in names if name in options)])


def short(digest: str) -> str:
    """The beginning of a digest; other texts as they are."""
    plain = digest.removeprefix("sha256:")
    return f"{plain[:12]}…" if len(plain) > 40 and all(one in "0123456789abcdef" for one in plain) else plain


def wilson_text(right_ones: int, total: int) -> str:
    """A share with its interval."""
    found = wilson(right_ones, total)
    return f"{percent(right_ones / total)} ({between([found.low, found.high])})"


def orders_table(boards: Sequence[Board]) -> Table | None:
    """Scores by order of the options; None where nobody shuffled them."""
    rows, sections, notes = [], [], []
    for board in boards:
        for score in board.scores:
            if (orders := score.said.shuffles) is None:
                continue
            for seed, part in orders.by_seed.items():
                order = f"seed {seed}" if seed.isdecimal() else seed
                rows.append(cells(score.model, order, right(part), percent(part.accuracy), between(part.interval)))
                sections.append(board.name)
            changed = orders.answers
            notes.append(
                f"{score.model}, {board.name}: the read answer of {changed.changed:,} of {changed.items:,} items changes with the order."
            )
    if not rows:
        return None
    columns = ("model", "options", "correct", "%", "95% interval")
    return Table("orders", "By order of the options", columns, tuple(rows), tuple(notes), tuple(sections), headings=2)


def judges_table(boards: Sequence[Board]) -> Table | None:
    """What judges of open answers decided, and how often they say what the rule says; None where there were none."""
    rows, sections = [], []
    for board in boards:
        for score in board.scores:
            judge = score.said.judge
            if judge is None or (not judge.responses and judge.agreement is None):
                continue
            agreed = judge.agreement
            rows.append(
                cells(
                    score.model,
                    Cell(judge.model or judge.api, judge.prompt.title),
                    f"{judge.responses - judge.failed:,}",
                    f"{judge.correct:,}",
                    f"{judge.failed:,}",
                    "–" if agreed is None else Cell(percent(agreed.agreement), f"of {agreed.responses:,}\n{between(agreed.interval)}"),
                    "–" if agreed is None or agreed.kappa is None else f"{agreed.kappa:.2f}",
                    "–" if agreed is None else f"{agreed.rule_only:,} / {agreed.judge_only:,}",
                )
            )
            sections.append(board.name)
    if not rows:
        return None
    columns = ("model", "judge", "decided", "as right", "failed", "% as the rule", "kappa", "only rule / only judge right")
    notes = ("The judge decides what the rule does not find right; the two are compared on answers that were drawn for it.",)
    return Table("judges", "Open answers, judged", columns, tuple(rows), notes, tuple(sections), headings=2)
