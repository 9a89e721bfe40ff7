"""MSK: against one object and one frame at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.config import Architecture
from models.msk import MSK
from stages.msk import msk
from tests import reference
from tests.clip import FRAMES, SIZE, Clip, make_clip
from tests.networks import random_networks


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip()


def only(mask: np.ndarray, *ids: int) -> np.ndarray:
    return np.where(np.isin(mask, ids), mask, 0).astype(np.uint8)


def warped(previous: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Bilinear backward warp by loops, zero outside the frame."""
    result = np.zeros(SIZE, np.float32)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            px, py = x + float(field[0, y, x]), y + float(field[1, y, x])
            for r in (math.floor(py), math.floor(py) + 1):
                for c in (math.floor(px), math.floor(px) + 1):
                    if 0 <= r < SIZE[0] and 0 <= c < SIZE[1]:
                        result[y, x] += (1 - abs(py - r)) * (1 - abs(px - c)) * previous[r, c]
    return result


def step(clip: Clip, previous: np.ndarray, j: int, field: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(clip.images[j]).permute(2, 0, 1)[None]
    with clip.networks.inference():
        mask = torch.from_numpy(warped(previous, field))[None, None]
        return torch.sigmoid(clip.networks.need("msk", MSK)(image, mask))[0, 0].numpy()


def test_msk_equals_one_object_and_one_frame_at_a_time(clip: Clip) -> None:
    first = {0: only(clip.annotations[0], 1), 3: only(clip.annotations[3], 3)}
    outputs = list(msk(clip.images, clip.flow, first, clip.networks))
    assert len(outputs) == FRAMES
    probabilities: dict[int, dict[int, np.ndarray]] = {j: {} for j in range(FRAMES)}
    for i, start in ((1, 0), (3, 3)):
        p = (clip.annotations[start] == i).astype(np.float32)
        for j in range(start + 1, FRAMES):
            p = probabilities[j][i] = step(clip, p, j, clip.flow.to_previous(j))
        p = (clip.annotations[start] == i).astype(np.float32)
        for j in range(start - 1, -1, -1):
            p = probabilities[j][i] = step(clip, p, j, clip.flow.to_next(j))
    for j, (index, confidence) in enumerate(outputs):
        expected, values, _ = reference.composite(probabilities[j], [1, 3], SIZE, first.get(j))
        # probabilities are stored in steps of 1 / 255
        assert np.mean(index != expected) < 0.01
        np.testing.assert_allclose(confidence, values, atol=0.03)
    assert ((outputs[0][0] == 1) == (first[0] == 1)).all()
    assert ((outputs[3][0] == 3) == (first[3] == 3)).all()


def test_an_object_does_not_depend_on_the_others(clip: Clip) -> None:
    alone = list(msk(clip.images, clip.flow, {0: only(clip.annotations[0], 1)}, clip.networks))
    twin = np.where(clip.annotations[0] == 1, 1, 0).astype(np.uint8)
    twin[clip.annotations[0] == 3] = 255
    void = list(msk(clip.images, clip.flow, {0: twin}, clip.networks))
    for (a, p), (b, q) in zip(alone, void, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(p, q)


def test_a_later_given_mask_replaces_what_was_propagated(clip: Clip) -> None:
    first = {0: only(clip.annotations[0], 1), 4: only(clip.annotations[4], 1)}
    both = list(msk(clip.images, clip.flow, first, clip.networks))
    tail = list(msk(clip.images[4:], Shifted(clip, 4), {0: first[4]}, clip.networks))
    np.testing.assert_array_equal(both[4][0], first[4])
    for (a, _), (b, _) in zip(both[4:], tail, strict=True):
        np.testing.assert_array_equal(a, b)


def test_masks_come_in_the_size_of_the_given_ones(clip: Clip) -> None:
    given = {0: clip.annotations[0]}
    large = {0: given[0].repeat(2, 0).repeat(2, 1)}
    usual = msk(clip.images, clip.flow, given, clip.networks)
    enlarged = msk(clip.images, clip.flow, large, clip.networks)
    for (a, p), (b, q) in zip(usual, enlarged, strict=True):
        assert b.shape == (2 * SIZE[0], 2 * SIZE[1])
        assert np.mean(a != b[::2, ::2]) < 0.05
        np.testing.assert_allclose(p, q, atol=0.05)


class Shifted:
    """The flow of the clip's frames from `first` on."""

    def __init__(self, clip: Clip, first: int) -> None:
        self.clip, self.first = clip, first

    def to_previous(self, j: int) -> np.ndarray:
        return self.clip.flow.to_previous(j + self.first)

    def to_next(self, j: int) -> np.ndarray:
        return self.clip.flow.to_next(j + self.first)


def test_weights_without_msk_are_refused(clip: Clip) -> None:
    bare = random_networks(Architecture.tiny(), modules=["trunk"])
    with pytest.raises(ValueError, match="msk"):
        next(msk(clip.images, clip.flow, {0: clip.annotations[0]}, bare))
