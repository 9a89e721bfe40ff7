"""Region similarity J, boundary accuracy F and the quality of starting points (section 4).

J and F are those of the official DAVIS tools, to the last digit; only the work is less:
nothing outside an object is looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

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
        if mask.shape != truth.shape:
            raise ValueError(f"frame {frame}: mask is {mask.shape}, annotation is {truth.shape}")
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
    union = cv2.countNonZero(a | b)
    if not union:
        return 1.0, 1.0
    j = cv2.countNonZero(a & b) / union
    edge_a, edge_b = _boundary(a), _boundary(b)
    n_a, n_b = cv2.countNonZero(edge_a), cv2.countNonZero(edge_b)
    if not n_a or not n_b:
        return j, float(n_a == n_b)
    disk = _disk(radius)
    precision = cv2.countNonZero(edge_a & cv2.dilate(edge_b, disk)) / n_a
    recall = cv2.countNonZero(edge_b & cv2.dilate(edge_a, disk)) / n_b
    both = precision + recall
    return j, 2 * precision * recall / both if both else 0.0


def _boundary(mask: Plane) -> Plane:
    """The official one-pixel boundary: the pixel to the right, below or both differs.

    To the right and below the mask goes on as it ends there.
    """
    wide = cv2.copyMakeBorder(mask, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    return (mask ^ wide[:-1, 1:]) | (mask ^ wide[1:, :-1]) | (mask ^ wide[1:, 1:])


@cache
def _disk(radius: int) -> Plane:
    """All within `radius` px of the centre."""
    steps = np.arange(-radius, radius + 1) ** 2
    return (steps + steps[:, None] <= radius**2).astype(np.uint8)


def _iou(start: StartingPoint, truth: IndexMask) -> float:
    """IoU of a starting mask with its object in the annotation of its frame."""
    y0, x0, probability = paste(start.box, start.mask, (truth.shape[0], truth.shape[1]))
    inside = probability > 0.5
    h, w = inside.shape
    true = truth == start.object_id
    shared = np.count_nonzero(inside & true[y0 : y0 + h, x0 : x0 + w])
    union = np.count_nonzero(inside) + np.count_nonzero(true) - shared
    return shared / union if union else 0.0
