"""What a layout says of a video."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from stages.frames import FrameSource, MaskSource

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
UNFIT = re.compile("[/\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
"""what no name may hold: slashes, control characters, bytes that are not UTF-8"""
LONGEST = 229
"""bytes of a name: a file system takes 255, and a draft of `<video>.json` adds 26"""


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

    def __post_init__(self) -> None:
        """UserError for a name that cannot be a file's name in the cache and the output."""
        check_name("video", self.name)
        if UNFIT.search("".join(self.frame_names)):
            unfit = next(name for name in self.frame_names if UNFIT.search(name))
            raise UserError(
                f"video {self.name}: frame {unfit!a} holds control characters, or bytes that "
                "are not UTF-8; rename the file"
            )

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


def check_name(kind: str, name: str) -> None:
    """UserError unless the name is one path component, which stays below its parent."""
    shown = f"{kind} {ascii(name) if len(name) <= 80 else ascii(name[:80]) + '...'}"
    if name in ("", ".", ".."):
        raise UserError(
            f"{shown}: is no name; rename it, also where a list of the dataset names it"
        )
    if UNFIT.search(name):
        raise UserError(
            f"{shown}: a name holds no slash, no control character and only UTF-8; rename it, also "
            "where a list of the dataset names it"
        )
    # The cache writes these as three bytes.
    length = len(name.encode()) + 2 * (name.count("%") + name.count("\\"))
    if length > LONGEST:
        raise UserError(f"{shown}: has {length} bytes; a name takes {LONGEST} at most, shorten it")


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
