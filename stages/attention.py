"""The region attention of every step of a tracklet (Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.networks import Networks, State
from stages.settings import TrackletsSettings
from stages.tracklets import propagate
from stages.types import FeatureReader, FlowReader, StartingPoint, Tracklet

Array = npt.NDArray[np.float32]


class Watched(Networks):
    """Networks that keep the attention of every step they take."""

    def __init__(self, networks: Networks) -> None:
        vars(self).update(vars(networks))
        self.seen: list[Array] = []

    def step(
        self,
        state: State,
        f: npt.NDArray[np.float16],
        fine: npt.NDArray[np.float16] | None,
        flow: Array,
        *,
        plain: bool = False,
    ) -> State:
        moved = super().step(state, f, fine, flow, plain=plain)
        if moved.attention is not None:
            self.seen.append(moved.attention[0])
        return moved


def attention(
    start: StartingPoint,
    given: Sequence[StartingPoint],
    features: FeatureReader,
    flow: FlowReader,
    networks: Networks,
    settings: TrackletsSettings,
) -> tuple[Tracklet, list[Array]]:
    """A starting point propagated as by stages.tracklets, and a_j of the frames after it.

    given: the given masks of all objects.
    Returns its tracklet and a_j (m, m), of mean 1 (of sum 1 where the architecture does not scale
    it), of frame start.frame + 1 and so on to the
    tracklet's last frame; a_j lies in the RoI box of its frame. ValueError if the weights
    hold no remp.
    """
    watched = Watched(networks)
    [tracklet] = propagate([start], given, features, flow, watched, settings, plain=False)
    after = tracklet.first + len(tracklet.masks) - 1 - start.frame
    return tracklet, watched.seen[:after]
