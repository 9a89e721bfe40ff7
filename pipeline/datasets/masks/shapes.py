"""Objects drawn by annotation programs: outlines, pixels and boxes, as an index mask.

Coordinates are px of the annotated picture, x to the right and y down; pixel (column c, row r)
covers c..c+1 and r..r+1, so its centre lies at c + 0.5, r + 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.boxmask import VOID, index_type
from stages.types import IndexMask

Ring = npt.NDArray[np.float64]
"""(N, 2) x, y of the corners of a polygon"""
Pixels = npt.NDArray[np.bool_]
"""(H, W)"""
Frame = str | int | None
"""the stem of a picture's file, the number of a frame, or what the file is named after"""

NARROW, MOST = 254, 65000
"""objects that an index mask of 8 bits can number, and one of 16"""


class Malformed(ValueError):
    """A file that is not of the form it seems to have; the end of a message."""


@dataclass(frozen=True)
class Shape:
    """An object, or a part of one, in one frame."""

    key: str
    """by which the object is known in every frame"""
    label: str
    """its name or category"""
    size: tuple[int, int] | None = None
    """(H, W) px of the picture it was drawn on; None where the file does not say"""
    frame: Frame = None
    rings: tuple[Ring, ...] = ()
    """their union is the object"""
    unit: bool = False
    """whether coordinates are shares of the picture's sides"""
    pixels: Pixels | None = None
    corner: tuple[int, int] = (0, 0)
    """row and column of the picture at which `pixels` begin"""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 that it lies in, where that is all that is known"""

    def covered(self, size: tuple[int, int]) -> Pixels:
        """The object's pixels (H, W) in a picture of this size."""
        mask = np.zeros(size, bool)
        if self.pixels is not None:
            (top, left), (height, width) = self.corner, self.pixels.shape
            window = mask[max(top, 0) : top + height, max(left, 0) : left + width]
            part = self.pixels[max(-top, 0) :, max(-left, 0) :]
            window |= part[: window.shape[0], : window.shape[1]]
        scale = np.array(size[::-1]) if self.unit else 1.0
        for ring in self.rings:
            mask |= inside(ring * scale, size)
        return mask


def inside(ring: Ring, size: tuple[int, int]) -> Pixels:
    """The pixels (H, W) whose centre lies in a polygon, by the even-odd rule."""
    mask = np.zeros(size, bool)
    start, end = ring, np.roll(ring, -1, axis=0)
    low = max(0, int(np.floor(ring[:, 1].min() - 0.5)))
    high = min(size[0], int(np.ceil(ring[:, 1].max() + 0.5)))
    for row in range(low, high):
        y = row + 0.5
        crossed = (start[:, 1] <= y) != (end[:, 1] <= y)
        (x0, y0), (x1, y1) = start[crossed].T, end[crossed].T
        x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(x - 0.5), 0, size[1]).astype(int)
        toggles = np.bincount(columns, minlength=size[1] + 1)
        mask[row] = np.cumsum(toggles)[: size[1]] % 2 == 1
    return mask


def ellipse(x: float, y: float, rx: float, ry: float) -> Ring:
    """A polygon of an ellipse with these centre and half axes, to a hundredth of a px."""
    steps = max(64, int(12 * max(rx, ry) ** 0.5) * 4)
    angles = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def ring(numbers: Sequence[float]) -> Ring:
    """A polygon from x, y, x, y, ...; Malformed with fewer than three corners."""
    flat = np.asarray(numbers, np.float64)
    if flat.ndim != 1 or flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all():
        raise Malformed("holds a polygon that is not three or more corners x, y")
    return flat.reshape(-1, 2)


def runs(counts: Sequence[int], total: int) -> Pixels:
    """(total,) pixels from lengths of runs, the first of background."""
    lengths = np.asarray(counts, np.int64)
    if lengths.size and (lengths.min() < 0 or lengths.sum() != total):
        raise Malformed(f"holds runs of {int(lengths.sum())} px where the size says {total}")
    return np.repeat(np.arange(lengths.size) % 2 == 1, lengths)


def numbered(shapes: Iterable[Shape]) -> tuple[dict[str, int], dict[int, str]]:
    """Numbers of objects by key, and their names by number.

    They are those of counted(). Objects of one label are told apart by a count.
    """
    labels = dict[str, str]()
    for shape in shapes:
        labels.setdefault(shape.key, shape.label)
    if len(labels) > MOST:
        raise Malformed(f"holds {len(labels)} objects; {MOST} is the most")
    numbers = dict(zip(labels, counted([*labels.values()]), strict=True))
    names, seen = dict[int, str](), dict[str, int]()
    for key, label in labels.items():
        seen[label] = seen.get(label, 0) + 1
        names[numbers[key]] = label if seen[label] == 1 else f"{label} {seen[label]}"
    return numbers, {number: names[number] for number in sorted(names)}


def counted(labels: Sequence[str]) -> list[int]:
    """Numbers of objects by their labels, from 1 in the order in which they come.

    Labels that are themselves different numbers up to 254 are kept, and up to 65000 where they
    are more than 254. Nothing is numbered 255, which is void where a mask has 8 bits.
    """
    most = NARROW if len(labels) <= NARROW else MOST
    kept = [int(label) for label in labels if label.isascii() and label.isdigit()]
    if len(set(kept)) == len(labels) and all(0 < n <= most and n != VOID for n in kept):
        return kept
    return [n + (n >= VOID) for n in range(1, len(labels) + 1)]


def paint(shapes: Sequence[Shape], numbers: Mapping[str, int], size: tuple[int, int]) -> IndexMask:
    """(H, W) object numbers; where two objects overlap, the later one wins."""
    mask = np.zeros(size, index_type(numbers.values()))
    for shape in shapes:
        mask[shape.covered(size)] = numbers[shape.key]
    return mask
