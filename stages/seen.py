"""What networks have seen in boxes, so that none looks at a box twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stages.types import Box


class BoxMemo(Protocol):
    """What a network saw in boxes, also in an earlier run."""

    def get(self, frame: int, box: Box) -> npt.NDArray[Any] | None: ...

    def put(self, frame: int, box: Box, seen: npt.NDArray[Any]) -> None: ...


@dataclass(frozen=True)
class SeenBoxes:
    """A BoxMemo in memory."""

    known: dict[tuple[int, bytes], npt.NDArray[Any]] = field(default_factory=dict)

    def get(self, frame: int, box: Box) -> npt.NDArray[Any] | None:
        return self.known.get((frame, box.tobytes()))

    def put(self, frame: int, box: Box, seen: npt.NDArray[Any]) -> None:
        self.known[frame, box.tobytes()] = seen


def seen(
    memo: BoxMemo,
    j: int,
    boxes: Sequence[Box],
    look: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
) -> list[npt.NDArray[Any]]:
    """What a network sees in boxes (4,) of frame j.

    look(boxes (N, 4)) gives a row for each box that the memo lacks.
    """
    known = {n: memo.get(j, box) for n, box in enumerate(boxes)}
    missing = [n for n, row in known.items() if row is None]
    if missing:
        for n, row in zip(missing, look(np.stack([boxes[n] for n in missing])), strict=True):
            memo.put(j, boxes[n], row)
            known[n] = row
    return [row for row in known.values() if row is not None]
