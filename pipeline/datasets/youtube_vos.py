"""YouTube-VOS: several objects a video, annotated every few frames, for training.

ROOT/[<split>/]JPEGImages/<video>/<frame>.jpg
ROOT/[<split>/]Annotations/<video>/<frame>.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.layout import Video, images, in_order
from pipeline.errors import UserError


def videos(root: Path, split: str) -> Iterator[Video]:
    """Every video below `<split>`, or below the root where there is no such folder."""
    top = root / split if (root / split).is_dir() else root
    pictures, masks = top / "JPEGImages", top / "Annotations"
    if not pictures.is_dir():
        raise UserError(f"--root {root}: {pictures} does not exist")
    for folder in in_order(path for path in pictures.iterdir() if path.is_dir()):
        frames = images(folder)
        names = [path.stem for path in frames]
        found = {
            j: masks / folder.name / f"{name}.png"
            for j, name in enumerate(names)
            if (masks / folder.name / f"{name}.png").is_file()
        }
        if not found:
            raise UserError(f"video {folder.name}: {masks / folder.name} holds no mask")
        yield Video(folder.name, frames, {min(found): found[min(found)]}, found, names)
