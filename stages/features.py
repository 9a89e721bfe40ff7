"""Feature extraction, N_feat: each frame once, for Re-ID and Re-MP alike (section 3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.backbone import Trunk
from models.networks import Networks
from stages.types import Frames, Image

VERSION = 1

BATCH = {"cpu": 4, "cuda": 8}
"""frames that run together"""

Half = npt.NDArray[np.float16]


def features(frames: Frames, networks: Networks) -> Iterator[tuple[Half, Half | None]]:
    """Features of every frame, in order.

    Yields f (C, ceil(H/8), ceil(W/8)) float16 and, with refinement, f4
    (C4, ceil(H/4), ceil(W/4)) float16, else None. A last batch that is not full is padded,
    so that no frame's features depend on the length of the video. BadWeights if the
    weights hold no trunk.
    """
    trunk = networks.need("trunk", Trunk)
    size = BATCH[networks.device.type]
    for first in range(0, len(frames), size):
        batch = [frames[j] for j in range(first, min(first + size, len(frames)))]
        with networks.inference():
            coarse, fine = trunk(_images(batch, size, networks.device))
            f = _half(coarse, len(batch))
            f4 = [None] * len(batch) if fine is None else list(_half(fine, len(batch)))
        yield from zip(f, f4, strict=True)


def _images(batch: list[Image], size: int, device: torch.device) -> Tensor:
    """(size, 3, H, W) uint8, the last frame repeated to fill the batch."""
    padded = np.stack(batch + [batch[-1]] * (size - len(batch)))
    return torch.from_numpy(padded).to(device).permute(0, 3, 1, 2)


def _half(values: Tensor, count: int) -> Half:
    return values[:count].half().contiguous().cpu().numpy()
