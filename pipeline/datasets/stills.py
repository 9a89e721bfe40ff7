"""Still images with instance masks, each a video of one frame, for training.

ROOT/images/<name>.jpg
ROOT/masks/<name>.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.layout import Video, images
from pipeline.errors import UserError


def videos(root: Path, split: str) -> Iterator[Video]:
    """Every image that has a mask; `split` is not used."""
    pictures, masks = root / "images", root / "masks"
    if not pictures.is_dir():
        raise UserError(f"--root {root}: {pictures} does not exist")
    for path in images(pictures):
        mask = masks / f"{path.stem}.png"
        if mask.is_file():
            yield Video(f"{root.name}-{path.stem}", (path,), {0: mask}, {0: mask}, [path.stem])
