"""Region similarity J, boundary accuracy F and the quality of starting points (section 4).

J and F are those of the official DAVIS tools, to the last digit; only the work is less:
nothing outside an object is looked at, and what is left of a mask is packed, a bit a pixel,
into one long integer, which Python shifts, joins and counts as a whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stages.boxmask import object_ids, paste
from stages.types import IndexMask, StartingPoint

VERSION = 1

BOUNDARY = 0.008
"""tolerance of F as a share of the frame's diagonal"""
RECALL = 0.5
"""a frame counts for recall strictly above this"""
CORRECT = 0.5
"""IoU with the annotation from which a starting point is correct (Table 2)"""

Annotations = Callable[[int], IndexMask | None]
"""Ground truth of a frame, None where it is not annotated."""
Plane = npt.NDArray[np.uint8]
"""(h, w) uint8: 1 inside, 0 outside."""


@dataclass(frozen=True)
class Scores:
    """J and F of each annotated frame and object of a video, by frame, then object."""

    frames: npt.NDArray[np.int32]
    """(N,)"""
    objects: npt.NDArray[np.int32]
    """(N,)"""
    j: npt.NDArray[np.float64]
    """(N,) 0..1"""
    f: npt.NDArray[np.float64]
    """(N,) 0..1"""


@dataclass(frozen=True)
class Aggregate:
    """One measure over the frames of an object: mean, recall and decay."""

    mean: float
    recall: float
    """share of the frames strictly above 0.5"""
    decay: float
    """mean of the first quarter of the frames less that of the last"""


@dataclass(frozen=True)
class StartCounts:
    """Starting points against the annotations, given masks left out (Table 2)."""

    correct: int
    """starting points with IoU >= 0.5"""
    total: int
    """starting points in annotated frames"""
    found: int
    """(frame, object) pairs that a correct starting point retrieved"""
    visible: int
    """(frame, object) pairs annotated and visible"""

    @property
    def precision(self) -> float:
        """correct / total; NaN without starting points."""
        return self.correct / self.total if self.total else math.nan

    @property
    def recall(self) -> float:
        """found / visible; NaN where nothing is visible."""
        return self.found / self.visible if self.visible else math.nan


def jf(predicted: IndexMask, truth: IndexMask, object_id: int) -> tuple[float, float]:
    """J and F of one object in one frame, as the official tool computes them.

    predicted, truth: (H, W). Void (255) of the truth counts as background. J is 1 and F is 1
    where both are empty. ValueError if the shapes differ.
    """
    _same_shape(predicted, truth)
    a, b = _plane(predicted, object_id), _plane(truth, object_id)
    window = _window(a, b)
    return _jf(a[window], b[window], _radius(*truth.shape))


def score_video(
    predicted: Iterable[IndexMask], annotations: Annotations, objects: Sequence[int]
) -> Scores:
    """J and F of every annotated frame and object of a video.

    predicted: the index masks (H, W) of all frames in order. objects: the IDs to score; one
    that a mask lacks is empty there. ValueError if a mask's size is not the annotation's.
    """
    rows: list[tuple[int, int, float, float]] = []
    for frame, mask in enumerate(predicted):
        truth = annotations(frame)
        if truth is None:
            continue
        _same_shape(mask, truth, f"frame {frame}: ")
        window = _window(mask, truth)
        radius, mask, truth = _radius(*truth.shape), mask[window], truth[window]
        for i in objects:
            a, b = _plane(mask, i), _plane(truth, i)
            # The crop keeps a border of its own, so the frame's edges stay the frame's.
            inner = _window(a, b)
            rows.append((frame, i, *_jf(a[inner], b[inner], radius)))
    return Scores(
        np.array([r[0] for r in rows], np.int32),
        np.array([r[1] for r in rows], np.int32),
        np.array([r[2] for r in rows], np.float64),
        np.array([r[3] for r in rows], np.float64),
    )


def aggregate(values: npt.NDArray[np.float64], *, official_decay: bool = False) -> Aggregate:
    """Mean, recall and decay of J or F over the scored frames of one object, in order.

    Decay compares quarters whose neighbours share one frame. The official tool keeps the
    quarters' edges in 8 bits, so that its decay is wrong beyond 256 frames (NaN where the
    wrapped quarter is empty); official_decay repeats that, to compare with its files.
    All three are NaN without frames.
    """
    if not len(values):
        return Aggregate(math.nan, math.nan, math.nan)
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64)
    if official_decay:
        edges %= 256
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    decay = float(first.mean() - last.mean()) if len(first) and len(last) else math.nan
    return Aggregate(float(values.mean()), float((values > RECALL).mean()), decay)


def starting_points(
    starts: Iterable[StartingPoint], annotations: Annotations, frames: int
) -> StartCounts:
    """Precision and recall of retrieval, as Table 2 counts them.

    starts: all starting points of the iterations up to the one reported, the given masks
    among them: those, and the pairs of frame and object that they show, are left out.
    frames: T. A starting point is correct if its mask, cut at 0.5, has IoU >= 0.5 with its
    object in its frame; in a frame without annotation it is not judged.
    """
    at: dict[int, list[StartingPoint]] = {}
    for start in starts:
        at.setdefault(start.frame, []).append(start)
    correct = total = found = visible = 0
    for frame in range(frames):
        truth = annotations(frame)
        if truth is None:
            continue
        here = at.get(frame, [])
        given = {start.object_id for start in here if start.given}
        judged = [start for start in here if not start.given]
        right = [start.object_id for start in judged if _iou(start, truth) >= CORRECT]
        shown = set(object_ids(truth)) - given
        correct += len(right)
        total += len(judged)
        found += len(shown.intersection(right))
        visible += len(shown)
    return StartCounts(correct, total, found, visible)


def mask_digest(masks: Iterable[IndexMask]) -> str:
    """Digest of a video's index masks: equal masks need to be scored only once."""
    digest = hashlib.blake2b(digest_size=16)
    for mask in masks:
        digest.update(repr(mask.shape).encode())
        digest.update(np.ascontiguousarray(mask))
    return digest.hexdigest()


def unknown_ids(mask: IndexMask, objects: Collection[int]) -> list[int]:
    """IDs of a mask, void included, that are neither background nor among the objects."""
    known = {0, *objects}
    if known.issuperset(range(int(mask.max(initial=0)) + 1)):
        return []
    return sorted(set(np.unique(mask).tolist()) - known)


def _same_shape(predicted: IndexMask, truth: IndexMask, where: str = "") -> None:
    if predicted.shape != truth.shape:
        raise ValueError(f"{where}mask is {predicted.shape}, annotation is {truth.shape}")


def _plane(mask: IndexMask, object_id: int) -> Plane:
    return (mask == object_id).view(np.uint8)


def _window(a: Plane, b: Plane) -> tuple[slice, slice]:
    """Rows and columns of both masks' box and one pixel more a side: no boundary lies beyond."""
    boxes = [(x, y, x + w, y + h) for x, y, w, h in map(cv2.boundingRect, (a, b)) if w]
    left, top, right, bottom = zip(*boxes, strict=True) if boxes else ((1,), (1,), (0,), (0,))
    return (
        slice(max(0, min(top) - 1), max(bottom) + 1),
        slice(max(0, min(left) - 1), max(right) + 1),
    )


def _radius(height: int, width: int) -> int:
    """Tolerance of boundaries in a frame of this size, in px."""
    return math.ceil(BOUNDARY * math.hypot(height, width))


def _jf(a: Plane, b: Plane, radius: int) -> tuple[float, float]:
    """J and F of two masks cropped by _window()."""
    height, width = a.shape
    grid = _Grid(height, width, radius)
    bits_a, bits_b = grid.pack(a), grid.pack(b)
    union = grid.count(bits_a | bits_b)
    if not union:
        return 1.0, 1.0
    j = grid.count(bits_a & bits_b) / union
    edge_a, edge_b = grid.boundary(bits_a), grid.boundary(bits_b)
    n_a, n_b = edge_a.bit_count(), edge_b.bit_count()
    if not n_a or not n_b:
        return j, float(n_a == n_b)
    precision = (edge_a & grid.dilate(edge_b)).bit_count() / n_a
    recall = (edge_b & grid.dilate(edge_a)).bit_count() / n_b
    both = precision + recall
    return j, 2 * precision * recall / both if both else 0.0


class _Grid:
    """Masks of one size as integers: row after row, the first pixel the highest bit.

    Rows are padded so that nothing a radius away reaches a neighbouring row's pixels, and to
    the right and below every mask is continued by one pixel of its own, since the official
    boundary counts the neighbour missing there as equal.
    """

    def __init__(self, height: int, width: int, radius: int) -> None:
        self.height, self.width, self.radius = height, width, radius
        self.stride = -(-(width + max(1, radius)) // 8) * 8
        row = ((1 << width) - 1) << (self.stride - width)
        rows = row.to_bytes(self.stride // 8, "big") * height
        self.inside = int.from_bytes(rows, "big") << self.stride
        """the pixels that are not padding"""

    def pack(self, mask: Plane) -> int:
        """A mask (height, width) of 0 and 1."""
        padded = np.zeros((self.height + 1, self.stride), np.uint8)
        padded[:-1, : self.width] = mask
        padded[:-1, self.width] = mask[:, -1]
        padded[-1] = padded[-2]
        return int.from_bytes(np.packbits(padded).tobytes(), "big")

    def count(self, bits: int) -> int:
        """Pixels inside."""
        return (bits & self.inside).bit_count()

    def boundary(self, bits: int) -> int:
        """The official one-pixel boundary: the pixel to the right, below or both differs."""
        south = bits << self.stride
        return (bits ^ bits << 1 | bits ^ south | bits ^ south << 1) & self.inside

    def dilate(self, bits: int) -> int:
        """All within a disk; what it leaves in the padding is to be masked."""
        wide = [bits]
        for _ in range(self.radius):
            wide.append(wide[-1] | wide[-1] << 1 | wide[-1] >> 1)
        # Down and up a row at a time, joining at each what lies as wide as the disk is there.
        down = up = 0
        for row in range(self.radius, 0, -1):
            half = wide[math.isqrt(self.radius**2 - row**2)]
            down, up = (down | half) >> self.stride, (up | half) << self.stride
        return down | up | wide[-1]


def _iou(start: StartingPoint, truth: IndexMask) -> float:
    """IoU of a starting mask with its object in the annotation of its frame."""
    y0, x0, probability = paste(start.box, start.mask, (truth.shape[0], truth.shape[1]))
    inside = probability > 0.5
    h, w = inside.shape
    true = truth == start.object_id
    shared = np.count_nonzero(inside & true[y0 : y0 + h, x0 : x0 + w])
    union = np.count_nonzero(inside) + np.count_nonzero(true) - shared
    return shared / union if union else 0.0
