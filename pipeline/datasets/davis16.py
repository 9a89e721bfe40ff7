"""DAVIS 2016: one object a video, masks 0 and 255."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.layout import Video, davis_video, split_names


def videos(root: Path, split: str) -> Iterator[Video]:
    """The videos of `ImageSets/480p/<split>.txt`."""
    for name in split_names(root / "ImageSets" / "480p", split):
        yield davis_video(root, name, root / "Annotations" / "480p" / name)
