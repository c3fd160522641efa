"""From scores and runs to a report."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import visible
from mede2_jax.report.config import ReportConfig
from mede2_jax.report.drawing import plain_text, saved
from mede2_jax.report.folder import INDEX, Folder
from mede2_jax.report.items import Content, as_script
from mede2_jax.report.page import SCRIPTS, STYLE, Section, page, static
from mede2_jax.report.paper_tables import paper_tables
from mede2_jax.report.pictures import Pictures
from mede2_jax.report.scores import Board, read_boards, slug
from mede2_jax.report.sections import draw, notices, sections
from mede2_jax.report.tables import comma_separated, markdown

Json = dict[str, Any]


def run(config: ReportConfig, console: Console) -> None:
    """Writes the report.

    Raises:
        UserError: What was given cannot be read, or the folder is no report's.
    """
    assert config.out is not None
    models, boards = read_boards(config.scores)
    with plain_text():
        drawn = draw(config, boards)
        papers = tuple(paper_tables(models, boards, config.base))
        folder = Folder(config.out)  # from here on something is written
        contents = _contents(config, boards, folder, console)
        parts = sections(config, models, contents, drawn, papers, _files(folder, boards))
    _tables(folder, parts)
    sources = _figures(folder, parts, inside=config.single_file)
    inside = _items(folder, contents, inside=config.single_file)
    folder.write(INDEX, page(_title(models, boards), notices(contents), parts, sources, inside, has_items=bool(boards)))
    if not config.single_file:
        for name in (STYLE, *SCRIPTS):
            folder.write(f"static/{name}", static(name))
    folder.finish()
    _show(config, parts, contents, console)


def _contents(config: ReportConfig, boards: Sequence[Board], folder: Folder, console: Console) -> list[Content]:
    contents = []
    pictures = Pictures(folder, inside=config.single_file, max_image_pixels=config.max_image_pixels)
    for board in boards:
        content = Content(board, pictures, config.image_root)
        for fault in content.faults:
            console.print(visible(fault), style="yellow", markup=False, highlight=False)
        contents.append(content)
    return contents


def _files(folder: Folder, boards: Sequence[Board]) -> dict[tuple[str, str], str]:
    """A copy of each score.json, with all that this version does not know."""
    files: dict[tuple[str, str], str] = {}
    for board in boards:
        for place, score in enumerate(board.scores):
            name = f"scores/{board.slug}-{place + 1}-{slug(score.model)}.json"
            folder.write(name, json.dumps(score.raw, ensure_ascii=False, indent=1) + "\n")
            files[board.slug, score.model] = name
    return files


def _tables(folder: Folder, parts: Sequence[Section]) -> None:
    """Each table as Markdown and CSV."""
    for section in parts:
        of_figures = [figure.table for figure in section.figures if figure.table is not None]
        for table in (*section.tables, *section.folded, *of_figures):
            folder.write(f"tables/{slug(table.name)}.md", markdown(table))
            folder.write(f"tables/{slug(table.name)}.csv", comma_separated(table))


def _figures(folder: Folder, parts: Sequence[Section], *, inside: bool) -> dict[str, str]:
    """Each figure as PNG and SVG; returns where the page finds it."""
    sources: dict[str, str] = {}
    for section in parts:
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


def _show(config: ReportConfig, parts: Sequence[Section], contents: Sequence[Content], console: Console) -> None:
    assert config.out is not None
    table = RichTable("", "tables", "figures", title="report", title_justify="left", title_style="bold")
    for section in parts:
        if not section.is_empty:
            tables = len(section.tables) + len(section.folded)
            table.add_row(section.title, str(tables or ""), str(len(section.figures) or ""))
    table.add_row("Items", f"{sum(len(content.ids) for content in contents):,}", "")
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
