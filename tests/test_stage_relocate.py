"""Objects that flow loses: found where their memory sees them, and left alone otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import Architecture
from models.networks import Networks, State
from stages.relocate import agreeing, relocated, step
from tests.networks import random_networks

SIZE = (160, 240)
SIDE = 48
"""px of the object"""


@pytest.fixture(scope="module")
def networks() -> Networks:
    return random_networks(Architecture.tiny(), modules=("remp",))


def features(x: int, y: int, side: int = SIDE, count: int = 256) -> np.ndarray:
    """Coarse features of a frame whose object's corner is at (x, y) px."""
    noise = np.random.default_rng(3)
    f = noise.normal(0, 0.3, (count, SIZE[0] // 8, SIZE[1] // 8)).astype(np.float32)
    f[: count // 2] += 2
    at = np.s_[:, y // 8 : (y + side) // 8, x // 8 : (x + side) // 8]
    f[at] = noise.normal(0, 0.3, f[at].shape)
    f[count // 2 :, at[1], at[2]] += 2
    return f.astype(np.float16)


def fine(a: Architecture) -> np.ndarray | None:
    shape = (a.fine_channels, SIZE[0] // 4, SIZE[1] // 4)
    return np.zeros(shape, np.float16) if a.refine > 1 else None


def begun(networks: Networks, x: int = 64, y: int = 56) -> State:
    """The object where it starts."""
    box = np.array([[x, y, x + SIDE, y + SIDE]], np.float32)
    full = np.full((1, 8, 8), 255, np.uint8)
    return networks.start(features(x, y), fine(networks.architecture), box, full)


def still(x: float = 0, y: float = 0) -> np.ndarray:
    field = np.zeros((2, *SIZE), np.float32)
    field[0], field[1] = x, y
    return field


def centre(box: torch.Tensor) -> np.ndarray:
    return ((box[0, :2] + box[0, 2:]) / 2).numpy()


LOST = still(), still(x=30)
"""flow whose directions contradict each other"""


@pytest.mark.parametrize(("x", "y"), [(64, 56), (128, 56), (24, 88), (104, 16)])
def test_an_object_is_found_where_it_went(networks: Networks, x: int, y: int) -> None:
    parts = begun(networks).parts
    found = relocated(networks, parts, features(x, y), still(x=80), still(x=30), plain=False)
    assert centre(found[0].boxes) == pytest.approx([x + SIDE / 2, y + SIDE / 2], abs=4)
    before, after = parts[0].boxes[0], found[0].boxes[0]
    assert float((after[2] - after[0]) / (before[2] - before[0])) == pytest.approx(1, abs=1e-4)


def test_one_that_came_nearer_is_found_larger(networks: Networks) -> None:
    parts = begun(networks).parts
    frame = features(112, 48, side=64)
    found = relocated(networks, parts, frame, *LOST, plain=False)
    before, after = parts[0].boxes[0], found[0].boxes[0]
    assert float((after[2] - after[0]) / (before[2] - before[0])) == pytest.approx(1.25, abs=1e-4)


def test_flow_that_agrees_is_followed(networks: Networks) -> None:
    parts = begun(networks).parts
    back, ahead = still(x=-64), still(x=64)
    assert relocated(networks, parts, features(128, 56), back, ahead, plain=False) == {}
    # also to where the object is not, since a doubt is what the search is for
    assert relocated(networks, parts, features(64, 56), back, ahead, plain=False) == {}


def test_flow_that_leads_to_the_object_is_followed(networks: Networks) -> None:
    parts = begun(networks).parts
    assert relocated(networks, parts, features(64, 56), *LOST, plain=False) == {}


def test_an_object_that_is_gone_is_not_found(networks: Networks) -> None:
    parts = begun(networks).parts
    empty = features(64, 56)
    empty[:, 7:13, 8:14] = empty[:, 0:6, 0:6]
    assert relocated(networks, parts, empty, *LOST, plain=False) == {}


def test_without_a_memory_none_is_looked_for() -> None:
    plain = random_networks(replace(Architecture.tiny(), memory=False), modules=("remp",))
    parts = begun(plain).parts
    assert relocated(plain, parts, features(128, 56), *LOST, plain=False) == {}


def test_agreement_is_the_share_of_the_object_that_comes_back(networks: Networks) -> None:
    part = begun(networks).parts[0]
    on, back = torch.zeros(1, 2, *SIZE), torch.zeros(1, 2, *SIZE)
    assert agreeing(part, back, on) == 1
    on[0, 0, :, : 64 + SIDE // 2] = 5
    assert agreeing(part, back, on) == pytest.approx(0.5, abs=0.1)
    on[0, 0] = 25
    back[0, 0] = -22.6
    assert agreeing(part, back, on) == 1
    back[0, 0] = -21
    assert agreeing(part, back, on) == 0


def test_a_step_takes_up_what_was_found_and_keeps_the_order(networks: Networks) -> None:
    lost, kept = begun(networks), begun(networks, x=160, y=96)
    frame = features(128, 56), fine(networks.architecture)
    # flow agrees on the right part of the frame alone
    back, ahead = still(), still()
    ahead[0, :, :140] = 30
    both = step(networks, State.cat([kept, lost]), frame, back, ahead, plain=False)
    moved = relocated(networks, lost.parts, frame[0], back, ahead, plain=False)[0]
    alone = networks.step(State([moved], lost.areas), *frame, still(), plain=False)
    other = networks.step(kept, *frame, back, plain=False)
    assert np.array_equal(both.masks, np.concatenate([other.masks, alone.masks]))
    assert np.array_equal(both.boxes, np.concatenate([other.boxes, alone.boxes]))
