"""The region attention of every step of a tracklet (Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from models.networks import Half, Networks, State
from stages.tracklets import Propagation, propagate
from stages.types import StartingPoint, Tracklet

Array = npt.NDArray[np.float32]


class Watched(Networks):
    """Networks that keep the attention of every step they take."""

    def __init__(self, networks: Networks) -> None:
        vars(self).update(vars(networks))
        self.seen: list[Array] = []

    def step(
        self,
        state: State,
        f: Half,
        fine: Half | None,
        flow: Array,
        *,
        plain: bool = False,
    ) -> State:
        moved = super().step(state, f, fine, flow, plain=plain)
        if moved.attention is not None:
            self.seen.append(moved.attention[0])
        return moved


def attention(
    propagation: Propagation, start: StartingPoint, given: Sequence[StartingPoint]
) -> tuple[Tracklet, list[Array]]:
    """A starting point propagated as by stages.tracklets, and a_j of the frames after it.

    given: the given masks of all objects.
    Returns its tracklet and a_j (m, m) of frame start.frame + 1 and so on to the tracklet's last
    frame, of mean 1, or of sum 1 where the architecture does not scale it; a_j lies in the RoI
    box of its frame. BadWeights if the weights hold no remp.
    """
    watched = Watched(propagation.networks)
    [tracklet] = propagate(replace(propagation, networks=watched), [start], given)
    after = tracklet.first + len(tracklet.masks) - 1 - start.frame
    return tracklet, watched.seen[:after]
