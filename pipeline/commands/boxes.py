"""Boxes in place of first masks: the mask network draws the objects in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.digests import bytes_digest
from cache.files import make_folder, write_file
from cache.store import Store
from pipeline.datasets.frames import unpacked_clip
from pipeline.errors import UserError
from pipeline.plan.inputs import Options, cache_root, find_weights
from pipeline.plan.machine import device, with_precision


def box_masks(clip: Path, asked: Sequence[str], options: Options) -> Path:
    """A PNG below the cache root with the objects 1.. in boxes of a clip's first frame.

    asked: x0,y0,x1,y1 px each. options: of the run. UserError for a box outside of the frame, or
    in which the network sees nothing.
    """
    from models.weights import load
    from pipeline.results.overlays import encode_mask
    from stages.boxes import masks_in_boxes
    from stages.frames import open_frames

    found = unpacked_clip(clip, options.reading, cache_root())
    settings = with_precision(options.settings, options.device)
    image = open_frames(found.source, found.name)[0]
    boxes = np.stack([_box(text, image.shape[:2]) for text in asked])
    weights = find_weights(options.weights, found.name)
    networks = load(weights, device(options.device), settings.run.precision)
    index = masks_in_boxes(image, boxes, networks, settings.frames)
    for number, text in enumerate(asked, 1):
        if not (index == number).any():
            raise UserError(f"--box {text}: the mask network sees no object there; draw a mask")
    data = encode_mask(index)
    place = Store(cache_root()).root / "boxes" / f"{bytes_digest(data)[:16]}.png"
    make_folder(place.parent)
    write_file(place, data)
    return place


def _box(text: str, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """x0,y0,x1,y1 as an array; UserError if that is no box in a frame (H, W)."""
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--box {text}: give four numbers, x0,y0,x1,y1 px") from None
    if not (0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]):
        raise UserError(f"--box {text}: is no box in the frame, which is {size[1]}x{size[0]} px")
    return np.array([x0, y0, x1, y1], np.float32)
