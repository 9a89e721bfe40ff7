"""What a layout says of a video."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
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
    """The images of a folder in the order of their names."""
    return tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES))


def one_of(asked: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest, or all."""
    near = difflib.get_close_matches(asked, known, 3)
    return f"did you mean {near[0]}?" if near else f"there is {', '.join(known) or 'none'}"


def split_names(folder: Path, split: str) -> list[str]:
    """Videos of `<split>.txt` in order; lines may name a video or its files.

    Raises UserError naming the splits there are.
    """
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.txt")) if folder.is_dir() else []
        raise UserError(f"--split {split}: {path} does not exist; {one_of(split, known)}")
    lines = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    # the official DAVIS 2016 lists name every frame: /JPEGImages/480p/bear/00000.jpg
    return list(dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines))


def davis_video(root: Path, name: str, annotated: Path) -> Video:
    """A video of a DAVIS tree; its first annotation is the given mask."""
    pictures = root / "JPEGImages" / "480p" / name
    if not pictures.is_dir():
        raise UserError(f"video {name}: {pictures} does not exist; it is listed in the split")
    frames = images(pictures)
    names = [p.stem for p in frames]
    truth = {j: annotated / f"{n}.png" for j, n in enumerate(names)}
    found = {j: path for j, path in truth.items() if path.is_file()}
    if 0 not in found:
        missing = truth.get(0, annotated)
        raise UserError(f"video {name}, first frame: mask {missing} is missing")
    # test-dev gives the first mask only: that is no ground truth
    return Video(name, frames, {0: found[0]}, found if len(found) > 1 else None, names)
