"""The five extensions of docs/extending.md, added to a copy of the project by those very lines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  h5py then reads what it compressed
import numpy as np
import pytest
from PIL import Image

from tests.clip import draw
from tests.tiny_run import FRAMES, ROOT, environment, write_mask

PACKAGES = ("cache", "models", "stages", "training", "pipeline", "tests")
BLOCK = re.compile(r"```\w+\n[#{]+ (\S+).*\n((?:.*\n)*?)```\n")
"""a block of code: the file in its first line, and the rest"""


def extensions() -> dict[str, list[tuple[str, str]]]:
    """Blocks by heading, each a file and the lines that go to its end."""
    text = (ROOT / "docs" / "extending.md").read_text()
    sections = (section.partition("\n") for section in text.split("\n## ")[1:])
    return {title: BLOCK.findall(rest) for title, _, rest in sections}


WEIGHTS = """
import sys
from dataclasses import replace
from pathlib import Path
from models.config import Architecture
from models.networks import MODULES
from models.weights import build, save
plain = replace(Architecture.tiny(), backbone="plain")
save(Path(sys.argv[1]), plain, {name: build(name, plain) for name in MODULES}, {})
"""
MORE = """
import sys
from pathlib import Path
import luigi
from pipeline.pages.worst import worst_html
from pipeline.run.stages import stage_tasks
out, digest = Path(sys.argv[1]), sys.argv[2]
worst_html(out)
assert luigi.build(stage_tasks(digest, "ant", ("motion",)).values(), local_scheduler=True)
"""


class Extended:
    """A copy of the project with the extensions, and what it has made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code, self.cache, self.out = folder / "code", folder / "cache", folder / "out"

    def python(self, *arguments: object) -> str:
        """Run its Python to the end; what it printed."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**environment(self.cache), "PYTHONPATH": str(self.code)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def artifact(self, stage: str) -> Path:
        """The one artifact of a stage."""
        (path,) = (self.cache / stage / "pairs" / "ant").glob("*.h5")
        return path


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """A dataset of the new layout, run with the new backbone and the new flow method."""
    made = Extended(tmp_path_factory.mktemp("extended"))
    leave = shutil.ignore_patterns("__pycache__", "pretrained")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, made.code / package, ignore=leave)
    for blocks in extensions().values():
        for name, lines in blocks:
            with (made.code / name).open("a") as file:
                file.write(lines)
    video = made.folder / "data" / "ant"
    video.mkdir(parents=True)
    for j in range(FRAMES):
        image, mask = draw(j)
        Image.fromarray(image).save(video / f"{j:05d}.jpg", quality=95)
        write_mask(video / f"{j:05d}.png", mask)
    weights = made.folder / "plain.safetensors"
    made.python("-c", WEIGHTS, weights)
    run = "-m luigi --module pipeline RunDataset --local-scheduler --dataset pairs --root data"
    settings = "--set flow.method=farneback --set frames.height=0 --precision fp32"
    made.python(*run.split(), *settings.split(), "--weights", weights, "--output", made.out)
    return made


def test_each_extension_takes_at_most_ten_lines() -> None:
    lines = {
        title: sum(bool(line.strip()) for _, block in blocks for line in block.splitlines())
        for title, blocks in extensions().items()
    }
    assert set(lines) == {"A backbone", "A flow method", "A dataset", "A stage", "A page"}
    assert all(0 < count <= 10 for count in lines.values()), lines


def test_the_table_counts_the_files() -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    counted = dict(re.findall(r"^\| ([A-Z][\w ]+) \| .*? \| (\d)", text, re.MULTILINE))
    assert counted == {
        title.removeprefix("A ").capitalize(): str(len(blocks))
        for title, blocks in extensions().items()
    }


def test_a_dataset_runs_with_a_new_backbone_and_flow_method(extended: Extended) -> None:
    run = json.loads((extended.out / "run.json").read_text())
    assert run["dataset"] == "pairs"
    assert run["settings"]["flow"]["method"] == "farneback"
    assert len(list((extended.out / "masks" / "ant").glob("*.png"))) == FRAMES
    assert (extended.out / "scores").is_dir()
    with h5py.File(extended.artifact("features")) as features:
        assert features["coarse"].shape[1] == 32


def test_the_flow_is_that_of_the_new_method(extended: Extended) -> None:
    import cv2

    video = extended.folder / "data" / "ant"
    grey = [
        cv2.cvtColor(np.asarray(Image.open(video / f"{j:05d}.jpg")), cv2.COLOR_RGB2GRAY)
        for j in range(2)
    ]
    expected = cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    with h5py.File(extended.artifact("flow")) as flow:
        found = flow["to_next"][0] / 64
    assert np.abs(expected).max() > 1
    # half a stored unit, and what two JPEG decoders differ by
    assert np.abs(found - expected.transpose(2, 0, 1)).mean() < 0.05


def test_help_and_messages_know_the_new_rows(extended: Extended) -> None:
    shown = extended.python("-m", "luigi", "--module", "pipeline", "RunDataset", "--help")
    assert "folder, clip, pairs" in " ".join(shown.split())
    printed = extended.python("-m", "pipeline.plan.document")
    assert "one of dis, raft, farneback" in printed


def test_a_new_stage_and_a_new_page(extended: Extended) -> None:
    (recipe,) = (extended.cache / "recipes").glob("*.json")
    extended.python("-c", MORE, extended.out, recipe.stem)
    with (
        h5py.File(extended.artifact("motion")) as motion,
        h5py.File(extended.artifact("flow")) as flow,
    ):
        speed = np.abs(flow["to_next"][:] / 64).mean((1, 2, 3))
        np.testing.assert_allclose(motion["speed"][:], speed, rtol=1e-5)
    assert "ant 1:" in (extended.out / "worst.html").read_text()
