"""Pointers between pages, and from code to pages, lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_run import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = [
    path
    for folder in ("pipeline", "training", "stages", "models", "cache", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def headings(page: Path) -> list[str]:
    """The headings of a page; lines of code blocks are indented."""
    return re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def anchor(heading: str) -> str:
    """As GitHub names a heading: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of every link of a page to a file of this repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, place = target.partition("#")
            yield (page.parent / path if path else page), place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page(page: Path) -> None:
    wrong = [
        f"{path.name}#{place}"
        for path, place in links(page)
        if not path.is_file() or (place and place not in map(anchor, headings(path)))
    ]
    assert not wrong, wrong


def test_pages_and_their_sections_that_code_names() -> None:
    """docs/<page>.md, or docs/<page>.md, <Section>."""
    wrong = []
    for path in CODE:
        for page, section in re.findall(
            r"docs/(\w+\.md)(?:, ([A-Z][\w ]+))?", path.read_text(encoding="utf-8")
        ):
            there = ROOT / "docs" / page
            if not there.is_file() or (section and section not in headings(there)):
                wrong.append(f"{path.relative_to(ROOT)}: docs/{page}, {section}")
    assert not wrong, wrong


def test_modules_and_files_that_pages_name() -> None:
    wrong = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(
            r"`((?:pipeline|training|stages|models|cache|tests|docs)/[\w/.]+)`",
            page.read_text(encoding="utf-8"),
        )
        if not (ROOT / name).exists()
    ]
    assert not wrong, wrong
