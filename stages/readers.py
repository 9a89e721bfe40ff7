"""Readers over rows: of an artifact, where they lie in a file, or of lists, in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stages.flow import decode
from stages.types import BoxReader, Rows

Float32 = npt.NDArray[np.float32]


class Features:
    """stages.types.FeatureReader."""

    def __init__(self, coarse: Rows, fine: Rows | None) -> None:
        """f and f4 of every frame, as stages.features yields them."""
        self._coarse, self._fine = coarse, fine

    def __len__(self) -> int:
        return len(self._coarse)

    def coarse(self, j: int) -> npt.NDArray[np.float16]:
        return self._coarse[j]

    def fine(self, j: int) -> npt.NDArray[np.float16] | None:
        return None if self._fine is None else self._fine[j]


class Flow:
    """stages.types.FlowReader."""

    def __init__(self, to_previous: Rows, to_next: Rows) -> None:
        """Both directions of every pair of frames, as stages.flow yields them."""
        self._to_previous, self._to_next = to_previous, to_next

    def to_previous(self, j: int) -> Float32:
        return decode(self._to_previous[j - 1])

    def to_next(self, j: int) -> Float32:
        return decode(self._to_next[j])


class Boxes:
    """stages.types.BoxReader: boxes of several sources, one after the other in each frame."""

    def __init__(self, boxes: Sequence[Rows], vectors: Sequence[Rows]) -> None:
        """boxes (M, 4) and Re-ID vectors (M, 256) of every frame, by source."""
        self._boxes, self._vectors = boxes, vectors

    def boxes(self, j: int) -> Float32:
        return np.concatenate([rows[j] for rows in self._boxes])

    def embeddings(self, j: int) -> Float32:
        return np.concatenate([rows[j] for rows in self._vectors])


class Proposals:
    """stages.types.ProposalReader."""

    def __init__(self, boxes: BoxReader, evidence: Rows) -> None:
        """evidence: (M, O) of every frame, as stages.evidence yields it."""
        self.boxes, self.embeddings = boxes.boxes, boxes.embeddings
        self._evidence = evidence

    def evidence(self, j: int) -> Float32:
        return self._evidence[j]
