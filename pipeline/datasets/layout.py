"""What a layout says of a video."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from stages.frames import FrameSource, MaskSource

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Video:
    """The files of one video."""

    name: str
    frames: FrameSource
    """images in order, one video file, or some of its frames"""
    first_masks: Mapping[int, MaskSource]
    """the given masks by frame"""
    annotations: Mapping[int, MaskSource] | None
    """ground truth by frame, None where there is none"""
    frame_names: Sequence[str]
    """file stems; empty for a video file, whose frames are numbered once it is read"""
    objects: Mapping[int, str] = field(default_factory=dict)
    """names of objects by number, where the form of the masks gives any"""

    def frame_name(self, j: int) -> str:
        """Name of frame j, as messages and output files give it."""
        if self.frame_names:
            return self.frame_names[j]
        number = j if isinstance(self.frames, Path | tuple) else self.frames.number(j)
        return f"{number:05d}"


@dataclass(frozen=True)
class Dataset:
    """The videos of a split."""

    name: str
    split: str
    videos: tuple[Video, ...]


def images(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in natural order of their names.

    UserError where two differ only in their suffix: frames and masks go by the rest.
    """
    found = picture_files(folder)
    one_each((path.stem, path) for path in found)
    return found


def picture_files(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder in natural order, also two of one name."""
    return in_order(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)


def in_order(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Paths in natural order of their names: 2.jpg before 10.jpg, 02.jpg before 2.jpg."""
    return tuple(sorted(paths, key=lambda path: (natural(path.stem), path.name)))


def natural(name: str) -> tuple[tuple[int, int], ...]:
    """What sorts names character by character, but digits that follow each other as one number."""
    parts = re.findall("[0-9]+|[^0-9]", name)
    return tuple((ord("0"), int(p)) if p[0] in "0123456789" else (ord(p), 0) for p in parts)


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
