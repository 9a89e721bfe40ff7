"""Where a starting point has left the gap that it could fill, so that it is carried no farther."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.boxmask import iou
from stages.types import Box, Probability, Tracklet

RIVAL = 0.5
"""IoU with a tracklet of another object over which it has gone over to that object"""


@dataclass
class Gap:
    """Whether a retrieved starting point, carried one way, has left the gap that it could fill.

    Called with its mask in one frame after the other. It has once, for `overlap` frames in a row,
    an accepted tracklet of its object held the frame, or one of another object the mask. Linking
    compares it with its object's tube in these frames, and gives the frames to that tube. Of more
    accepted tracklets it is true no later.
    """

    own: Sequence[Tracklet]
    others: Sequence[Tracklet]
    overlap: int
    size: tuple[int, int]
    """(H, W) px"""
    running: int = 0

    def left(self, j: int, box: Box, mask: Probability) -> bool:
        held = any(t.covers(j) for t in self.own) or any(
            iou(box, mask, t.boxes[j - t.first], t.masks[j - t.first], self.size) > RIVAL
            for t in self.others
            if t.covers(j)
        )
        self.running = self.running + 1 if held else 0
        return 0 < self.overlap <= self.running


@dataclass(frozen=True)
class Carried:
    """A tracklet as far as it was carried."""

    tracklet: Tracklet
    ended: tuple[bool, bool]
    """whether it ended by itself, backward and forward"""

    def joined(self, other: Carried) -> Carried:
        """What two of one starting point hold together."""
        back = min(self, other, key=lambda c: (c.tracklet.first, not c.ended[0]))
        on = max(self, other, key=lambda c: (c.tracklet.last, c.ended[1]))
        rows = slice(back.tracklet.start.frame - back.tracklet.first)
        more = slice(on.tracklet.start.frame - on.tracklet.first, None)
        tracklet = replace(
            back.tracklet,
            boxes=np.concatenate([back.tracklet.boxes[rows], on.tracklet.boxes[more]]),
            masks=np.concatenate([back.tracklet.masks[rows], on.tracklet.masks[more]]),
        )
        return Carried(tracklet, (back.ended[0], on.ended[1]))

    def until(self, gap: Callable[[], Gap]) -> Tracklet | None:
        """The part up to where it has left its gap; None if it was not carried so far.

        gap: a new one for each direction.
        """
        t, middle = self.tracklet, self.tracklet.start.frame - self.tracklet.first
        reached = [0, len(t.masks) - 1]
        for way, step in enumerate((-1, 1)):
            rows, way_out = range(middle + step, reached[way] + step, step), gap()
            row = next((n for n in rows if way_out.left(t.first + n, t.boxes[n], t.masks[n])), None)
            if row is None and not self.ended[way]:
                return None
            reached[way] = reached[way] if row is None else row
        part = slice(reached[0], reached[1] + 1)
        return replace(t, first=t.first + part.start, boxes=t.boxes[part], masks=t.masks[part])
