"""Tables as Markdown and CSV: what stands in a cell is text there too."""

import csv
import io

import pytest

from mede2_jax.report.tables import Cell, Table, cells, comma_separated, markdown

TABLE = Table(
    "t",
    "A title",
    ("model", "%"),
    (cells("one", Cell("25.00", "3 of 12\n8.89–53.23")), cells("a|b *c* <d>\n# e", "–")),
    ("A note with [a](link).",),
    ("first", "second"),
)


def test_markdown():
    assert markdown(TABLE).splitlines() == [
        "### A title",
        "",
        "| model | % |",
        "| --- | ---: |",
        "| *first* |  |",
        "| one | 25.00<br>3 of 12<br>8.89–53.23 |",
        "| *second* |  |",
        "| a\\|b \\*c\\* \\<d\\> \\# e | – |",
        "",
        "- A note with \\[a\\]\\(link\\).",
    ]


def test_csv_has_details_in_columns_of_their_own():
    rows = list(csv.reader(io.StringIO(comma_separated(TABLE))))
    assert rows[0] == ["part", "model", "%", "% (detail)"]
    assert rows[1] == ["first", "one", "25.00", "3 of 12; 8.89–53.23"]
    assert rows[2] == ["second", "a|b *c* <d>\n# e", "–", ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("+2.85", "+2.85"),
        ("-6.72", "-6.72"),
        ("-25.00 to +10.00", "-25.00 to +10.00"),
        ("+Stage-I", "'+Stage-I"),
        ("\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_no_cell_is_a_formula_or_moves_a_terminal(text, expected):
    table = Table("t", "T", ("a",), (cells(text),))
    assert list(csv.reader(io.StringIO(comma_separated(table))))[1] == [expected]
