"""An article in JATS, the XML of PubMed Central: what it is, its licence, its figures, and the cases that it tells.

Tags and attributes are those of the JATS Archiving and Interchange Tag Set, of which PMC's files are. No entity that a file declares is
expanded, and nothing is fetched: a file of strangers may not make this program read or grow at will.
"""

from __future__ import annotations

import dataclasses
import html.entities
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from mede2_jax.bank.licences import licence
from mede2_jax.config import UserError
from mede2_jax.foreign import shown

_HREF = "{http://www.w3.org/1999/xlink}href"
_LICENCE_REF = "{http://www.niso.org/schemas/ali/1.0/}license_ref"
_CASE = re.compile(r"^(?:\W*|\d[\d.]*\s*)(?:the\s+)?(?:clinical\s+)?(?:case|patient)\b(?!\s*[- ](?:control|series))", re.I)
_ONE_CASE = re.compile(r"^\W*(?:case|patient)\s*(?:no\.?\s*|#)?(?:\d+|[ivx]+|[a-h])\b", re.I)
_OF_ANOTHER = re.compile(
    r"\b(?:reproduced|reprinted|adapted|modified)\b.{0,40}\b(?:permission|from|of)\b|\btaken from\b|\bused with (?:kind )?permission\b"
    r"|\bcourtesy of\b|©|\(c\)\s*\d{4}",
    re.I,
)
_LEFT_OUT = ("fig", "fig-group", "table-wrap", "table-wrap-group", "supplementary-material", "disp-formula", "boxed-text", "media")
"""What stands between or within paragraphs and is no part of their text."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure."""

    id: str
    label: str
    caption: str
    graphics: tuple[str, ...]
    """Names of its image files, mostly without their suffix."""
    of_another: bool
    """Whether it is under a licence of its own, or says that it comes from another work."""


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph, and the figures that it points to, in order."""

    text: str
    figures: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Article:
    """An article."""

    ids: dict[str, str]
    """Kind to id: pmc, pmid, doi."""
    title: str
    journal: str
    year: str
    kind: str
    """JATS's article-type, such as `case-report`."""
    licence: str
    """Its SPDX name; empty: none that is known."""
    figures: dict[str, Figure]
    """By id."""
    cases: tuple[tuple[Paragraph, ...], ...]
    """Of each case its paragraphs, in order."""


def read_article(data: bytes, where: str) -> Article:
    """Reads an article.

    Args:
        data: The file.
        where: Names it.

    Raises:
        UserError: It is no XML, declares entities, or is no article.
    """
    root = _parse(data, where)
    article = root if root.tag == "article" else root.find(".//article")
    front = article.find("front") if article is not None else None
    if article is None or front is None:
        raise UserError(f"{where}: no <article> with a <front> in it, but <{shown(str(root.tag))}>; this is no article in JATS")
    meta = front.find("article-meta")
    meta = front if meta is None else meta
    body = article.find("body")
    return Article(
        ids=_ids(meta),
        title=_text(meta.find("title-group/article-title")),
        journal=_text(front.find(".//journal-title")),
        year=_text(meta.find("pub-date/year")),
        kind=article.get("article-type", ""),
        licence=_licence(meta.find("permissions")),
        figures={figure.id: figure for figure in map(_figure, article.iter("fig")) if figure.id},
        cases=tuple(_cases(body)) if body is not None else (),
    )


def _ids(meta: ET.Element) -> dict[str, str]:
    kinds = {"pmcid": "pmc"}  # PMC's new name for it
    said = ((one.get("pub-id-type", ""), _text(one)) for one in meta.findall("article-id"))
    return {kinds.get(kind, kind): text for kind, text in said if text}


def _parse(data: bytes, where: str) -> ET.Element:
    if b"<!ENTITY" in data:
        raise UserError(f"{where}: it declares entities of its own, which articles of PubMed Central do not; take them out")
    parser = ET.XMLParser()
    parser.entity.update(html.entities.entitydefs)  # those of the DTD that files name, which is not read
    try:
        parser.feed(data)
        return parser.close()
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{where} is no XML ({shown(str(error))}); take it out, or fetch it again") from None


def _licence(permissions: ET.Element | None) -> str:
    if permissions is None:
        return ""
    texts = []
    for one in [*permissions.iter("license"), *permissions.iter(_LICENCE_REF)]:
        texts += [_text(one), *(value for part in one.iter() for name, value in part.attrib.items() if name in (_HREF, "license-type"))]
    return licence(texts)


def _figure(figure: ET.Element) -> Figure:
    caption = " ".join(_text(one) for one in (*figure.findall("caption"), *figure.findall("attrib")))
    permissions = figure.find("permissions")
    return Figure(
        id=figure.get("id", ""),
        label=_text(figure.find("label")),
        caption=caption,
        graphics=tuple(dict.fromkeys(href for one in figure.iter("graphic") if (href := one.get(_HREF, "")))),
        of_another=permissions is not None or bool(_OF_ANOTHER.search(caption)),
    )


def _cases(body: ET.Element) -> Iterator[tuple[Paragraph, ...]]:
    """Sections that tell a case: by their type, or by how their title begins; one that holds `Case 1`, `Case 2`, … is several."""
    for section in body.findall("sec"):
        if not {"case", "cases"} & set(section.get("sec-type", "").split("|")) and not _CASE.match(_title(section)):
            continue
        several = [part for part in section.findall("sec") if _ONE_CASE.match(_title(part))]
        for part in several or [section]:
            if paragraphs := tuple(_paragraphs(part)):
                yield paragraphs


def _title(section: ET.Element) -> str:
    return _text(section.find("title"))


def _paragraphs(element: ET.Element) -> Iterator[Paragraph]:
    for child in element:
        if child.tag == "p":
            text = _prose(child)
            if text:
                yield Paragraph(text, tuple(dict.fromkeys(_cited(child))))
        elif child.tag not in (*_LEFT_OUT, "title", "label"):
            yield from _paragraphs(child)


def _cited(paragraph: ET.Element) -> Iterator[str]:
    for reference in paragraph.iter("xref"):
        if reference.get("ref-type") == "fig":
            yield from reference.get("rid", "").split()


def _prose(paragraph: ET.Element) -> str:
    """The text without figures, tables and the numbers of references."""

    def pieces(element: ET.Element) -> Iterator[str]:
        yield element.text or ""
        for child in element:
            is_reference = child.tag == "xref" and child.get("ref-type") == "bibr"
            if child.tag not in _LEFT_OUT and not is_reference and isinstance(child.tag, str):
                yield from pieces(child)
            yield child.tail or ""

    text = " ".join("".join(pieces(paragraph)).split())
    text = re.sub(r"\s*[\[(][\s,;–-]*[\])]", "", text)  # brackets around references
    return re.sub(r"\s+([.,;:])", r"\1", text)


def _text(element: ET.Element | None) -> str:
    return " ".join("".join(element.itertext()).split()) if element is not None else ""
