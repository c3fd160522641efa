"""Articles in JATS: what is read of them, and what may not be."""

import pytest
from packages import BY, CASE, NC, SECOND, article

from mede2_jax.bank.jats import read_article
from mede2_jax.config import UserError


def read(*arguments, **options):
    return read_article(article(*arguments, **options), "a.nxml")


def test_an_article_is_read():
    found = read()
    assert (found.ids, found.title, found.journal, found.year) == ({"pmc": "PMC77"}, "Lymphoma with a cough", "Cases of Ours", "2024")
    assert (found.kind, found.licence) == ("case-report", "CC-BY-4.0")
    assert {name: (figure.label, figure.graphics, figure.of_another) for name, figure in found.figures.items()} == {
        "f1": ("Figure 1", ("fig-1",), False),
        "f2": ("Figure 2", ("fig-2",), False),
    }
    (case,) = found.cases
    assert [paragraph.text for paragraph in case] == [
        "A man of 61 had a cough for three weeks, and lost weight.",
        "A radiograph was taken (Figure 1).",
        "A biopsy showed lymphoma (Figure 2).",
    ]
    assert [paragraph.figures for paragraph in case] == [(), ("f1",), ("f2",)]


@pytest.mark.parametrize(
    ("title", "count"),
    [
        ("Case presentation", 1),
        ("2. Case Report", 1),
        ("Clinical case", 1),
        ("The patient", 1),
        ("Patient information", 1),
        ("Case-control analysis", 0),
        ("Discussion", 0),
        ("In this case we learn", 0),
    ],
)
def test_a_case_is_known_by_its_title(title, count):
    assert len(read(f"<sec><title>{title}</title><p>One.</p></sec>").cases) == count


def test_several_cases_are_several():
    parts = "".join(f"<sec><title>Case {number}</title><p>Of {number}.</p></sec>" for number in (1, 2))
    found = read(f"<sec><title>Case reports</title><p>Two.</p>{parts}<sec><title>Case summary</title><p>Both.</p></sec></sec>")
    assert [[paragraph.text for paragraph in case] for case in found.cases] == [["Of 1."], ["Of 2."]]


def test_paragraphs_of_sections_within_are_those_of_the_case():
    found = read(
        "<sec><title>Case</title><p>A.</p><sec><title>History</title><p>B.</p></sec><list><list-item><p>C.</p></list-item></list></sec>"
    )
    assert [paragraph.text for paragraph in found.cases[0]] == ["A.", "B.", "C."]


@pytest.mark.parametrize(
    ("within", "licence"),
    [
        (BY, "CC-BY-4.0"),
        (NC, "CC-BY-NC-ND"),
        ("<license><ali:license_ref>https://creativecommons.org/licenses/by-nc/4.0/</ali:license_ref></license>", "CC-BY-NC-4.0"),
        (
            '<license><license-p><ext-link xlink:href="http://creativecommons.org/licenses/by/3.0"/></license-p></license>',
            "CC-BY-3.0",
        ),
        ("<copyright-statement>© 2024 A Publisher</copyright-statement>", ""),
        ("", ""),
    ],
)
def test_a_licence_is_where_articles_have_it(within, licence):
    assert read(licence=within).licence == licence


@pytest.mark.parametrize(
    ("within", "is_anothers"),
    [
        ("<caption><p>A scan.</p></caption>", False),
        ("<caption><p>Reproduced with permission from Smith et al.</p></caption>", True),
        ("<caption><p>A scan.</p></caption><attrib>Courtesy of the museum</attrib>", True),
        ("<caption><p>A scan.</p></caption><permissions><copyright-statement>© 1999</copyright-statement></permissions>", True),
        ("<caption><p>Used with permission of the publisher.</p></caption>", True),
        ("<caption><p>Taken from an atlas.</p></caption>", True),
        ("<caption><p>The contrast was used in the left arm of the patient.</p></caption>", False),
        ("<caption><p>A radiograph taken on day 2 of admission.</p></caption>", False),
        ("<caption><p>Shown with the permission of the patient.</p></caption>", False),
    ],
)
def test_a_figure_of_another_work_is_known(within, is_anothers):
    assert read(CASE + f'<fig id="f2">{within}<graphic xlink:href="x"/></fig>').figures["f2"].of_another is is_anothers


def test_entities_of_html_are_read_and_declared_ones_are_not():
    assert read(CASE.replace("cough", "cough&nbsp;&eacute;") + SECOND).cases[0][0].text.startswith("A man of 61 had a cough é")
    bomb = article().replace(b'1-3.dtd">', b'1-3.dtd" [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>')
    with pytest.raises(UserError, match=r"^a.nxml: it declares entities of its own"):
        read_article(bomb, "a.nxml")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no xml", "a.nxml is no XML (syntax error"),
        (b"", "a.nxml is no XML (no element found"),
        (b"<article><front>", "a.nxml is no XML (no element found"),
        (b"<html><body/></html>", "a.nxml: no <article> with a <front> in it, but <html>"),
        (b"<article/>", "a.nxml: no <article> with a <front> in it, but <article>"),
        (b'<?xml version="1.0" encoding="nonsense"?><article/>', "a.nxml is no XML (unknown encoding"),
        (b"<article>\x1b[2J&#27;</article>", "a.nxml is no XML ("),
    ],
)
def test_what_is_no_article_is_one_line(data, said):
    with pytest.raises(UserError) as fault:
        read_article(data, "a.nxml")
    assert str(fault.value).startswith(said) and "\n" not in str(fault.value)
