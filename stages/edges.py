"""Edges: masks drawn into a frame follow its colours below the size of a cell (an extension).

A box mask knows an outline to about one of its cells, several px of a large object, and the
network that made it blurs what is as thin as a cell. So its contrast is raised, and a guided
filter (He et al., ECCV 2010) makes it, in every small window, a linear function of colour:
where colour changes, probability does.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stages.types import Image

CONTRAST = 3.0
"""times that the difference from the surroundings, a Gaussian of one cell, is added"""
SAMPLES = 2
"""px of a cell on the smaller copy in which the linear functions are found (He and Sun, 2015)"""
FLAT = 1e-4
"""variance of colour, 0..1, below which a window counts as flat"""

Array = npt.NDArray[np.float32]


def sharpen(probability: Array, image: Image, cell: float, reach: float) -> Array:
    """Probabilities (h, w) that follow the edges of the image (h, w, 3) that they lie on.

    cell: px a side of a cell of the box mask that they come from. reach: radius of the filter's
    windows in cells.
    """
    height, width = probability.shape
    scale = min(1.0, SAMPLES / cell)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    colour = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    small = cv2.resize(probability, size, interpolation=cv2.INTER_AREA)
    small += CONTRAST * (small - cv2.GaussianBlur(small, (0, 0), cell * scale))
    fitted = linear(colour, small, max(1, round(reach * cell * scale)))
    fitted = cv2.resize(fitted, (width, height), interpolation=cv2.INTER_LINEAR)
    parts = cv2.multiply(fitted[..., :3], image, scale=1 / 255, dtype=cv2.CV_32F)
    return np.asarray((parts.sum(-1) + fitted[..., 3]).clip(0, 1), np.float32)


def linear(colour: Array, p: Array, radius: int) -> Array:
    """Slopes over red, green and blue, and offset, of p (h, w) at every pixel: (h, w, 4).

    Least squares in each window of `radius` px, then the mean over the windows of a pixel.
    """
    side = 2 * radius + 1

    def mean(values: Array) -> Array:
        return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT))

    r, g, b = cv2.split(colour)
    mr, mg, mb, mp = map(mean, (r, g, b, p))
    rr, gg, bb = (mean(x * x) - m * m + FLAT for x, m in ((r, mr), (g, mg), (b, mb)))
    rg, rb, gb = mean(r * g) - mr * mg, mean(r * b) - mr * mb, mean(g * b) - mg * mb
    rp, gp, bp = (mean(x * p) - m * mp for x, m in ((r, mr), (g, mg), (b, mb)))
    # the symmetric 3 x 3 system by its cofactors
    c_rr, c_gg, c_bb = gg * bb - gb * gb, rr * bb - rb * rb, rr * gg - rg * rg
    c_rg, c_rb, c_gb = rb * gb - rg * bb, rg * gb - rb * gg, rg * rb - rr * gb
    extent = rr * c_rr + rg * c_rg + rb * c_rb
    slopes = [
        (c_rr * rp + c_rg * gp + c_rb * bp) / extent,
        (c_rg * rp + c_gg * gp + c_gb * bp) / extent,
        (c_rb * rp + c_gb * gp + c_bb * bp) / extent,
    ]
    offset = mp - slopes[0] * mr - slopes[1] * mg - slopes[2] * mb
    return np.asarray(cv2.merge([mean(x) for x in (*slopes, offset)]))
