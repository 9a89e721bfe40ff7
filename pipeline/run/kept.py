"""Frames of features and flow that stay in memory from one stage of a video to the next.

Every stage of a video reads its features, and so does every wave of propagation. What is kept
enters no key: it is what the artifact holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.plan.machine import kept_bytes
from stages.types import Rows

Row = Any
"""an array, or a tensor on a CUDA device"""


@dataclass
class Shelf:
    """Frames of one video, as long as there is room. Those that came first stay.

    Stages go through a video from its first frame on: the frame that was used longest ago is the
    one that the next stage asks for first.
    """

    video: tuple[str, ...] = ()
    taken: int = 0
    """bytes on the host"""
    frames: dict[tuple[str, ...], dict[int, Row]] = field(default_factory=dict)
    """by dataset, then by number"""

    def of(self, video: tuple[str, ...], dataset: tuple[str, ...]) -> dict[int, Row]:
        """What is kept of a dataset; another video's frames are given up."""
        if video != self.video:
            self.video, self.taken, self.frames = video, 0, {}
        return self.frames.setdefault(dataset, {})

    def has_room(self, row: Row) -> bool:
        """Whether a row may be kept; it then counts."""
        if on_device(row):
            return device_has_room()
        fits = self.taken + row.nbytes <= kept_bytes()
        self.taken += row.nbytes * fits
        return fits


SHELF = Shelf()
"""of this process"""


class KeptRows:
    """stages.types.Rows of a dataset; a row that is kept is read once."""

    def __init__(self, rows: Rows, kept: dict[int, Row], place: Callable[[Row], Row]) -> None:
        """kept: of SHELF.of(). place: puts a row where it is used."""
        self._rows, self._kept, self._place = rows, kept, place

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, j: int) -> Row:
        if j in self._kept:
            return self._kept[j]
        row = self._place(self._rows[j])
        if SHELF.has_room(row):
            self._kept[j] = row
        return row


def on_device(row: Row) -> bool:
    """Whether a row is a tensor on a CUDA device."""
    return bool(getattr(row, "is_cuda", False))


def device_has_room() -> bool:
    """Whether more than half of the CUDA device's memory is free."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return free > total // 2


def to_device(row: Row) -> Row:
    """An array as a tensor of its type on the CUDA device."""
    import torch

    return torch.from_numpy(row).to("cuda")
