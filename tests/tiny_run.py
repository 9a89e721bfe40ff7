"""A dataset of seconds, weights without training, and the real commands on both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from models.config import Architecture
from models.networks import MODULES
from models.weights import build, save
from tests.clip import draw

ROOT = Path(__file__).parents[1]
FRAMES = 4


def write_dataset(root: Path, videos: tuple[str, ...] = ("ant", "bee")) -> Path:
    """A tree as DAVIS 2017's with two moving objects in every video."""
    for v, video in enumerate(videos):
        images, masks = (root / name / "480p" / video for name in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for j in range(FRAMES):
            image, index = draw(j)
            Image.fromarray(np.roll(image, v, 1)).save(images / f"{j:05d}.jpg", quality=95)
            write_mask(masks / f"{j:05d}.png", np.roll(index, v, 1))
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(videos) + "\n")
    return root


def write_mask(path: Path, index: np.ndarray) -> None:
    """An index mask as a palette PNG."""
    image = Image.fromarray(index)
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200] + [0] * 756)
    image.save(path)


def write_weights(path: Path, **changed: int) -> Path:
    """Untrained tiny networks; changed: seeds of modules that differ from the usual ones."""
    import torch

    modules = {}
    for name in MODULES:
        torch.manual_seed(changed.get(name, 0))
        modules[name] = build(name, Architecture.tiny())
    save(path, Architecture.tiny(), modules, {})
    return path


def environment(cache: Path) -> dict[str, str]:
    """Of a command that keeps its artifacts in `cache` and reads tests/tiny.cfg."""
    return {
        **os.environ,
        "DYENET_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
    }


def command(
    name: str, *arguments: object, cache: Path, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run `luigi --module pipeline` or `dyenet` to its end."""
    heads = {
        "luigi": ["luigi", "--module", "pipeline"],
        "dyenet": ["pipeline.cli"],
    }
    return subprocess.run(
        [sys.executable, "-m", *heads[name], *map(str, arguments)],
        env=environment(cache),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def ran(output: str) -> dict[str, list[str]]:
    """Tasks that ran to their end, by video, from what a run printed."""
    found: dict[str, list[str]] = {}
    for video, label in re.findall(r"^(?:(\S+) )?(\S+): [\d.]+ s$", output, re.MULTILINE):
        found.setdefault(video, []).append(label)
    return found
