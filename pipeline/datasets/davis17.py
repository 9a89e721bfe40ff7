"""DAVIS 2017: several objects a video, palette masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.layout import Video, davis_video, split_names


def videos(root: Path, split: str) -> Iterator[Video]:
    """The videos of `ImageSets/2017/<split>.txt`."""
    for name in split_names(root / "ImageSets" / "2017", split):
        yield davis_video(root, name, root / "Annotations" / "480p" / name)
