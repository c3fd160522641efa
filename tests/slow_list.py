"""The slow tests, by room and file, as docs/development.md lists them.

python tests/slow_list.py            prints the table
python tests/slow_list.py --write    puts it into the page
"""

import ast
import sys
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "development.md"
HEAD = "| room of tests/ | file (tests) |\n|---|---|\n"


def table():
    """As Markdown."""
    rooms = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if "fuzz/crashes" in path.as_posix() or not (said := slow_in(ast.parse(path.read_text("utf-8")))):
            continue
        rooms.setdefault(str(path.parent.relative_to(TESTS)), []).append(f"{path.stem.removeprefix('test_')} ({said})")
    return HEAD + "".join(f"| `{room}/` | {'; '.join(files)} |\n" for room, files in rooms.items())


def slow_in(module):
    """What of a file is slow: `all`, or its tests in words; empty: nothing."""
    marks = [node for node in module.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "pytestmark"]
    if any(is_slow(mark.value) for mark in marks):
        return "all"
    slow = [node.name for node in module.body if isinstance(node, ast.FunctionDef) and any(map(is_slow, node.decorator_list))]
    return ", ".join(name.removeprefix("test_").replace("_", " ") for name in slow)


def is_slow(node):
    return any(ast.unparse(part) == "pytest.mark.slow" for part in ast.walk(node) if isinstance(part, ast.Attribute))


def with_table(page):
    """The page with the table as it should be."""
    before, _, rest = page.partition(HEAD)
    lines = rest.splitlines(keepends=True)
    after = next(place for place, line in enumerate(lines) if not line.startswith("|"))
    return before + table() + "".join(lines[after:])


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
    else:
        print(table(), end="")
