"""Sources drawn for tests of training: a small video and a small still."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stages.types import Image, IndexMask
from tests.clip import draw
from training.clips import Clips
from training.settings import TrainSettings

SETTINGS = TrainSettings(
    iterations=4,
    clips=2,
    frames=3,
    rate=0.01,
    height=64,
    gap=1,
    boxes=2,
    negatives=2,
    queue=8,
    checkpoint=1,
    motion=0.05,
)


@dataclass(frozen=True)
class Drawn:
    """Frames of tests.clip, or one of them as a still."""

    name: str = "video"
    frames: int = 4
    objects: tuple[int, ...] = field(default=(1, 3))

    def __len__(self) -> int:
        return self.frames

    def frame(self, j: int) -> Image:
        return draw(j)[0]

    def mask(self, j: int) -> IndexMask:
        return draw(j)[1]


def no_flow(image: Image, other: Image) -> np.ndarray:
    return np.zeros((2, *image.shape[:2]), np.float32)


def make_clips(settings: TrainSettings = SETTINGS) -> Clips:
    return Clips([Drawn(), Drawn("still", 1)], settings, no_flow)
