"""Where a propagation says only what is known already (section 3.2 skips such starting points)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.boxmask import iou
from stages.types import Box, Probability, Tracklet

RIVAL = 0.5
"""IoU with a tracklet of another object over which it has gone over to that object"""


@dataclass
class Repeats:
    """Whether a retrieved starting point, carried one way, only repeats accepted tracklets.

    Called with its mask in one frame after the other. It does once the mask has been, for
    `running` frames in a row, that of an accepted tracklet of its object (IoU over `alike`, as in
    the skip rule), or that of another object's. Of more accepted tracklets it is true no later.
    """

    own: Sequence[Tracklet]
    others: Sequence[Tracklet]
    alike: float
    running: int
    size: tuple[int, int]
    """(H, W) px"""
    repeated: int = 0
    astray: int = 0

    def __call__(self, j: int, box: Box, mask: Probability) -> bool:
        self.repeated = self.repeated + 1 if self._in(self.own, self.alike, j, box, mask) else 0
        self.astray = self.astray + 1 if self._in(self.others, RIVAL, j, box, mask) else 0
        return 0 < self.running <= max(self.repeated, self.astray)

    def _in(
        self, known: Iterable[Tracklet], least: float, j: int, box: Box, mask: Probability
    ) -> bool:
        return any(
            iou(box, mask, t.boxes[j - t.first], t.masks[j - t.first], self.size) > least
            for t in known
            if t.covers(j)
        )


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

    def until(self, only: Callable[[], Repeats]) -> Tracklet | None:
        """The part before it only repeats what is known; None if it was not carried so far.

        only: a new one for each direction.
        """
        t, middle = self.tracklet, self.tracklet.start.frame - self.tracklet.first
        reached = [0, len(t.masks) - 1]
        for way, step in enumerate((-1, 1)):
            rows, repeated = range(middle + step, reached[way] + step, step), only()
            row = next((n for n in rows if repeated(t.first + n, t.boxes[n], t.masks[n])), None)
            if row is None and not self.ended[way]:
                return None
            reached[way] = reached[way] if row is None else row
        part = slice(reached[0], reached[1] + 1)
        return replace(t, first=t.first + part.start, boxes=t.boxes[part], masks=t.masks[part])
