"""segment() is the method as the pipeline runs it: every pixel of its masks is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyenet import load, segment, settings
from models.config import Architecture
from models.networks import Networks
from pipeline import RunDataset
from pipeline.commands import engine
from pipeline.datasets.demo import Motion, render_clip
from pipeline.errors import UserError
from pipeline.plan.settings import RunSettings
from pipeline.plan.variants import VARIANTS
from stages.errors import BadInput
from tests.networks import random_networks, without
from tests.tiny_run import ROOT, write_mask

SIZE, FRAMES = (96, 160), 9
LEAVES = ((0.45, 0.5, 1.1, 0.0), (1.3, 0.45, 1.2, 0.6), (0.5, 0.55, 1.25, 0.2))
CROSSES = ((0.2, 0.3, 0.8, 0.0), (0.5, 0.35, 0.8, 0.3), (0.8, 0.3, 0.9, 0.1))
LATE = ((0.8, 0.8, 0.7, 0.0), (0.6, 0.7, 0.7, 0.2), (0.2, 0.8, 0.8, 0.4))
GIVEN = {0: (1, 2), 3: (3,)}
"""objects of the given mask of a frame"""
CHANGED = {"frames.height": "128", "run.precision": "fp32", "run.max_iterations": "3"}


@dataclass(frozen=True)
class Place:
    """A clip as a folder and as arrays."""

    root: Path
    frames: list[np.ndarray]
    masks: dict[int, np.ndarray]

    def run(self, changed: Mapping[str, str], out: Path) -> np.ndarray:
        """The masks (T, H, W) that RunDataset writes below `out`."""
        given = ",".join(f"{name}={value}" for name, value in changed.items())
        task = RunDataset(dataset="folder", root=str(self.root), set=given, output=str(out))
        assert engine.build(task)
        files = sorted((out / "masks" / "clip").glob("*.png"))
        return np.stack([np.asarray(Image.open(path)) for path in files])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three objects: one leaves and returns, one is given later."""
    root = tmp_path_factory.mktemp("segment")
    clip = render_clip(2, FRAMES, SIZE, motions=[*map(Motion, (LEAVES, CROSSES, LATE))], flow=False)
    masks = {j: clip.masks[j] * np.isin(clip.masks[j], ids) for j, ids in GIVEN.items()}
    for folder in (root / "clip", root / "masks" / "clip"):
        folder.mkdir(parents=True)
    for j, image in enumerate(clip.frames):
        Image.fromarray(image).save(root / "clip" / f"{j:05d}.png")
    for j, mask in masks.items():
        write_mask(root / "masks" / "clip" / f"{j:05d}.png", mask)
    return Place(root, clip.frames, masks)


AGAIN = {
    "matches.rho_reid": "0.93",
    "matches.evidence": "0",
    "matches.template_gap": "1",
    "tubes.template_confidence": "0.5",
}
"""settings with which the object that left is like no template but one of the second iteration"""


@pytest.mark.parametrize(
    ("changed", "found_again"),
    [
        ({"run.variant": "dyenet"}, True),
        ({"run.variant": "remp"}, False),
        ({"run.variant": "remp-no-attention"}, False),
        ({"run.variant": "msk"}, True),
        ({"run.variant": "dyenet", **AGAIN}, True),
        ({"run.variant": "dyenet", **AGAIN, "run.max_iterations": "1"}, False),
    ],
)
def test_masks_equal_those_of_the_pipeline(
    changed: dict[str, str],
    found_again: bool,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(place.root / "cache"))
    changed = {**CHANGED, **changed}
    networks = load("compact", device="cpu", precision="fp32")
    found = segment(place.frames, place.masks, networks, settings(changed))
    assert found.dtype == np.uint8 and found.shape == (FRAMES, *SIZE)
    np.testing.assert_array_equal(found, place.run(changed, tmp_path))
    assert (found[-1] == 1).any() == found_again
    for j, ids in GIVEN.items():
        for i in ids:
            np.testing.assert_array_equal(found[j] == i, place.masks[j] == i)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return random_networks(Architecture.tiny())


ALWAYS = {"run.retrieval": "always"}
SMALL = {"frames.height": 0, "run.max_iterations": 2}
"""settings for tiny networks"""


def test_frames_may_be_one_array_that_nobody_may_write_to(networks: Networks) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 56, 3), dtype=np.uint8)
    mask = np.zeros((40, 56), np.uint8)
    mask[8:24, 10:30] = 7
    frames.flags.writeable = mask.flags.writeable = False
    for variant in VARIANTS:
        chosen = settings({**SMALL, "run.variant": variant})
        found = segment(frames, {1: mask}, networks, chosen)
        np.testing.assert_array_equal(found, segment(list(frames), {1: mask}, networks, chosen))
        np.testing.assert_array_equal(found[1], mask)


def test_one_frame(networks: Networks) -> None:
    mask = np.zeros((40, 56), np.uint8)
    mask[8:24, 10:30] = 2
    for variant in VARIANTS:
        chosen = settings({**SMALL, "run.variant": variant})
        found = segment([np.zeros((40, 56, 3), np.uint8)], {0: mask}, networks, chosen)
        np.testing.assert_array_equal(found, mask[None])


FRAME, MASK = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), np.uint8)


@pytest.mark.parametrize(
    ("frames", "masks", "message"),
    [
        ([], {0: MASK}, "there are no frames"),
        ([FRAME[..., 0]], {0: MASK}, r"frame 0: is \(20, 30\) uint8"),
        ([FRAME / 255], {0: MASK}, r"frame 0: is \(20, 30, 3\) float64"),
        ([FRAME, FRAME[:10]], {0: MASK}, r"frame 1: is \(10, 30, 3\) uint8.*of one size"),
        ([FRAME], {}, "there is no mask"),
        ([FRAME], {1: MASK}, "mask of frame 1: the video has 1 frame"),
        ([FRAME], {-1: MASK}, "mask of frame -1: the video has 1 frame"),
        ([FRAME], {0: MASK[:10]}, r"mask of frame 0: is \(10, 30\) uint8; it must be \(20, 30\)"),
        ([FRAME], {0: MASK > 0}, "mask of frame 0: is .* bool"),
        ([FRAME], {0: MASK * 255}, "mask of frame 0: holds no object"),
    ],
)
def test_unfit_arrays_are_refused_by_one_sentence(
    networks: Networks,
    frames: list[np.ndarray],
    masks: dict[int, np.ndarray],
    message: str,
) -> None:
    with pytest.raises(BadInput, match=f"^{message}") as error:
        segment(frames, masks, networks, settings(SMALL))
    assert "\n" not in str(error.value)


def test_missing_module_is_named(networks: Networks) -> None:
    with pytest.raises(ValueError, match="no module 'rpn'"):
        segment([FRAME], {0: MASK}, without(networks, "rpn"), settings({**SMALL, **ALWAYS}))


def test_wrong_names_are_answered() -> None:
    with pytest.raises(UserError, match=r"matches\.rho_reid\?"):
        settings({"match.rho_reid": 0.5})
    with pytest.raises(UserError, match="compactt: no such file"):
        load("compactt")
    with pytest.raises(UserError, match="gpu: must be one of auto, cpu, cuda"):
        load(device="gpu")
    assert settings({"matches.rho_reid": 0.5}).matches.rho_reid == 0.5
    assert settings() == RunSettings()


def test_the_notebook_runs() -> None:
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    space: dict[str, Any] = {}
    for cell in cells:
        exec(cell, space)
    found, first = space["masks"], space["first_mask"]
    assert found.shape == (len(space["frames"]), *first.shape)
    np.testing.assert_array_equal(found[0], first)
    assert set(np.unique(found[-1])) == set(np.unique(first))
