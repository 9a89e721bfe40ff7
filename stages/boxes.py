"""Masks of what given boxes hold, drawn by the mask network (section 3.1).

An extension: the paper is given masks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.networks import Networks
from stages.boxmask import merge, paste, rescaled
from stages.features import features
from stages.frames import resize_image, working_size
from stages.settings import FramesSettings
from stages.types import Image, IndexMask


def masks_in_boxes(
    image: Image,
    boxes: npt.NDArray[np.float32],
    networks: Networks,
    settings: FramesSettings,
) -> IndexMask:
    """(H, W) object numbers 1..N of the objects in boxes (N, 4) px of an image (H, W, 3).

    An object that the network sees nothing of has no pixel. ValueError if the networks lack trunk
    or mask.
    """
    size = image.shape[0], image.shape[1]
    working = working_size(size, settings)
    ((f, _),) = features([resize_image(image, working)], networks)
    masks = networks.masks(f, rescaled(boxes, size, working))
    windows = {i: paste(boxes[i - 1], mask, size) for i, mask in enumerate(masks, 1)}
    index, _ = merge(windows, list(windows), size)
    return index
