"""Box masks: cut from a frame, compared with each other, pasted and merged into a frame.

Geometry as in stages/types.py. Between cell centres a box mask is bilinear; beyond its
outermost centres it falls to zero within one cell, so that a full mask crosses 0.5
exactly at the border of its box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from stages.types import Box, IndexMask, Probability

VOID = 255
"""in masks of 8 bits; void_of() says it of any"""
GRID = 128
"""samples a side, at most, that iou() takes: several a cell of any mask"""

Window = tuple[int, int, npt.NDArray[np.float32]]
"""y0, x0 and probabilities (h, w) of a part of the frame; zero elsewhere."""


def void_of(index_mask: IndexMask) -> int:
    """The ID of void in an index mask: the highest that its dtype holds."""
    return int(np.iinfo(index_mask.dtype).max)


def index_type(ids: Iterable[int]) -> type[np.uint8] | type[np.uint16]:
    """The dtype of index masks with these objects."""
    return np.uint8 if max(ids, default=0) < VOID else np.uint16


def is_wide(index_masks: Iterable[IndexMask]) -> bool:
    """Whether any of some index masks has more than 8 bits."""
    return any(mask.dtype != np.uint8 for mask in index_masks)


def object_ids(index_mask: IndexMask) -> list[int]:
    """IDs of the objects in an index mask, ascending, without background and void."""
    present = np.bincount(index_mask.ravel(), minlength=256)
    return [int(i) for i in present.nonzero()[0] if i not in (0, void_of(index_mask))]


def all_ids(index_masks: Iterable[IndexMask]) -> list[int]:
    """Object IDs in any of some index masks, ascending."""
    return sorted({i for mask in index_masks for i in object_ids(mask)})


def tight(mask: npt.NDArray[np.bool_]) -> Box:
    """Tight box of a mask (H, W); ValueError if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def rescaled(
    boxes: npt.NDArray[np.float32], size: tuple[int, int], other: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Boxes (..., 4) in a frame of `size` (H, W), in the same frame at the `other` size."""
    down, across = (b / a for a, b in zip(size, other, strict=True))
    return boxes * np.array([across, down, across, down], np.float32)


def area(box: Box, mask: Probability) -> float:
    """Area in px of the cells with probability over 0.5."""
    extent = float((box[2] - box[0]) * (box[3] - box[1]))
    return float((mask > 127).mean()) * extent


def cut(index_mask: IndexMask, object_id: int, margin: float, s: int) -> tuple[Box, Probability]:
    """An object of an index mask as its RoI box and the box mask in it.

    The RoI box is the tight box enlarged by `margin` of its side on each side. A cell
    holds the share of its area that the object covers. Beyond the frame its border goes on: an
    object that the frame cuts has no edge there. ValueError if the object is absent.
    """
    inside = index_mask == object_id
    x0, y0, x1, y1 = (float(v) for v in tight(inside))
    pad_x, pad_y = (x1 - x0) * margin, (y1 - y0) * margin
    box = np.array([x0 - pad_x, y0 - pad_y, x1 + pad_x, y1 + pad_y], np.float32)
    columns, rows = range(int(x0), int(x1)), range(int(y0), int(y1))
    across = _shares(box[0], box[2], s, columns, inside.shape[1])
    down = _shares(box[1], box[3], s, rows, inside.shape[0])
    window = inside[rows.start : rows.stop, columns.start : columns.stop].astype(np.float32)
    share = down @ window @ across.T
    return box, np.rint(share * 255).clip(0, 255).astype(np.uint8)


def _shares(
    low: float, high: float, cells: int, pixels: range, limit: int
) -> npt.NDArray[np.float32]:
    """(cells, pixels) share of each cell's length that each pixel covers.

    The first and the last of the frame's `limit` pixels reach out without end.
    """
    edges = np.linspace(low, high, cells + 1, dtype=np.float64)
    left, right = edges[:-1, None], edges[1:, None]
    begin = np.arange(pixels.start, pixels.stop, dtype=np.float64)
    end = begin + 1
    begin[begin == 0], end[end == limit] = -np.inf, np.inf
    overlap = np.minimum(right, end) - np.maximum(left, begin)
    return (overlap.clip(min=0) / (right - left)).astype(np.float32)


def _reach(low: float, high: float, cells: int, limit: int) -> tuple[int, int]:
    """First and one past the last pixel in 0..limit that the box mask can touch."""
    half = (high - low) / cells / 2
    first = max(0, math.ceil(low - half - 0.5))
    return first, max(first, min(limit, math.floor(high + half - 0.5) + 1))


def _weights(
    low: float, high: float, cells: int, pixels: range
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Cell before each pixel centre, counted in a zero-padded mask, and the way past it."""
    centres = np.arange(pixels.start, pixels.stop, pixels.step) + 0.5
    u = ((centres - low) * (cells / max(high - low, 1e-3)) + 0.5).clip(0, cells + 1)
    before = np.minimum(u.astype(np.intp), cells)
    return before, (u - before).astype(np.float32)


def _sample(box: Box, mask: Probability, rows: range, columns: range) -> npt.NDArray[np.float32]:
    """Bilinear probabilities at the centres of the pixels rows x columns."""
    s = len(mask)
    x0, y0, x1, y1 = box.tolist()
    padded = np.zeros((s + 2, s + 2), np.float32)
    padded[1:-1, 1:-1] = mask
    padded /= 255
    c, along = _weights(x0, x1, s, columns)
    r, down = _weights(y0, y1, s, rows)
    wide = padded[:, c] * (1 - along) + padded[:, c + 1] * along
    result = wide[r]
    result *= (1 - down)[:, None]
    below = wide[r + 1]
    below *= down[:, None]
    result += below
    return result


def _window(box: Box, s: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last row, first and last column (exclusive) of a box mask in the frame."""
    x0, y0, x1, y1 = box.tolist()
    return *_reach(y0, y1, s, size[0]), *_reach(x0, x1, s, size[1])


def paste(box: Box, mask: Probability, size: tuple[int, int]) -> Window:
    """Paste a box mask (s, s) into a frame of `size` (H, W), clipped to it.

    Returns y0, x0 and the float32 probabilities of the window; outside it they are zero.
    """
    top, bottom, left, right = _window(box, len(mask), size)
    return top, left, _sample(box, mask, range(top, bottom), range(left, right))


def iou(
    box_a: Box, mask_a: Probability, box_b: Box, mask_b: Probability, size: tuple[int, int]
) -> float:
    """Intersection over union of two box masks, cut at 0.5, in a frame of `size` (H, W).

    Counted on the pixels around both, in large boxes on every n-th row and column so that
    at most GRID x GRID are read. 0 where both are empty.
    """
    a, b = _window(box_a, len(mask_a), size), _window(box_b, len(mask_b), size)
    if min(a[1], b[1]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[2], b[2]):
        return 0.0
    top, bottom, left, right = min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])
    step = -(-max(bottom - top, right - left) // GRID)
    rows, columns = range(top, bottom, step), range(left, right, step)
    in_a = _sample(box_a, mask_a, rows, columns) > 0.5
    in_b = _sample(box_b, mask_b, rows, columns) > 0.5
    both = np.count_nonzero(in_a & in_b)
    either = np.count_nonzero(in_a) + np.count_nonzero(in_b) - both
    return both / either if either else 0.0


def merge(
    windows: Mapping[int, Window],
    objects: Sequence[int],
    size: tuple[int, int],
    given: IndexMask | None = None,
) -> tuple[IndexMask, npt.NDArray[np.float32]]:
    """One index mask (H, W) from the objects' probabilities.

    Per pixel: background = prod(1 - p), normalised with the p of all objects; the most
    probable wins, background before objects and low IDs before high ones where equal.
    windows: probabilities by object ID. given: a mask whose objects are kept to the pixel
    and never predicted. Returns the mask and, per object of `objects`, the mean
    normalised probability over its pixels: 1 where given, 0 where absent.
    """
    index = np.zeros(size, index_type(objects))
    best, total = np.zeros(size, np.float32), np.zeros(size, np.float32)
    background = np.ones(size, np.float32)
    kept = [i for i in objects if given is not None and (given == i).any()]
    drawn = {i: windows[i] for i in objects if i in windows and i not in kept}
    for i, (y0, x0, p) in drawn.items():
        part = np.s_[y0 : y0 + p.shape[0], x0 : x0 + p.shape[1]]
        index[part][p > best[part]] = i
        np.maximum(best[part], p, out=best[part])
        total[part] += p
        background[part] *= 1 - p
    index[best <= background] = 0
    for i in kept:
        index[given == i] = i
    total += background
    confidence = dict.fromkeys(kept, 1.0)
    for i, (y0, x0, p) in drawn.items():
        part = np.s_[y0 : y0 + p.shape[0], x0 : x0 + p.shape[1]]
        mine = index[part] == i
        if mine.any():
            confidence[i] = float((p[mine] / total[part][mine]).mean())
    return index, np.array([confidence.get(i, 0.0) for i in objects], np.float32)
