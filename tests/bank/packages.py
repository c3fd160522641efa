"""Articles as PubMed Central's packages have them, with texts and pictures of our own."""

import io
import tarfile

import numpy as np
from PIL import Image

BY = '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>This is an open access article.</license-p></license>'
NC = '<license license-type="open-access"><license-p>Creative Commons Attribution-NonCommercial-NoDerivs License</license-p></license>'
CASE = """<sec sec-type="cases"><title>Case presentation</title>
<p>A man of 61 had a cough for three weeks <xref ref-type="bibr" rid="r1">[1]</xref>, and lost weight.</p>
<p>A radiograph was taken (<xref ref-type="fig" rid="f1">Figure 1</xref>).<table-wrap><table><tr><td>7</td></tr></table></table-wrap></p>
<fig id="f1"><label>Figure 1</label><caption><p>Lymphoma, plainly.</p></caption><graphic xlink:href="fig-1"/></fig>
<p>A biopsy showed lymphoma (<xref ref-type="fig" rid="f2">Figure 2</xref>).</p></sec>"""
SECOND = '<fig id="f2"><label>Figure 2</label><caption><p>Cells.</p></caption><graphic xlink:href="fig-2"/></fig>'


def article(body=CASE + SECOND, *, licence=BY, ids='<article-id pub-id-type="pmcid">PMC77</article-id>'):
    """An article's XML."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) Journal Archiving DTD v1.3//EN" "JATS-archivearticle1-3.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:ali="http://www.niso.org/schemas/ali/1.0/" article-type="case-report"><front>
<journal-meta><journal-title-group><journal-title>Cases of Ours</journal-title></journal-title-group></journal-meta>
<article-meta>{ids}<title-group><article-title>Lymphoma with a <italic>cough</italic></article-title></title-group>
<pub-date><year>2024</year></pub-date><permissions>{licence}</permissions></article-meta></front><body>{body}</body></article>""".encode()


def picture(seed, size=(40, 30), format="PNG"):
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(file, format)
    return file.getvalue()


def wide_picture(values):
    """A PNG of 16 bits."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint16)).save(file, "PNG")
    return file.getvalue()


def archive(path, name, files):
    """A package as an archive."""
    with tarfile.open(path, "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
