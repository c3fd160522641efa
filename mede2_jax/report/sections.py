"""The parts of a report, in the order in which one reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mede2_jax.report.cases import case_studies
from mede2_jax.report.comparisons import comparisons
from mede2_jax.report.config import ReportConfig
from mede2_jax.report.curves import training_figure
from mede2_jax.report.drawing import Figure
from mede2_jax.report.figures import score_figures
from mede2_jax.report.funnel import funnel_figure, read_funnel
from mede2_jax.report.items import Content
from mede2_jax.report.page import Section
from mede2_jax.report.peers import PeerReading, peer_readings
from mede2_jax.report.people import people_figure
from mede2_jax.report.score_tables import (
    comparisons_table,
    group_tables,
    judges_table,
    leakage_table,
    orders_table,
    proof_table,
    readings_table,
    samples_tables,
    scores_table,
)
from mede2_jax.report.scores import Board
from mede2_jax.report.tables import Table


@dataclasses.dataclass(frozen=True)
class Drawn:
    """All figures."""

    scores: tuple[Figure, ...]
    runs: tuple[Figure, ...]
    funnel: tuple[Figure, ...]
    people: tuple[Figure, ...]


def draw(config: ReportConfig, boards: Sequence[Board]) -> Drawn:
    """Draws what the files that were given permit.

    Raises:
        UserError: One of them cannot be read.
    """
    runs, funnel = training_figure(config.runs), funnel_figure(read_funnel(config.funnel))
    people = people_figure(config.judgments, config.people)
    return Drawn(tuple(score_figures(boards)), *(() if one is None else (one,) for one in (runs, funnel, people)))


def sections(
    config: ReportConfig,
    models: Sequence[str],
    contents: Sequence[Content],
    drawn: Drawn,
    papers: tuple[Table, ...],
    files: Mapping[tuple[str, str], str],
) -> list[Section]:
    """All parts of the page, those with nothing in them too.

    Args:
        config: What is wanted.
        models: Their names, in order.
        contents: The boards with their items.
        drawn: The figures.
        papers: The paper's tables with ours.
        files: The copy of each score.json, by board and model.
    """
    boards = [content.board for content in contents]
    found = comparisons(contents, seed=config.seed, resamples=config.resamples)
    leakage = leakage_table(boards)
    readings = readings_table(contents, _peers(contents) if config.peers else {})
    scores = (scores_table(boards, config.base or models[0]),) if boards else ()
    return [
        Section("scores", "Scores", tables=scores, folded=tuple(group_tables(boards))),
        Section("leakage", "Training data", tables=() if leakage is None else (leakage,)),
        Section(
            "comparisons",
            "Comparisons",
            "Two models on the same items: a difference is worth what its interval and its corrected p say.",
            (comparisons_table(found),) if found else (),
        ),
        Section("figures", "Figures", figures=drawn.scores, folded=tuple(samples_tables(boards))),
        Section(
            "paper",
            "The paper's tables",
            "What the MedE² paper prints, with the count that each percentage is where there is one, and what was scored here beside it.",
            papers,
        ),
        Section(
            "readings", "Readings", tables=tuple(one for one in (readings, judges_table(boards), orders_table(boards)) if boards and one)
        ),
        Section("people", "Judge and people", figures=drawn.people),
        Section("training", "Training", figures=drawn.runs),
        Section("data", "Data", figures=drawn.funnel),
        Section("cases", "Cases", cases=tuple(case_studies(contents, config.cases))),
        Section("proof", "Proof", tables=(proof_table(boards, files),) if boards else ()),
    ]


def notices(contents: Sequence[Content]) -> list[str]:
    """What has to be known before a score is cited."""
    told = []
    for content in contents:
        board = content.board
        for notice in dict.fromkeys(notice for score in board.scores for notice in score.notices.values()):
            models = [score.model for score in board.scores if notice in score.notices.values()]
            of = "" if len(models) == len(board.scores) else f"{', '.join(models)}, "
            told.append(f"{of}{board.name}: {notice}")
        digests = {score.said.prompts.digest for score in board.scores if score.said.prompts.digest}
        rules = {score.said.rules for score in board.scores}
        if len(digests) > 1 and not any(score.said.partial for score in board.scores):
            told.append(f"{board.name}: the models were not asked in the same words, or shown the same images (digests of prompts differ)")
        if len(rules) > 1:
            told.append(f"{board.name}: replies were read by several versions of the rules ({', '.join(map(str, rules))})")
    return [*told, *(fault for content in contents for fault in content.faults)]


def _peers(contents: Sequence[Content]) -> dict[tuple[str, str], dict[str, PeerReading]]:
    found = {}
    for content in contents:
        for place, score in enumerate(content.board.scores):
            if readings := peer_readings(content, place):
                found[content.board.slug, score.model] = readings
    return found
