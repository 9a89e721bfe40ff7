"""What flows between the stages: small immutable records over numpy arrays.

Geometry, everywhere: pixel centres lie at integer + 0.5, boxes are float32
(x0, y0, x1, y1) in px with x1, y1 exclusive. A *box mask* of side s divides its box
into s x s equal cells; cell (r, c) has its centre at
(x0 + (c + 0.5) (x1 - x0) / s, y0 + (r + 0.5) (y1 - y0) / s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from models.networks import Half

Image = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
IndexMask = npt.NDArray[np.unsignedinteger[Any]]
"""(H, W) uint8: 0 background, 1..254 object IDs as in the dataset, 255 void. Where a video has an
ID over 254: uint16, and void is 65535."""
Box = npt.NDArray[np.float32]
"""(4,) float32 xyxy px."""
Probability = npt.NDArray[np.uint8]
"""(s, s) uint8, probability * 255, in the frame of its box."""


class Rows(Protocol):
    """An array, or a list of arrays, read row by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, j: int) -> npt.NDArray[Any]: ...


class SourceFiles(Protocol):
    """How a person's files are read: as they lie, or only as a run was planned from them."""

    @property
    def most_pixels(self) -> int:
        """of an image that is decoded"""

    def read(self, path: Path) -> bytes:
        """The bytes of a file. OSError if it cannot be read."""

    def check(self, path: Path) -> None:
        """End the run if a file that a decoder opens by itself is another than planned."""


class FeatureReader(Protocol):
    """Features of one video, read frame by frame."""

    def __len__(self) -> int: ...

    def coarse(self, j: int) -> Half:
        """f_j: (C, ceil(H/8), ceil(W/8)) float16."""

    def fine(self, j: int) -> Half | None:
        """f4 of frame j: (C4, ceil(H/4), ceil(W/4)) float16; None without refinement."""


class FlowReader(Protocol):
    """Optical flow of one video in px, both directions."""

    def to_previous(self, j: int) -> npt.NDArray[np.float32]:
        """(2, H, W) x, y: the point p of frame j lies at p + flow in frame j - 1; j >= 1."""

    def to_next(self, j: int) -> npt.NDArray[np.float32]:
        """(2, H, W) x, y: the point p of frame j lies at p + flow in frame j + 1; j <= T - 2."""


class BoxReader(Protocol):
    """Proposals of one video with their embeddings."""

    def boxes(self, j: int) -> npt.NDArray[np.float32]:
        """b_j: (M_j, 4) float32 xyxy px."""

    def embeddings(self, j: int) -> npt.NDArray[np.float32]:
        """(M_j, 256) float32, L2-normalised."""


class ProposalReader(BoxReader, Protocol):
    """Proposals with all that Re-ID goes by."""

    def evidence(self, j: int) -> npt.NDArray[np.float32]:
        """(M_j, O) float32 in 0..1 for every object with a given mask, ascending."""


@dataclass(frozen=True)
class StartingPoint:
    """A retrieved mask to propagate from (y-hat of section 3.2)."""

    frame: int
    object_id: int
    similarity: float
    """to the object: cosine to its nearest template, and evidence; 1 for a given mask"""
    box: Box
    """the box that `mask` fills: the tight proposal box, or the given mask's RoI box"""
    mask: Probability
    given: bool


@dataclass(frozen=True)
class Tracklet:
    """A starting point propagated both ways until it ends (section 3.2)."""

    start: StartingPoint
    iteration: int
    """iteration that accepted it, from 1"""
    first: int
    """first frame covered; frames first .. first + L - 1"""
    boxes: npt.NDArray[np.float32]
    """(L, 4) RoI boxes (the enlarged ones) that the masks fill"""
    masks: npt.NDArray[np.uint8]
    """(L, s, s) probability * 255"""

    @property
    def last(self) -> int:
        """Last frame covered."""
        return self.first + len(self.masks) - 1

    def covers(self, frame: int) -> bool:
        return self.first <= frame <= self.last


@dataclass(frozen=True)
class Matches:
    """Re-ID's result of one iteration: starting points in propagation order."""

    starts: tuple[StartingPoint, ...]
    converged: bool
    """no starting point is left that accepted tracklets do not already cover"""
    templates: tuple[tuple[int, int], ...] = ()
    """(frame, object) of the confirmed offers: templates besides the given masks"""


@dataclass(frozen=True)
class Offers:
    """Boxes of confident tube masks, offered as templates to the next iteration."""

    frames: npt.NDArray[np.int32]
    objects: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32]
    """(N, 4) tight boxes of the masks"""
    confidences: npt.NDArray[np.float32]
    """(N,) mean foreground probability"""


@dataclass(frozen=True)
class Linking:
    """Which tracklet owns each object in each frame (section 3.2, linking)."""

    objects: tuple[int, ...]
    """object IDs, ascending"""
    owner: npt.NDArray[np.int32]
    """(objects, T) index into the tracklets, -1 where the object has no mask"""
    merged: npt.NDArray[np.bool_]
    """(tracklets,) False where contradictory, hence dropped"""


@dataclass(frozen=True)
class Drawn:
    """Tubes as they were drawn from a linking."""

    linking: Linking
    masks: Rows
    """(H, W) of every frame"""
    confidence: Rows
    """(objects,) of every frame"""


class Progress(Protocol):
    """Called with (done, total) as work advances."""

    def __call__(self, done: int, total: int) -> None: ...


Frames = Sequence[Image]
"""Lazy: decoded when indexed, read in order."""
