"""Motion that is known exactly: smooth random maps from one frame to the one before.

A still image becomes a clip by composing such maps. Frame t + 1 is drawn by looking up,
for each of its pixels, where it lies in frame t; so the flow t + 1 -> t is the map itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator

Points = npt.NDArray[np.float32]
"""(..., 2) x, y px, pixel centres at integer + 0.5"""
CONTROLS = 5
"""points that bend a thin plate"""
STIFFNESS = 1e-3
"""how much a thin plate resists, so that points close together do not tear it"""
PLATE_GRID = 16
"""px between the points where a thin plate is evaluated; bilinear between them"""


def grid(size: tuple[int, int]) -> Points:
    """Pixel centres of a frame (H, W): (H, W, 2)."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) + 0.5
    return np.stack((x, y), -1)


def affine(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Points:
    """A random affine map (2, 3): turn, scale, shear about the centre, and a shift."""
    height, width = size
    turn, shear = rng.normal(0, strength, 2)
    scale = np.exp(rng.normal(0, strength))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = scale * rotation @ np.array([[1, shear / 2], [0, 1]])
    centre = np.array([width, height]) / 2
    shift = rng.normal(0, strength / 2, 2) * (width, height)
    return np.column_stack((linear, centre - linear @ centre + shift)).astype(np.float32)


def thin_plate(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Points:
    """Displacement (H, W, 2) px of a thin plate bent at a few random points."""
    height, width = size
    places = rng.uniform(0, 1, (CONTROLS, 2)) * (width, height)
    pulls = rng.normal(0, strength / 4, (CONTROLS, 2)) * min(size)
    # in units of the frame's diagonal, so that the stiffness means the same in every frame
    side = np.hypot(width, height)
    plate = RBFInterpolator(
        places / side, pulls, kernel="thin_plate_spline", smoothing=STIFFNESS, degree=1
    )
    rows, columns = (-(-n // PLATE_GRID) + 1 for n in size)
    coarse = np.stack(
        np.meshgrid(np.linspace(0, width, columns), np.linspace(0, height, rows)), -1
    ).reshape(-1, 2)
    bent = plate(coarse / side)
    field = bent.reshape(rows, columns, 2).astype(np.float32)
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Step:
    """A smooth map from the pixels of one frame to places in the frame before."""

    affine: Points
    """(2, 3)"""
    bend: Points
    """(H, W, 2) px, read at the pixels of the later frame"""

    @classmethod
    def random(cls, rng: np.random.Generator, size: tuple[int, int], strength: float) -> Step:
        return cls(affine(rng, size, strength), thin_plate(rng, size, strength))

    def places(self, size: tuple[int, int]) -> Points:
        """Where each pixel (H, W) of the later frame lies in the frame before: (H, W, 2)."""
        points = grid(size)
        return points @ self.affine[:, :2].T + self.affine[:, 2] + self.bend


def look_up(field: npt.NDArray[np.generic], places: Points) -> np.ndarray:
    """Bilinear values of a frame-sized field at places (H, W, 2) px; its border is repeated."""
    x, y = places[..., 0] - 0.5, places[..., 1] - 0.5
    return np.asarray(cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def look_up_mask(mask: npt.NDArray[np.generic], places: Points) -> np.ndarray:
    """Nearest values of an index mask at places (H, W, 2) px; 0 beyond it."""
    x, y = places[..., 0] - 0.5, places[..., 1] - 0.5
    return np.asarray(
        cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    )
