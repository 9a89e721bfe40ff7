"""Optical flow between adjacent frames, both ways (section 3.2; the paper: FlowNet 2.0)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from stages.settings import FlowSettings
from stages.types import Frames, Image

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1

SCALE = 64
"""stored units a px"""
AHEAD = 3
"""pairs computed ahead of the reader"""
RAFT_STRIDE = 8
RAFT_SIDE = 128
"""shortest side that RAFT accepts"""

Field = npt.NDArray[np.float32]
Stored = npt.NDArray[np.int16]
Estimator = Callable[[Image, Image], Field]
"""(2, H, W) x, y px: the point p of the first image lies at p + flow in the second."""


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
    on each direction, a few pairs ahead. ValueError if the weights of RAFT cannot be had.
    """
    make = partial(raft, device) if settings.method == "raft" else partial(dis, settings.preset)
    backward, forward = make(), make()
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


def dis(preset: str) -> Estimator:
    """Dense inverse search (Kroeger et al., 2016) on grey images."""
    method = cv2.DISOpticalFlow.create(
        {
            "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
            "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        }[preset]
    )

    def estimate(image: Image, other: Image) -> Field:
        height, width = image.shape[:2]
        # on small or narrow images the pyramid of DIS runs out of pixels
        side = max(32, -(-max(height, width) // 8))
        pads = (0, max(0, side - height), 0, max(0, side - width))
        grey = [
            cv2.copyMakeBorder(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), *pads, cv2.BORDER_REPLICATE)
            for i in (image, other)
        ]
        return method.calc(grey[0], grey[1], None)[:height, :width].transpose(2, 0, 1)

    return estimate


def raft(device: str) -> Estimator:
    """RAFT (Teed and Deng, 2020) with torchvision's weights.

    ValueError if they are neither on this machine nor to be fetched.
    """
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    try:
        model = raft_large()
        state = Raft_Large_Weights.DEFAULT.get_state_dict(check_hash=True, weights_only=True)
        model.load_state_dict(state)
    except OSError as error:
        raise ValueError(
            f"flow method 'raft' needs torchvision's weights {Raft_Large_Weights.DEFAULT}, "
            f"which could not be fetched ({error}); use method 'dis' or fetch them first"
        ) from error
    return raft_estimator(model, device)


def raft_estimator(model: Callable[..., object], device: str) -> Estimator:
    """An estimator from a RAFT network."""
    import torch

    network = model.eval().to(device)  # type: ignore[attr-defined]

    def estimate(image: Image, other: Image) -> Field:
        with torch.inference_mode():
            pixels = (torch.from_numpy(i.copy()).to(device) for i in (image, other))
            field: Field = raft_field(network, *pixels).cpu().numpy()
        return field

    return estimate


def raft_field(network: Callable[..., Sequence[Tensor]], image: Tensor, other: Tensor) -> Tensor:
    """Flow (2, H, W) px between two images (H, W, 3) uint8.

    Each side is padded to a multiple of 8, at least 128, as RAFT needs it.
    """
    import torch.nn.functional as F

    height, width = image.shape[:2]
    target = [max(RAFT_SIDE, -(-n // RAFT_STRIDE) * RAFT_STRIDE) for n in (height, width)]

    def padded(pixels: Tensor) -> Tensor:
        x = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
        return F.pad(x, (0, target[1] - width, 0, target[0] - height), mode="replicate")

    return network(padded(image), padded(other))[-1][0, :, :height, :width]
