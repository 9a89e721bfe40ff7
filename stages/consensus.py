"""Linking by consensus: a frame goes to the tracklets that the others bear out (an extension).

The paper's rule trusts the order of similarity, so the tracklet of a given mask keeps every
frame it reaches, even where it has drifted onto another object, and what contradicts it is
dropped. Tracklets that start in different frames rarely drift alike: where an object's
agree they are right, and where one agrees with another object's it has drifted there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stages.boxmask import coarse
from stages.starts import rank
from stages.types import Tracklet

AGREEMENT = 0.5
"""weight of the agreement with an object's tracklets: for its own, against for another's"""
GIVEN = 0.2
"""head start of the tracklet of a given mask"""
REACH = 10.0
"""frames from its start over which a tracklet's word falls by the factor e"""
RIVAL = 0.3
"""IoU with the mask of another object over which a frame is not given to both"""
STEP = 4
"""px between the points at which masks are compared"""

Float = npt.NDArray[np.float64]


def owners(
    tracklets: Sequence[Tracklet], objects: Sequence[int], frames: int, size: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """Index of the tracklet that owns each object in each frame (objects, T), -1 for none.

    size: (H, W) px. In each frame the tracklets are taken in the order of their scores(), one
    an object, none that lies over one taken before. Of equal ones the first in the order of
    propagation.
    """
    owner = np.full((len(objects), frames), -1, np.int32)
    ranked = sorted(range(len(tracklets)), key=lambda n: rank(tracklets[n].start))
    for j in range(frames):
        here = [n for n in ranked if tracklets[n].covers(j) and _shown(tracklets[n], j).any()]
        seen = [tracklets[n] for n in here]
        overlaps = _overlaps(seen, j, size)
        # rounded, so that equal tracklets tie
        order = np.argsort(-scores(seen, j, overlaps).round(7), kind="stable").tolist()
        taken: dict[int, int] = {}
        for k in order:
            i = seen[k].start.object_id
            if i not in taken and all(overlaps[k, m] <= RIVAL for m in taken.values()):
                taken[i] = k
        for i, k in taken.items():
            owner[objects.index(i), j] = here[k]
    return owner


def _shown(tracklet: Tracklet, frame: int) -> npt.NDArray[np.bool_]:
    return tracklet.masks[frame - tracklet.first] > 127


def scores(tracklets: Sequence[Tracklet], frame: int, overlaps: Float) -> Float:
    """How far each tracklet is to be believed in a frame (N,).

    overlaps: IoU of every two masks (N, N). The mean probability of its mask's foreground,
    plus a head start for given masks, plus its agreement with its own object's tracklets,
    less that with another object's. Agreement is the mean IoU, weighted by similarity and
    nearness in time.
    """
    ids = np.array([t.start.object_id for t in tracklets])
    away = np.array([abs(frame - t.start.frame) for t in tracklets])
    weight = np.array([max(t.start.similarity, 1e-3) for t in tracklets]) * np.exp(-away / REACH)
    agreement = {
        i: overlaps[:, ids == i] @ weight[ids == i] / weight[ids == i].sum()
        for i in sorted(set(ids.tolist()))
    }
    result = np.zeros(len(tracklets))
    for n, t in enumerate(tracklets):
        confidence = t.masks[frame - t.first][_shown(t, frame)].mean() / 255
        rivals = [a[n] for i, a in agreement.items() if i != t.start.object_id]
        margin = agreement[t.start.object_id][n] - max(rivals, default=0.0)
        result[n] = confidence + AGREEMENT * margin + GIVEN * t.start.given
    return result


def _overlaps(tracklets: Sequence[Tracklet], frame: int, size: tuple[int, int]) -> Float:
    """IoU of every two masks (N, N); 0 where both are too small to be seen."""
    cells = np.zeros((len(tracklets), -(-size[0] // STEP) * -(-size[1] // STEP)), np.float32)
    for n, t in enumerate(tracklets):
        k = frame - t.first
        cells[n] = coarse(t.boxes[k], t.masks[k], size, STEP).ravel()
    # whole numbers, exact in float32 in whatever order they are added
    shared = (cells @ cells.T).astype(np.float64)
    area = shared.diagonal()
    return shared / np.maximum(area[:, None] + area - shared, 1.0)
