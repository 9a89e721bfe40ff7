"""Outlines of masks along the edges of their pixels, so that they hold exactly these pixels.

Coordinates are those of pipeline/datasets/masks/shapes.py: pixel (column c, row r) covers c..c+1
and r..r+1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.bool_]
Loop = npt.NDArray[np.int64]
"""(N, 2) x, y of the corners of a closed line"""


def parts(mask: Pixels) -> Iterator[Loop]:
    """One ring for each part of a mask (H, W) that hangs together by pixels' sides."""
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    for n in range(1, count):
        yield joined(loops(labels == n))


def joined(found: Sequence[Loop]) -> Loop:
    """One ring of several: there and back between them lie lines that enclose nothing."""
    first = found[0]
    rest = (np.concatenate([loop, loop[:1], first[:1]]) for loop in found[1:])
    return np.concatenate([first, first[:1], *rest]) if len(found) > 1 else first


def loops(mask: Pixels) -> list[Loop]:
    """All closed lines between a mask (H, W) and what is not in it, by the even-odd rule."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    ends = _edges(np.pad(mask[y : y + height, x : x + width], 1))
    found = []
    while ends:
        start = at = next(iter(ends))
        line = []
        while True:
            line.append(at)
            following = ends[at].pop()
            if not ends[at]:
                del ends[at]
            at = following
            if at == start:
                break
        found.append(_corners(np.array(line, np.int64)) + np.array([x, y]))
    return found


def _edges(padded: Pixels) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Where the edges between inside and outside lead to, by where they begin: x, y of both.

    Inside lies to their right, so that as many begin in a corner as end there.
    """
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    down = padded[1:].astype(np.int8) - padded[:-1]
    for r, c in np.argwhere(down).tolist():
        a, b = (c - 1, r), (c, r)
        begin, end = (a, b) if down[r, c] > 0 else (b, a)
        ends.setdefault(begin, []).append(end)
    right = padded[:, 1:].astype(np.int8) - padded[:, :-1]
    for r, c in np.argwhere(right).tolist():
        a, b = (c, r - 1), (c, r)
        begin, end = (b, a) if right[r, c] > 0 else (a, b)
        ends.setdefault(begin, []).append(end)
    return ends


def _corners(line: Loop) -> Loop:
    """A closed line without the points at which it goes straight on."""
    turns = (np.roll(line, -1, 0) - line != line - np.roll(line, 1, 0)).any(1)
    return line[turns]
