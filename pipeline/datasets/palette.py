"""The colours of mask files."""

from __future__ import annotations

import numpy as np


def davis_palette() -> bytes:
    """The palette of the DAVIS and PASCAL VOC masks: 256 RGB triples.

    Bit b of a channel of colour i is bit 3 (7 - b) + channel of i.
    """
    triples = np.zeros((256, 3), np.uint8)
    for i in range(256):
        for bit in range(8):
            for channel in range(3):
                triples[i, channel] |= (i >> (3 * (7 - bit) + channel) & 1) << bit
    return triples.tobytes()
