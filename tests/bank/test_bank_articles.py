"""Articles of PubMed Central become questions: what is shown of a case, what is left out and why, and what is refused."""

import pytest
from banking import bank, manifest, refused
from packages import BY, CASE, NC, SECOND, archive, article, picture

from mede2_jax.bank.__main__ import main


def package(folder, *, licence=BY, body=CASE + SECOND, files=None, name="PMC77", ids=None):
    content = article(body, licence=licence, ids=ids or f'<article-id pub-id-type="pmcid">{name}</article-id>')
    if files is None:
        files = {"fig-1.gif": picture(1, format="GIF"), **{f"fig-{number}.jpg": picture(number, format="JPEG") for number in (1, 2)}}
    archive(folder / f"{name}.tar.gz", name, {"a.nxml": content, **files})


def from_packages(folder, more=()):
    main(["--source=pmc", f"--data={folder}", f"--out={folder / 'out' / 'bank.jsonl'}", *more])
    return bank(folder / "out" / "bank.jsonl")


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "folder"])
def test_a_case_of_an_article_asks_for_the_diagnosis_and_gives_none_away(tmp_path, is_archive):
    if is_archive:
        package(tmp_path)
    else:
        (tmp_path / "PMC77").mkdir()
        for name, content in {"a.nxml": article(), "fig-1.jpg": picture(1, format="JPEG"), "fig-2.jpg": picture(2, format="JPEG")}.items():
            (tmp_path / "PMC77" / name).write_bytes(content)
    (question,) = from_packages(tmp_path)
    assert question.id == "pmc/PMC77" and question.licence == "CC-BY-4.0" and question.answer is None
    assert question.prompt[1].text == (
        "A man of 61 had a cough for three weeks, and lost weight.\nA radiograph was taken (Figure 1).\nWhat is the most likely diagnosis?"
    )
    kept = [(tmp_path / "out" / name).read_bytes() for name in question.images]
    assert kept == [picture(1, format="JPEG")], "the JPEG, and not the small GIF"
    assert question.metadata == {
        "case": "PMC77",
        "article": {"pmc": "PMC77", "title": "Lymphoma with a cough", "journal": "Cases of Ours", "year": "2024", "type": "case-report"},
        "captions": [{"label": "Figure 1", "caption": "Lymphoma, plainly."}],
        "rest": ["A biopsy showed lymphoma (Figure 2)."],
    }


def test_articles_without_a_case_to_take_are_counted_by_why(tmp_path):
    package(tmp_path)
    package(tmp_path, name="PMC1", licence=NC)
    package(tmp_path, name="PMC2", licence="")
    package(tmp_path, name="PMC3", body="<sec><title>Methods</title><p>We did.</p></sec>")
    package(tmp_path, name="PMC4", body="<sec><title>Case</title><p>No figure.</p></sec>")
    package(tmp_path, name="PMC5", body=CASE.replace("Lymphoma, plainly", "Reprinted with permission from X"))
    package(tmp_path, name="PMC6", files={})
    assert [question.id for question in from_packages(tmp_path)] == ["pmc/PMC77"]
    assert manifest(tmp_path / "out" / "bank.jsonl")["dropped"] == {
        "its licence (CC-BY-NC-ND) is none of --licences": 1,
        "no licence is stated, or none that is known": 1,
        "the article tells no case": 1,
        "the case points to no figure": 1,
        "a figure is from another work": 1,
        "a figure has no image file in the package": 1,
    }
    assert manifest(tmp_path / "out" / "bank.jsonl")["counts"]["questions"] == {"in": 7, "out": 1}


def test_an_archive_puts_nothing_anywhere(tmp_path):
    archive(tmp_path / "PMC77.tar.gz", "../../PMC77", {"a.nxml": article(), "../fig-1.png": picture(1), "fig-2.png": picture(2)})
    assert len(from_packages(tmp_path)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"PMC77.tar.gz", "out"} and not (tmp_path.parent / "PMC77").exists()


def broken_package(tmp_path):
    package(tmp_path)
    file = tmp_path / "PMC77.tar.gz"
    file.write_bytes(file.read_bytes()[:-300])


def two_articles(tmp_path):
    archive(tmp_path / "PMC77.tar.gz", "PMC77", {"a.nxml": article(), "b.nxml": article()})


def twice(tmp_path):
    (tmp_path / "b").mkdir()
    package(tmp_path)
    package(tmp_path / "b")


def no_xml(tmp_path):
    (tmp_path / "a.xml").write_text("no xml at all")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken_package, "PMC77.tar.gz cannot be read as an archive ("),
        (two_articles, "PMC77.tar.gz: an archive of PubMed Central holds one article, this one 2; take it out"),
        (no_xml, "a.xml is no XML (syntax error: line 1, column 0); take it out, or fetch it again"),
        (lambda path: package(path, ids="<x/>"), "has no <article-id> of type pmc, pmid or doi"),
        (twice, "the id 'pmc/PMC77' is also that of"),
        (lambda path: None, "no article in "),
    ],
    ids=["cut", "two articles", "no XML", "no id", "twice", "nothing"],
)
def test_a_package_that_cannot_be_used_is_one_line(tmp_path, make, said):
    make(tmp_path)
    assert said in refused(["--source=pmc", f"--data={tmp_path}", f"--out={tmp_path / 'out' / 'bank.jsonl'}"])
    assert not list((tmp_path / "out").glob("*.jsonl*"))
