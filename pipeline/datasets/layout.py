"""What a layout says of a video."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from stages.frames import MaskSource

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Video:
    """The files of one video."""

    name: str
    frames: tuple[Path, ...] | Path
    """images in order, or one video file"""
    first_masks: Mapping[int, MaskSource]
    """the given masks by frame"""
    annotations: Mapping[int, MaskSource] | None
    """ground truth by frame, None where there is none"""
    frame_names: Sequence[str]
    """file stems; empty for a video file, whose frames are numbered once it is read"""

    def frame_name(self, j: int) -> str:
        """Name of frame j, as messages and output files give it."""
        return self.frame_names[j] if self.frame_names else f"{j:05d}"


@dataclass(frozen=True)
class Dataset:
    """The videos of a split."""

    name: str
    split: str
    videos: tuple[Video, ...]


def images(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in the order of their names.

    UserError where two differ only in their suffix: frames and masks go by the rest.
    """
    found = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES))
    one_each((path.stem, path) for path in found)
    return found


def one_each(named: Iterable[tuple[str, Path]]) -> None:
    """UserError where two files have one name, naming both."""
    known: dict[str, Path] = {}
    for name, path in named:
        if name in known:
            raise UserError(
                f"{known[name]} and {path.name}: both are called {name}; rename one or take it away"
            )
        known[name] = path


def one_of(asked: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest, or all."""
    near = difflib.get_close_matches(asked, known, 3)
    return f"did you mean {near[0]}?" if near else f"there is {', '.join(known) or 'none'}"
