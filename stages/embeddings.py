"""Embeddings of every proposal: the Re-ID network's half of section 3.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from models.networks import Networks
from stages.types import FeatureReader

VERSION = 4

Array = npt.NDArray[np.float32]


def embeddings(
    features: FeatureReader, proposals: Callable[[int], Array], networks: Networks
) -> Iterator[Array]:
    """Embeddings of the proposals of every frame, in order.

    proposals(j): boxes (M, 4) float32 xyxy px of frame j. Yields (M, 256) float32 of unit
    length. Free of any threshold. BadWeights if the weights hold no reid.
    """
    for j in range(len(features)):
        yield networks.embed(features.coarse(j), proposals(j))
