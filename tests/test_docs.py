"""Pointers between pages and from code to pages lead somewhere, and values said are the code's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import geometry, memory
from models.config import Architecture
from models.networks import EMBED_CHUNK, MASK_CHUNK, SHORTCUT_CHUNK, STEP_CHUNK
from pipeline.plan.settings import find
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


SETTINGS = [
    (
        "frames.height",
        480,
        "design.md",
        "see every video at 480 px on its shorter side",
    ),
    ("tubes.contradiction", 0.5, "design.md", "below 0.5 with its own object's tube"),
    ("tubes.rival", 0.15, "design.md", "or above 0.15 with another's"),
    ("tubes.edges", 1.5, "design.md", "windows of one and a half cells"),
    ("search.windows", 3, "design.md", "the three most similar of each object join the proposals"),
    ("matches.evidence", 0.6, "design.md", "cosine to the object's templates plus 0.6 times"),
    ("matches.rho_reid", 0.7, "measurements.md", "over the run at 0.7"),
    ("run.max_iterations", 4, "measurements.md", "As a run (four iterations)"),
]
CONSTANTS = [
    (Architecture.paper().margin, 0.15, "design.md", "15% in the paper's configuration"),
    (Architecture.compact().margin, 0.25, "design.md", "25% in the compact model"),
    (memory.SURE_PROBABILITY, 0.8, "design.md", "probability is over 0.8 or under 0.2"),
    ((memory.KEPT_FRAMES, memory.KEPT_EVERY), (6, 5), "design.md", "six more, every fifth"),
    (geometry.SEARCH_CELLS, 128, "design.md", "a 128 x 128 grid"),
    (geometry.SEARCH_REACH, 48, "design.md", "at least 48 px"),
    (
        (EMBED_CHUNK["cpu"], MASK_CHUNK["cpu"], STEP_CHUNK["cpu"]),
        (4, 1, 1),
        "design.md",
        "on a CPU four boxes for Re-ID, one for masks and one object in Re-MP",
    ),
    (
        (EMBED_CHUNK["cuda"], MASK_CHUNK["cuda"], STEP_CHUNK["cuda"]),
        (20, 20, 8),
        "design.md",
        "on a GPU 20, 20 and eight",
    ),
    (SHORTCUT_CHUNK, 25, "design.md", "25 boxes at a time"),
]


@pytest.mark.parametrize(
    ("value", "said", "page", "words"),
    [*((find(name).default, *rest) for name, *rest in SETTINGS), *CONSTANTS],
)
def test_what_a_page_says_of_a_value(value: object, said: object, page: str, words: str) -> None:
    assert value == said
    assert words in " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
