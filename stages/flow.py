"""Optical flow between adjacent frames, both ways (section 3.2; the paper: FlowNet 2.0)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stages.flow_methods import METHODS
from stages.settings import FlowSettings
from stages.types import Frames, Image

if TYPE_CHECKING:
    from stages.flow_methods import Estimator, Field

VERSION = 1

SCALE = 64
"""stored units a px"""
AHEAD = 3
"""pairs computed ahead of the reader"""

Stored = npt.NDArray[np.int16]


def encode(field: Field) -> Stored:
    """Flow in px as int16 in 1/64 px. Beyond +-511 px it saturates, it never wraps.

    ValueError if a value is not finite.
    """
    if not np.isfinite(field).all():
        raise ValueError("the optical flow is not finite")
    limits = np.iinfo(np.int16)
    return np.rint(field * SCALE).clip(limits.min, limits.max).astype(np.int16, order="C")


def decode(stored: Stored) -> Field:
    """The inverse of encode(): float32 px."""
    return stored.astype(np.float32) * np.float32(1 / SCALE)


def flow(
    frames: Frames, settings: FlowSettings, device: str = "cpu"
) -> Iterator[tuple[Stored, Stored]]:
    """Flow of every pair of frames (t, t + 1), in order.

    Yields, encoded, (2, H, W) x, y: to_previous, on the grid of frame t + 1 and leading to
    frame t, and to_next, on the grid of frame t and leading to frame t + 1. A thread works
    on each direction, a few pairs ahead. BadWeights if the weights of RAFT cannot be had.
    """
    make = METHODS[settings.method].make
    backward, forward = make(settings, device), make(settings, device)
    pending: deque[tuple[Future[Stored], Future[Stored]]] = deque()
    # an estimator keeps buffers between its calls, so each has a thread of its own
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for earlier, later in pairwise(frames):
            pending.append(
                (
                    first.submit(_estimate, backward, later, earlier),
                    second.submit(_estimate, forward, earlier, later),
                )
            )
            if len(pending) > AHEAD:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())


def _estimate(estimator: Estimator, image: Image, other: Image) -> Stored:
    return encode(estimator(image, other))


def _result(pair: tuple[Future[Stored], Future[Stored]]) -> tuple[Stored, Stored]:
    return pair[0].result(), pair[1].result()
