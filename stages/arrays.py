"""Frames and index masks that a program gives as arrays, checked like those of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stages.boxmask import object_ids
from stages.errors import BadInput
from stages.frames import FrameReader
from stages.types import Image, IndexMask


class ArrayFrames(FrameReader):
    """A video that lies in memory, or in anything else that gives a frame when indexed."""

    fps = None

    def __init__(self, frames: Sequence[Image]) -> None:
        """BadInput if there is no frame, or the first is none."""
        if not len(frames):
            raise BadInput("there are no frames; give at least one (H, W, 3) uint8 RGB")
        self.frames = frames
        self.names = tuple(f"{j:05d}" for j in range(len(frames)))
        self.size = frames[0].shape[:2]
        self.decode(0)

    def decode(self, j: int) -> Image:
        image = self.frames[j]
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise BadInput(
                f"frame {j}: is {image.shape} {image.dtype}; all frames must be (H, W, 3) uint8 "
                "RGB of one size"
            )
        return image


def check_masks(masks: Mapping[int, IndexMask], frames: FrameReader) -> None:
    """BadInput unless these are given masks of a video, by frame from 0."""
    if not masks:
        raise BadInput("there is no mask; give one of the first frame at least, as {0: mask}")
    for j, mask in masks.items():
        if j not in range(len(frames)):
            raise BadInput(
                f"mask of frame {j}: the video has {len(frames)} frames, numbered from 0"
            )
        if mask.shape != frames.size or mask.dtype not in (np.uint8, np.uint16):
            raise BadInput(
                f"mask of frame {j}: is {mask.shape} {mask.dtype}; it must be {frames.size} uint8, "
                "as the frames, or uint16"
            )
        if mask.dtype != masks[min(masks)].dtype:
            raise BadInput(f"mask of frame {j}: is {mask.dtype}; all masks must be of one dtype")
        if not object_ids(mask):
            raise BadInput(
                f"mask of frame {j}: holds no object; 1 to 254 are objects, 0 is background and "
                "255 void (of uint16: 1 to 65534, and 65535)"
            )
