"""From scores and runs to a report."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import visible
from mede2_jax.report.cases import case_studies
from mede2_jax.report.comparisons import comparisons
from mede2_jax.report.config import ReportConfig
from mede2_jax.report.curves import training_figure
from mede2_jax.report.drawing import Figure, plain_text, saved
from mede2_jax.report.figures import score_figures
from mede2_jax.report.folder import INDEX, Folder
from mede2_jax.report.funnel import funnel_figure, read_funnel
from mede2_jax.report.items import Content, as_script
from mede2_jax.report.page import SCRIPTS, STYLE, Section, page, static
from mede2_jax.report.paper_tables import paper_tables
from mede2_jax.report.peers import PeerReading, peer_readings
from mede2_jax.report.people import people_figure
from mede2_jax.report.pictures import Pictures
from mede2_jax.report.score_tables import (
    comparisons_table,
    group_tables,
    leakage_table,
    proof_table,
    readings_table,
    samples_tables,
    scores_table,
)
from mede2_jax.report.scores import Board, read_boards, slug
from mede2_jax.report.tables import Table, comma_separated, markdown

Json = dict[str, Any]
PEER_SAMPLES = 64_000
"""Replies after which reading them as others do is told to take a while."""


def run(config: ReportConfig, console: Console) -> None:
    """Writes the report.

    Raises:
        UserError: What was given cannot be read, or the folder is no report's.
    """
    assert config.out is not None
    models, boards = read_boards(config.scores)
    with plain_text():
        runs = [figure for figure in (training_figure(config.runs),) if figure is not None]
        funnel = [figure for figure in (funnel_figure(read_funnel(config.funnel)),) if figure is not None]
        people = [figure for figure in (people_figure(config.judgments, config.people),) if figure is not None]
        drawn = list(score_figures(boards))
    papers = tuple(paper_tables(models, boards, config.base))
    folder = Folder(config.out)
    contents = _contents(boards, Pictures(folder, inside=config.single_file, max_image_pixels=config.max_image_pixels), console)
    sections = _sections(config, boards, contents, papers, drawn, runs, funnel, people, _files(folder, boards))
    _tables(folder, sections)
    sources = _figures(folder, sections, inside=config.single_file)
    inside = _items(folder, contents, inside=config.single_file)
    title = _title(models, boards)
    folder.write(INDEX, page(title, _notices(boards, contents), sections, sources, inside))
    if not config.single_file:
        for name in (STYLE, *SCRIPTS):
            folder.write(f"static/{name}", static(name))
    folder.finish()
    _show(config, sections, boards, console)


def _contents(boards: Sequence[Board], pictures: Pictures, console: Console) -> list[Content]:
    contents = []
    for board in boards:
        content = Content(board, pictures)
        for fault in content.faults:
            console.print(visible(fault), style="yellow", markup=False, highlight=False)
        contents.append(content)
    return contents


def _sections(
    config: ReportConfig,
    boards: Sequence[Board],
    contents: Sequence[Content],
    papers: tuple[Table, ...],
    drawn: Sequence[Figure],
    runs: Sequence[Figure],
    funnel: Sequence[Figure],
    people: Sequence[Figure],
    files: Mapping[tuple[str, str], str],
) -> list[Section]:
    """All parts of the page, those with nothing in them too."""
    found = comparisons(contents, seed=config.seed, resamples=config.resamples)
    leakage = leakage_table(boards)
    readings = readings_table(contents, _peers(contents) if config.peers else {})
    return [
        Section(
            "scores",
            "Scores",
            tables=(scores_table(boards, config.base or boards[0].scores[0].model),) if boards else (),
            folded=tuple(group_tables(boards)),
        ),
        Section("leakage", "Training data", tables=() if leakage is None else (leakage,)),
        Section(
            "comparisons",
            "Comparisons",
            "Two models on the same items: a difference is worth what its interval and its corrected p say.",
            (comparisons_table(found),) if found else (),
        ),
        Section("figures", "Figures", figures=tuple(drawn), folded=tuple(samples_tables(boards))),
        Section(
            "paper",
            "The paper's tables",
            "What the MedE² paper prints, with the count that each percentage is where there is one, and what was scored here beside it.",
            papers,
        ),
        Section("readings", "Readings", tables=(readings,) if boards else ()),
        Section("people", "Judge and people", figures=tuple(people)),
        Section("training", "Training", figures=tuple(runs)),
        Section("data", "Data", figures=tuple(funnel)),
        Section("cases", "Cases", cases=tuple(case_studies(contents, config.cases))),
        Section("proof", "Proof", tables=(proof_table(boards, files),) if boards else ()),
    ]


def _peers(contents: Sequence[Content]) -> dict[tuple[str, str], dict[str, PeerReading]]:
    found = {}
    for content in contents:
        for place, score in enumerate(content.board.scores):
            if readings := peer_readings(content, place):
                found[content.board.slug, score.model] = readings
    return found


def _files(folder: Folder, boards: Sequence[Board]) -> dict[tuple[str, str], str]:
    """A copy of each score.json, with all that this version does not know."""
    files: dict[tuple[str, str], str] = {}
    for board in boards:
        for place, score in enumerate(board.scores):
            name = f"scores/{board.slug}-{place + 1}-{slug(score.model)}.json"
            folder.write(name, json.dumps(score.raw, ensure_ascii=False, indent=1) + "\n")
            files[board.slug, score.model] = name
    return files


def _tables(folder: Folder, sections: Sequence[Section]) -> None:
    """Each table as Markdown and CSV."""
    for section in sections:
        of_figures = [figure.table for figure in section.figures if figure.table is not None]
        for table in (*section.tables, *section.folded, *of_figures):
            folder.write(f"tables/{slug(table.name)}.md", markdown(table))
            folder.write(f"tables/{slug(table.name)}.csv", comma_separated(table))


def _figures(folder: Folder, sections: Sequence[Section], *, inside: bool) -> dict[str, str]:
    """Each figure as PNG and SVG; returns where the page finds it."""
    sources: dict[str, str] = {}
    for section in sections:
        for figure in section.figures:
            files = saved(figure)
            for suffix, content in files.items():
                folder.write(f"figures/{slug(figure.name)}.{suffix}", content)
            svg = f"data:image/svg+xml;base64,{base64.b64encode(files['svg']).decode()}"
            sources[figure.name] = svg if inside else f"figures/{slug(figure.name)}.svg"
    return sources


def _items(folder: Folder, contents: Sequence[Content], *, inside: bool) -> Json | None:
    """The items' data, beside the page; or as the page is to have it."""
    kept: Json = {}

    def put(name: str, value: Any) -> None:
        if inside:
            kept[name] = value
        else:
            folder.write(f"data/{name}.js", f"mede2({as_script(name)},{as_script(value)});\n")

    put("index", {"boards": [content.board.name for content in contents]})
    for place, content in enumerate(contents):
        firsts, count = [], 0
        for number, piece in enumerate(content.pieces()):
            put(f"items-{place}-{number}", piece)
            firsts.append(count)
            count += len(piece)
        put(f"board-{place}", {**content.index(), "pieces": firsts})
        put(f"texts-{place}", content.texts())
    return kept if inside else None


def _title(models: Sequence[str], boards: Sequence[Board]) -> str:
    if not boards:
        return "Report"
    tasks = list(dict.fromkeys(board.title for board in boards))
    named = ", ".join(tasks[:3]) + (f" and {len(tasks) - 3} more" if len(tasks) > 3 else "")
    return f"{counted(len(models), 'model')} on {named}"


def _notices(boards: Sequence[Board], contents: Sequence[Content]) -> list[str]:
    told = []
    for board in boards:
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


def _show(config: ReportConfig, sections: Sequence[Section], boards: Sequence[Board], console: Console) -> None:
    assert config.out is not None
    table = RichTable("", "tables", "figures", title="report", title_justify="left", title_style="bold")
    for section in sections:
        if not section.is_empty:
            tables = len(section.tables) + len(section.folded)
            table.add_row(section.title, str(tables or ""), str(len(section.figures) or ""))
    table.add_row("Items", f"{sum(len({v.id for score in board.scores for v in score.verdicts}) for board in boards):,}", "")
    console.print(table)
    console.print(f"open {config.out / INDEX}", markup=False, soft_wrap=True)


def check_given(config: ReportConfig) -> None:
    """Refuses a report of nothing.

    Raises:
        UserError: It says what to give.
    """
    if config.out is None:
        raise UserError("missing --out: give --scores=FOLDER,FOLDER --out=FOLDER; see --help")
    if not (config.scores or config.runs or config.funnel or config.judgments):
        raise UserError("nothing to report: give --scores=FOLDER,FOLDER, --runs=FOLDER, --funnel=FILE,FILE or --judgments=FILE; see --help")
