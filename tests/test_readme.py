"""Commands as pages print them: those of the README run, those of all pages are understood."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from luigi.cmdline_parser import CmdlineParser

from pipeline import cli, commands
from tests.clip import draw
from tests.test_docs import PAGES
from tests.tiny_run import FRAMES, ROOT, environment, write_dataset, write_mask

GIVEN = """from tests.clip import draw
frames = [draw(j)[0] for j in range(4)]
first_mask = draw(0)[1]
"""
"""what the README's Python begins with"""
README = ROOT / "README.md"
BIN = Path(sys.executable).parent


def blocks(page: Path) -> list[str]:
    """The indented blocks of a page, as they would be typed."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.MULTILINE)
    return [re.sub("^ {4}", "", block, flags=re.MULTILINE).strip() for block in found]


def commands_of(page: Path, name: str) -> Iterator[list[str]]:
    """The words of every command of a page that begins with `name`, without `...`."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(f"{name} "):
                yield [word for word in shlex.split(line, comments=True)[1:] if word != "..."]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_understood(page: Path) -> None:
    for words in commands_of(page, "dyenet"):
        assert callable(cli.parser().parse_args(words).command)
    for words in commands_of(page, "luigi"):
        assert CmdlineParser(words).known_args.root_task in commands.__all__


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands name, and the environment of its set-up."""
    place = tmp_path_factory.mktemp("readme")
    (place / ".venv").symlink_to(BIN.parent)
    film = cv2.VideoWriter(str(place / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (72, 56))
    for j in range(FRAMES):
        film.write(np.ascontiguousarray(draw(j)[0][..., ::-1]))
    film.release()
    write_mask(place / "first-mask.png", draw(0)[1])
    lists = write_dataset(place / "DAVIS", ("ant",)) / "ImageSets"
    shutil.copytree(lists / "2017", lists / "480p")
    return place


COPIES = "for name in one other demo; do cp -r runs/davis16-val-dyenet runs/$name; done"
"""what the README calls its runs"""


def of_shell() -> Iterator[str]:
    """The README's commands but for the set-up, which installs."""
    for block in blocks(README):
        if "runs/one" in block:
            yield COPIES
        if block.startswith((". ", "dyenet ", "luigi ")):
            yield block


@pytest.mark.readme
@pytest.mark.skipif(not (BIN / "dyenet").exists(), reason="the package is not installed")
def test_commands_of_the_readme_run_as_printed(place: Path) -> None:
    """In the order of the page, in one new shell; then what it has for Python."""
    known = environment(place / "cache")
    shell = {name: known[name] for name in known if name not in ("VIRTUAL_ENV", "PATH")}
    done = subprocess.run(
        ["bash", "-euc", "\n".join(of_shell())],
        env={**shell, "PATH": os.defpath},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout, "`dyenet run` and RunDataset are the same run"
    for name in ("out", "runs/davis16-val-dyenet"):
        assert (place / name / "report.html").stat().st_size
    for name in ("compare-other.html", "tables/results.parquet"):
        assert (place / "runs/one" / name).stat().st_size
    assert len(list((place / "out/masks/clip").glob("*.png"))) == FRAMES
    assert list(place.glob("runs/*/sweep.html"))
    script = "\n".join(block for block in blocks(README) if block.startswith("from "))
    done = subprocess.run(
        [sys.executable, "-c", GIVEN + script],
        env=known,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^0 +ant", done.stdout, re.MULTILINE)


def test_make_has_the_targets_that_the_readme_names() -> None:
    (setup,) = (block for block in blocks(README) if block.startswith("make "))
    targets = [line.split()[1] for line in setup.splitlines()]
    assert targets == ["demo", "test"]
    for more in ([], ["CPU=1"]):
        done = subprocess.run(
            ["make", "-n", *targets, *more, "VENV=none"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert ("download.pytorch.org" in done.stdout) == bool(more)
