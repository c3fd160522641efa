"""Cases of PubMed Central's open-access packages, as questions without an answer.

A package is a folder, or an archive `PMC….tar.gz`, with an article in JATS and the image files of its figures. Of each case that the
article tells the question shows what is told up to the first paragraph that points to a figure, and these figures, and asks for the
diagnosis. Neither title nor captions are shown or taken for an answer: most give it away, and none was written as one. They are kept in
`metadata`, with the rest of the case, for whoever writes the answer.
"""

from __future__ import annotations

import dataclasses
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mede2_jax.bank.candidate import Candidate, Source
from mede2_jax.bank.jats import Article, Figure, Paragraph, read_article
from mede2_jax.bank.tables import PMC
from mede2_jax.config import UserError
from mede2_jax.data.images import MAX_FILE_BYTES
from mede2_jax.data.questions import CASE
from mede2_jax.data.records import ImagePart, Message, Part, TextPart
from mede2_jax.foreign import shown
from mede2_jax.reasoning.prompts import DIAGNOSIS, SYSTEM
from mede2_jax.tasks.asking import ItemImage

NO_CASE, NO_FIGURE, ANOTHERS = "the article tells no case", "the case points to no figure", "a figure is from another work"
NO_FILE = "a figure has no image file in the package"
_ARTICLES, _ARCHIVES = (".nxml", ".xml"), (".tar.gz", ".tgz")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".gif")
"""Of figures, the best first: of one graphic a package may hold a small GIF beside the JPEG."""


def open_packages(data: Path) -> Source:
    """Packages: one, or all in a folder.

    Raises:
        UserError: There is none.
    """
    found = sorted(data.rglob("*")) if data.is_dir() else [data]
    files = tuple(path for path in found if path.name.lower().endswith((*_ARTICLES, *_ARCHIVES)) and path.is_file())
    if not files:
        raise UserError(
            f"no article in {str(data)!r}: looked for *{', *'.join((*_ARTICLES, *_ARCHIVES))}; data/README.md says how to get them"
        )

    def read() -> Iterator[Candidate]:
        for path in files:
            yield from _archive(path) if path.name.lower().endswith(_ARCHIVES) else _folder(path, data if data.is_dir() else data.parent)

    return Source(PMC, files, (data if data.is_dir() else data.parent,), read, needs_licence=True)


def _folder(path: Path, root: Path) -> Iterator[Candidate]:
    beside = {one.name.lower(): one.name for one in sorted(path.parent.iterdir()) if one.is_file()}
    package = _Package(str(path), beside, lambda name: ItemImage((path.parent / name).relative_to(root).as_posix()))
    yield from package.candidates(read_article(_read(path), package.where))


def _archive(path: Path) -> Iterator[Candidate]:
    """An archive is read in memory, and only what it has as plain files: it can put nothing anywhere."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = {PurePosixPath(member.name).name: member for member in archive.getmembers() if member.isfile()}
            articles = [name for name in members if name.lower().endswith(_ARTICLES)]
            if len(articles) != 1:
                raise UserError(f"{path}: an archive of PubMed Central holds one article, this one {len(articles)}; take it out")

            def content(name: str) -> bytes:
                if members[name].size > MAX_FILE_BYTES:
                    raise UserError(f"{path}: {shown(name)} has {members[name].size:,} bytes, more than {MAX_FILE_BYTES:,}; take it out")
                stream = archive.extractfile(members[name])
                return stream.read() if stream is not None else b""

            files = {name.lower(): name for name in members}
            package = _Package(f"{path} ({shown(articles[0])})", files, lambda name: ItemImage(f"{path.name}/{name}", content(name)))
            yield from package.candidates(read_article(content(articles[0]), package.where))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path} cannot be read as an archive ({shown(str(error))}); fetch it again") from None


@dataclasses.dataclass(frozen=True)
class _Package:
    """What lies beside an article."""

    where: str
    files: Mapping[str, str]
    """Names of files, by themselves in small letters."""
    image: Callable[[str], ItemImage]
    """Of a file's name."""

    def candidates(self, article: Article) -> Iterator[Candidate]:
        """The cases of the article; one that tells none is a candidate that is left out."""
        name = next((article.ids[kind] for kind in ("pmc", "pmid", "doi") if article.ids.get(kind)), "")
        if not name:
            raise UserError(f"{self.where}: the article has no <article-id> of type pmc, pmid or doi, so nobody can name it; take it out")
        name = f"PMC{name}" if name.isdecimal() and "pmc" in article.ids else name
        for number, case in enumerate(article.cases, start=1):
            id = f"{PMC}/{name}" if len(article.cases) == 1 else f"{PMC}/{name}/{number}"
            yield dataclasses.replace(self._case(article, case, name), id=id, where=self.where, licence=article.licence or None)
        if not article.cases:
            yield Candidate(f"{PMC}/{name}", self.where, licence=article.licence or None, dropped=NO_CASE)

    def _case(self, article: Article, case: Sequence[Paragraph], name: str) -> Candidate:
        """A case as a question, which has its id and its licence from its article."""
        until, figures = _first_figures(article, case)
        files = [self._file(graphic) for figure in figures for graphic in figure.graphics]
        if not files or any(figure.of_another for figure in figures) or None in files:
            reason = NO_FIGURE if not files else ANOTHERS if any(figure.of_another for figure in figures) else NO_FILE
            return Candidate("", "", dropped=reason)
        told = "\n".join(paragraph.text for paragraph in case[:until])
        content: tuple[Part, ...] = (*(ImagePart() for _ in files), TextPart(text=f"{told}\n{DIAGNOSIS.text}"))
        about = {**article.ids, "title": article.title, "journal": article.journal, "year": article.year, "type": article.kind}
        return Candidate(
            id="",
            where="",
            prompt=(Message(role="system", content=SYSTEM.text), Message(role="user", content=content)),
            images=tuple(self.image(file) for file in files if file is not None),
            metadata={
                CASE: name,
                "article": {what: said for what, said in about.items() if said},
                "captions": [{"label": figure.label, "caption": figure.caption} for figure in figures],
                "rest": [paragraph.text for paragraph in case[until:]],
            },
        )

    def _file(self, graphic: str) -> str | None:
        """The image file that a figure names, with its suffix or (as PMC has it) without; None: it is not there."""
        base = PurePosixPath(graphic).name.lower()
        names = [base] if base.endswith(_SUFFIXES) else [f"{base}{suffix}" for suffix in _SUFFIXES]
        return next((self.files[name] for name in names if name in self.files), None)


def _first_figures(article: Article, case: Sequence[Paragraph]) -> tuple[int, list[Figure]]:
    """The paragraphs up to the first that points to figures with images, and these; none: there is no such paragraph."""
    for until, paragraph in enumerate(case, start=1):
        if figures := [article.figures[one] for one in paragraph.figures if one in article.figures and article.figures[one].graphics]:
            return until, figures
    return 0, []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
