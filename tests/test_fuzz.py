"""Whole runs over clips of any small size, length, object number and first frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import RunDataset
from pipeline.commands import engine
from pipeline.datasets.demo import render_clip
from tests.tiny_run import ran, write_mask, write_weights

CLIPS = 30


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(CLIPS))
def test_any_clip(
    seed: int,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(3, 160, 2))
    length = int(rng.integers(1, 6))
    numbers = np.array([0, *rng.choice(np.arange(1, 255), 3, replace=False)], np.uint8)
    clip = render_clip(seed, length, (height, width), int(rng.integers(1, 4)), flow=False)
    first = int(rng.integers(length))
    mask = numbers[clip.masks[first]]
    mask[rng.integers(height), rng.integers(width)] = numbers[1]

    frames, masks = tmp_path / "clip", tmp_path / "masks"
    frames.mkdir()
    masks.mkdir()
    for j, image in enumerate(clip.frames):
        Image.fromarray(image).save(frames / f"{j:03d}.png")
    write_mask(masks / f"{first:03d}.png", mask)
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    options = {"root": frames, "masks": masks, "weights": weights, "output": tmp_path / "out"}
    task = RunDataset(
        dataset="clip",
        precision=str(rng.choice(["fp32", "bf16"])),
        variant=str(rng.choice(["dyenet", "remp", "msk"])),
        rho_reid=str(rng.choice([0.5, 0.7, 0.99])),
        **{name: str(path) for name, path in options.items()},
    )
    assert engine.build(task), capsys.readouterr().out
    made = sorted((tmp_path / "out" / "masks" / "clip").glob("*.png"))
    assert [path.name for path in made] == [f"{j:03d}.png" for j in range(length)]
    found = [np.array(Image.open(path)) for path in made]
    assert {image.shape for image in found} == {(height, width)}
    assert set(np.unique(found)) <= set(np.unique(mask)) | {0}
    np.testing.assert_array_equal(found[first], mask)
    capsys.readouterr()
    assert engine.build(task)
    assert ran(capsys.readouterr().out) == {}
