"""A result does not depend on how many threads PyTorch and OpenCV have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from models.config import Architecture
from models.rpn import RPN
from stages.features import features
from stages.flow import flow
from stages.msk import step
from stages.settings import FlowSettings
from tests.clip import Clip, make_clip
from tests.networks import random_networks

THREADS = (1, 2, 8)
Arrays = list[np.ndarray]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leave the numbers as they were."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip()


def assert_same(make: Callable[[], Arrays]) -> None:
    results = []
    for number in THREADS:
        torch.set_num_threads(number)
        cv2.setNumThreads(number)
        results.append(make())
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_boxes_and_steps(clip: Clip, precision: str) -> None:
    nets = random_networks(Architecture.tiny(), 1, precision=precision)
    height, width = clip.images[0].shape[:2]
    low = np.random.default_rng(0).uniform(0, 40, (25, 2))
    boxes = np.concatenate((low, low + 30), 1).astype(np.float32)
    given = np.full((2, 16, 16), 255, np.uint8)

    def make() -> Arrays:
        (f, fine), (f_next, fine_next) = list(features(clip.images, nets))[:2]
        assert fine is not None and fine_next is not None
        with nets.inference():
            found = nets.need("rpn", RPN).propose(
                nets.tensor(f)[None].to(nets.dtype), (height, width), per_frame=50, nms=0.7
            )[0]
        still = np.zeros((2, height, width), np.float32)
        memory = nets.remember(f, boxes[0], given[0], plain=False)
        assert memory is not None
        state = nets.step(nets.start(f, fine, boxes[:2], given), f_next, fine_next, still)
        return [
            f,
            fine,
            *(values.numpy() for values in found),
            nets.embed(f, boxes),
            nets.masks(f, boxes),
            nets.recognise(f, [memory], plain=False).float().numpy(),
            state.masks,
            *(part.hidden.float().numpy() for part in state.parts),
        ]

    assert_same(make)


def test_a_full_frame_mask() -> None:
    # a frame that threads share, and that eight of them cannot share in whole vectors
    height, width = 480, 854
    nets = random_networks(Architecture.tiny(), 1, modules=["msk"])
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    still = np.zeros((2, height, width), np.float32)
    assert_same(lambda: [step({1: before}, image, still, nets)[1].numpy()])


def test_flow(clip: Clip) -> None:
    assert_same(lambda: [x for pair in flow(clip.images, FlowSettings()) for x in pair])
