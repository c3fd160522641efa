"""README and docs: links lead somewhere, commands have the options that they show, sentences are short, quoted errors are ours."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from mede2_jax.config import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = 30
"""Words of a sentence."""

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(text):
    """Without code, tables and targets of links."""
    text = re.sub(r"```.*?```", "\n", text, flags=re.S)
    text = re.sub(r"^(\||    ).*$", "\n", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]*`", "code", text))


def anchors(page):
    """Of its headings, as GitHub makes them."""
    lines = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@by_name
def test_links_and_anchors_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}; there are {sorted(anchors(file))}"


@by_name
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:docs|launch|tests|configs|mede2_jax)/[\w/.-]+)`", page.read_text("utf-8")):
        assert re.search(r"/[A-Z_-]+$", name) or (ROOT / name).exists(), name


def commands(page):
    """Each `python -m mede2_jax.NAME` of the blocks of code: NAME and its arguments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), flags=re.S)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        if found := re.search(r"python -m mede2_jax\.(\w+)(.*)", line):
            arguments = [part for part in shlex.split(found[2], comments=True) if not part.startswith("…")]
            if arguments:
                yield found[1], arguments


@by_name
def test_commands_have_the_options_that_are_shown(page, monkeypatch):
    """Each is given one option more, which no command has: it must be the only one that is unknown."""
    monkeypatch.chdir(ROOT)
    for name, arguments in commands(page):
        module = f"mede2_jax.{name}" if (ROOT / "mede2_jax" / f"{name}.py").exists() else f"mede2_jax.{name}.__main__"
        with pytest.raises(UserError) as raised:
            importlib.import_module(module).main([*arguments, "--no_such=1"])
        assert str(raised.value).startswith("unknown option '--no_such'"), f"{page.name}: {name} {' '.join(arguments)}: {raised.value}"


def test_readme_fits_in_150_lines():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@by_name
def test_sentences_are_short(page):
    blocks = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) |^#+ .*$", prose(page.read_text("utf-8")), flags=re.M)
    for block in blocks:
        for sentence in re.split(r"(?<=[.!?])\*{0,2}\s+", " ".join(block.split())):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            assert len(words) <= LONGEST, f"{len(words)} words: {sentence}"


def test_errors_that_a_page_quotes_are_those_of_the_package():
    said = []
    for path in sorted((ROOT / "mede2_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
            elif isinstance(node, ast.JoinedStr):  # what stands between its fields, and of two adjacent literals both
                said.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), flags=re.M)
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 30
    missing = [quote for quote in quoted if not any(quote in text for text in said)]
    assert not missing
