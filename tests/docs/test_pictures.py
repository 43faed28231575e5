"""Pictures and links of the documents: drawn by hand, for both themes, for those who hear them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.docs.blocks import DOCUMENTS, ROOT

SVG = "{http://www.w3.org/2000/svg}"
DRAWN = sorted((ROOT / "docs" / "concepts").glob("*.svg"))
MAX_DRAWN_BYTES = 16 << 10


def heading_ids(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found, is_code = set(), False
    for line in document.read_text().splitlines():
        is_code ^= line.lstrip().startswith("```")
        if not is_code and (match := re.match(r"#+ (.*)", line)):
            text = re.sub(r"[^\w\- ]", "", match[1].lower()).replace(" ", "-")
            found.add(text)
    return found


@pytest.mark.parametrize("file", DRAWN, ids=lambda file: file.name)
def test_a_drawing_stands_alone_and_is_told_in_words(file: Path) -> None:
    text = file.read_text()
    root = ET.fromstring(text)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert title.text
    assert description is not None
    assert len(description.text or "") > 80
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title desc"
    assert len(text) < MAX_DRAWN_BYTES
    assert "prefers-color-scheme:dark" in text
    # Nothing from elsewhere, and nothing that runs.
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<image|@import|@font-face|\son\w+=", text)
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#tip"}
    assert (ROOT / "docs" / "concepts.md").read_text().count(f"(concepts/{file.name})") == 1


def test_every_drawing_has_one_colour_for_each_of_both_themes() -> None:
    for file in DRAWN:
        light, _, dark = file.read_text().partition("prefers-color-scheme:dark")
        names = [set(re.findall(r"\.(\w+)\{(?:fill|stroke)", half)) for half in (light, dark)]
        assert names[0] - {"dash"} == names[1], file


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere_and_pictures_have_words(document: str) -> None:
    path = ROOT / document
    text = path.read_text()
    for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
        assert words, target
    for picture in re.findall(r"<img [^>]*>", text):
        assert re.search(r'alt="[^"]+"', picture), picture
    for target, _, part in re.findall(r"\]\(([^)#\s]*)(#([\w-]+))?\)", text):
        if "://" in target:
            continue
        file = path.parent / target if target else path
        assert file.exists(), target
        if part and file.suffix == ".md":
            assert part in heading_ids(file), f"{target}#{part}"


def test_every_document_is_on_the_map() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / "index.md").read_text()))
    assert named == {path.name for path in ROOT.glob("docs/*.md")} - {"index.md"}
