"""Objects that the frame cuts are kept to its last row, with the shipped weights."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dyenet import load, segment, settings
from models.networks import Networks

FRAMES = 3


@pytest.fixture(scope="module")
def networks() -> Networks:
    return load("compact", device="cpu")


def texture(random: np.random.Generator, tint: tuple[int, int, int]) -> np.ndarray:
    noise = cv2.resize(random.random((20, 25, 3)), (200, 160), interpolation=cv2.INTER_CUBIC)
    return (np.array(tint) * (0.6 + 0.6 * noise)).clip(0, 255).astype(np.uint8)


def clip() -> tuple[np.ndarray, np.ndarray]:
    """Frames and masks of an ellipse that the lower border cuts, and that moves along it."""
    random = np.random.default_rng(0)
    back, cloth = texture(random, (90, 110, 90)), texture(random, (190, 90, 60))
    y, x = np.mgrid[:160, :200]
    steps = 4 * np.arange(FRAMES)
    masks = np.stack([((x - 90 - s) / 38) ** 2 + ((y - 150) / 50) ** 2 < 1 for s in steps])
    shown = [np.roll(cloth, s, 1) for s in steps]
    frames = [np.where(m[..., None], c, back) for m, c in zip(masks, shown, strict=True)]
    return np.stack(frames), masks


@pytest.mark.parametrize("turns", range(4))
def test_the_last_row_is_kept_at_every_border(networks: Networks, turns: int) -> None:
    frames, masks = clip()
    turned = np.ascontiguousarray(np.rot90(frames, turns, (1, 2)))
    first = np.ascontiguousarray(np.rot90(masks[0], turns)).astype(np.uint8)
    plain = settings({"run.variant": "remp", "frames.height": 0})
    found = np.rot90(segment(turned, {0: first}, networks, plain), -turns, (1, 2)) > 0
    for mask, own in zip(found[1:], masks[1:], strict=True):
        assert (mask & own)[-1].sum() >= 0.9 * own[-1].sum()
        assert (mask & own).sum() >= 0.95 * (mask | own).sum()
