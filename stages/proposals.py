"""Region proposals of every frame: b_i1 .. b_iM of section 3.1."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.networks import Networks
from models.rpn import RPN
from stages.settings import ProposalsSettings
from stages.types import FeatureReader

VERSION = 1

Array = npt.NDArray[np.float32]


def proposals(
    features: FeatureReader,
    size: tuple[int, int],
    networks: Networks,
    settings: ProposalsSettings,
) -> Iterator[tuple[Array, Array]]:
    """Class-agnostic boxes of every frame, in order.

    size: (H, W) px. Yields boxes (M, 4) float32 xyxy px inside the frame and their
    objectness (M,) float32 in 0..1, highest first, M <= settings.per_frame. BadWeights if
    the weights hold no rpn.
    """
    rpn = networks.need("rpn", RPN)
    for j in range(len(features)):
        with networks.inference():
            f = networks.tensor(features.coarse(j))[None].to(networks.dtype)
            found = rpn.propose(f, size, per_frame=settings.per_frame, nms=settings.nms)
            boxes, objectness = found[0]
            yield boxes.float().cpu().numpy(), objectness.float().cpu().numpy()
