"""A video of an output folder, as exports read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from stages.boxmask import index_type
from stages.frames import FrameReader, read_index_mask
from stages.types import IndexMask

UNNAMED = "object"
"""category of objects without a name"""


@dataclass(frozen=True)
class Clip:
    """The masks of a video."""

    name: str
    size: tuple[int, int]
    """(H, W) px"""
    paths: Sequence[Path]
    """masks in the order of the frames, each named after its frame"""
    objects: Sequence[int]
    names: Mapping[int, str]
    """of objects by number, as far as they have any"""
    frames: Callable[[], FrameReader]
    """the video's pixels; UserError where they are not to be had"""

    def masks(self) -> Iterator[tuple[str, IndexMask]]:
        """The name and the index mask (H, W) of every frame; UserError for one that is not ours."""
        wide = index_type(self.objects) != np.uint8
        for path in self.paths:
            mask = read_index_mask(path, self.size, self.name, path.stem, wide=wide)
            if unknown := set(present(mask)).difference(self.objects):
                raise UserError(
                    f"video {self.name}, frame {path.stem}: {path} holds object {min(unknown)}, "
                    "which the run does not know; run the same command again to mend it"
                )
            yield path.stem, mask

    def label(self, number: int) -> str:
        """What an object is called."""
        return self.names.get(number, str(number))

    def category(self, number: int) -> str:
        """What an object is: `car` of `car`, `car 2` and `car 3`."""
        name = self.names.get(number, UNNAMED)
        kind = re.sub(r" \d+$", "", name)
        return kind if kind in self.names.values() else name


def present(mask: IndexMask) -> list[int]:
    """Numbers in a mask but that of the background, ascending."""
    return [int(i) for i in np.flatnonzero(np.bincount(mask.ravel())) if i]


def one_line(name: str) -> str:
    """A name as files have it that keep one a line."""
    return " ".join(name.split()) or UNNAMED


def categories(clips: Sequence[Clip]) -> list[str]:
    """The categories of all objects, in the order in which they come."""
    return list(dict.fromkeys(clip.category(i) for clip in clips for i in clip.objects))
