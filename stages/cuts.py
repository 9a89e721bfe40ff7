"""Cuts, where one shot ends and another begins: an extension, the paper's clips have none.

Frames of one shot show the same things, if elsewhere: most cells of the features have a close
counterpart in the other frame, and neighbours have neighbouring ones. Of frames of two shots the
counterparts are at most of the same kind, and lie anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks import Networks
from stages.types import FeatureReader

POOLED = 4
"""features a side that a cell joins: 32 px"""
WAYS = ((1, (1, 0)), (2, (0, 1)))
"""of the neighbour below and to the right: the axis, and how its place differs"""
BRIDGED = 3
"""frames back to which a frame is compared, so a flash of fewer frames parts nothing"""
BLANK = 0.7
"""share of its features that sets a cell apart from its frame, below which a frame shows nothing"""


def cuts(features: FeatureReader, networks: Networks, alike: float) -> frozenset[int]:
    """Frames before which there is a cut: nothing is carried into one from the frame before.

    alike: the likeness() over which two frames are of one shot; 0: there are no cuts.
    Within BRIDGED frames a shot may go on after something else, and after blank frames, such as
    black ones, always. Frames that come to another shot through blank ones are each on their own.
    """
    if not alike:
        return frozenset()
    shown = [(j, n) for j, n in enumerate(_numbers(features, networks, alike)) if n is not None]
    found: set[int] = set()
    for row in range(1, len(shown)):
        before, after = shown[max(0, row - BRIDGED) : row], shown[row : row + BRIDGED]
        if {n for _, n in before}.isdisjoint(n for _, n in after):
            found.update(range(before[-1][0] + 1, after[0][0] + 1))
    return frozenset(found)


def shot(j: int, cuts: Set[int]) -> int:
    """Number of the shot of frame j, from 0."""
    return sum(cut <= j for cut in cuts)


def _numbers(features: FeatureReader, networks: Networks, alike: float) -> Iterator[int | None]:
    """A number for every frame, equal in one shot; None where a frame is blank."""
    recent: deque[tuple[int, Tensor]] = deque(maxlen=BRIDGED)
    count = 0
    for j in range(len(features)):
        with networks.inference():
            cells = _cells(networks.frame(features.coarse(j)))
            if _apart(cells) < BLANK:
                yield None
                continue
            known = (n for n, other in reversed(recent) if likeness(cells, other) > alike)
            number = next(known, count)
        count = max(count, number + 1)
        recent.append((number, cells))
        yield number


def _cells(f: Tensor) -> Tensor:
    """Features (1, C, h, w) as cells (C, h', w')."""
    return F.avg_pool2d(f, POOLED, ceil_mode=True)[0]


def _apart(cells: Tensor) -> float:
    """Share of the features (C, h, w) that sets a cell apart from its frame."""
    own = (cells - cells.mean((1, 2), keepdim=True)).norm(dim=0).mean()
    return float(own / cells.norm(dim=0).mean().clamp(min=1e-6))


def likeness(one: Tensor, other: Tensor) -> float:
    """How much two frames (C, h, w) show the same things: 1 for equal ones.

    The mean cosine of the cells to their nearest counterparts, features being less the mean of both
    frames, times the share of neighbours whose counterparts are neighbours; mean of both ways.
    """
    common = (one.mean((1, 2)) + other.mean((1, 2)))[:, None] / 2
    a, b = (F.normalize(cells.flatten(1) - common, dim=0) for cells in (one, other))
    cosines = a.T @ b
    return (_found(cosines, one.shape[-1]) + _found(cosines.T, one.shape[-1])) / 2


def _found(cosines: Tensor, width: int) -> float:
    """likeness() one way: cosines (K, K) of the cells of a frame, `width` a row, to the other's."""
    best, places = cosines.max(1)
    where = torch.stack((places // width, places % width)).unflatten(1, (-1, width))
    steps = [where.diff(dim=axis).sub(where.new_tensor(step)[:, None, None]) for axis, step in WAYS]
    near = torch.cat([(step.abs() <= 1).all(0).flatten() for step in steps])
    return float(best.mean() * near.float().mean())
