"""Frames worth a look: where to see whether a result is right, and to correct it where it is not.

They are known without annotations, from how many px each object has in each frame, and from the
mean probability over them (MASKS).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

MASKS = {
    "video": "str",
    "frame": "int64",
    "object": "int64",
    "pixels": "int64",
    "confidence": "float64",
}
"""columns of scores/masks.csv; confidence: mean probability over the object's px, empty without"""
LOOKS = 12
"""frames of a video, at most"""
CHANGE = 1 / 3
"""of the larger of two areas, by which they differ: from one frame to the next that is a lot"""
LOW = 0.9
"""confidence below which masks have mostly left the object, or lost a part of it"""
NEAR = 4
"""frames within which one look at an object is enough"""


@dataclass(frozen=True)
class Look:
    """A frame to look at."""

    frame: int
    object: int
    reason: str
    """`lost`, `found again`, `grows`, `shrinks` or `low confidence`"""
    value: float
    """the confidence, or the px that the object has more, or less, than in the frame before"""
    weight: float
    """how much of the object is in question, 0..1"""


def worth_a_look(masks: pd.DataFrame, given: Collection[int]) -> list[Look]:
    """What to look at in a video, in order of time; at most LOOKS, of the largest weight.

    masks: rows of MASKS of one video. given: frames with a given mask, which are right.
    """
    found = [
        look
        for i in sorted(set(masks["object"]))
        for rows in [masks[masks["object"] == i].sort_values("frame")]
        for look in _of_object(i, *(rows[name].to_numpy() for name in list(MASKS)[3:]))
        if look.frame not in given
    ]
    return sorted(_apart(found), key=lambda look: (look.frame, look.object))


def _apart(looks: list[Look]) -> list[Look]:
    """The weightiest, none within NEAR frames of another at the same object."""
    kept: list[Look] = []
    for look in sorted(looks, key=lambda look: (-look.weight, look.frame, look.object)):
        near = (k for k in kept if k.object == look.object and abs(k.frame - look.frame) < NEAR)
        if len(kept) < LOOKS and not any(near):
            kept.append(look)
    return kept


def _of_object(
    i: int, pixels: npt.NDArray[np.int64], confidence: npt.NDArray[np.float64]
) -> Iterator[Look]:
    """All there is to look at of an object; by frame, its px and confidence (T,)."""
    largest = max(1, int(pixels.max(initial=0)))
    seen = False
    for j in range(1, len(pixels)):
        before, now = int(pixels[j - 1]), int(pixels[j])
        seen = seen or before > 0
        if reason := _reason(before, now, seen):
            yield Look(j, i, reason, now - before, abs(now - before) / largest)
    low = np.flatnonzero((pixels > 0) & (confidence < LOW))
    for run in np.split(low, np.flatnonzero(np.diff(low) > 1) + 1):
        if len(run):
            lowest = int(run[np.argmin(confidence[run])])
            value = float(confidence[lowest])
            yield Look(lowest, i, "low confidence", value, 1 - value)


def _reason(before: int, now: int, seen: bool) -> str:
    """Why to look at a frame with `now` px after one with `before`; empty if there is no reason."""
    if before and not now:
        return "lost"
    if now and not before:
        return "found again" if seen else ""
    # An outline that moves by a px all round is no large change, however small the object.
    larger = max(before, now)
    if abs(now - before) > max(CHANGE * larger, 4 * math.sqrt(larger)):
        return "grows" if now > before else "shrinks"
    return ""
