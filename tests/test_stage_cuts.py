"""Cuts: against plain loops, and what must and must not be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import Architecture
from models.networks import Networks
from stages.cuts import cuts, likeness, shot
from stages.matches import elsewhere
from stages.readers import Features
from stages.settings import TrackletsSettings
from stages.tracklets import Propagation, propagate
from tests.clip import make_clip
from tests.networks import random_networks

ALIKE = TrackletsSettings().cuts


@pytest.fixture(scope="module")
def networks() -> Networks:
    return random_networks(Architecture.tiny(), modules=())


def scene(seed: int, moved: int = 0, bright: float = 1.0) -> np.ndarray:
    """Features (8, 24, 40) of a place, `moved` 32 px cells to the left."""
    cells = np.random.default_rng(seed).normal(0, 1, (8, 6, 30))
    view = cells[:, :, moved : moved + 10].repeat(4, 1).repeat(4, 2)
    return (bright * view + 0.5).astype(np.float16)


BLACK = np.full((8, 24, 40), 0.3, np.float16)


def found(networks: Networks, frames: Sequence[np.ndarray]) -> set[int]:
    return set(cuts(Features(frames, None), networks, ALIKE))


def test_likeness_against_plain_loops() -> None:
    a, b = scene(1)[:, ::4, ::4].astype(float), scene(1, moved=2)[:, ::4, ::4].astype(float)
    common = (a.mean((1, 2)) + b.mean((1, 2))) / 2

    def one_way(p: np.ndarray, q: np.ndarray) -> float:
        best, places = {}, {}
        for r, c in np.ndindex(6, 10):
            u = p[:, r, c] - common
            for place in np.ndindex(6, 10):
                v = q[:, place[0], place[1]] - common
                cosine = float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
                if cosine > best.get((r, c), -2):
                    best[r, c], places[r, c] = cosine, place
        pairs = [((r, c), (r + 1, c)) for r, c in np.ndindex(5, 10)]
        pairs += [((r, c), (r, c + 1)) for r, c in np.ndindex(6, 9)]
        near = 0
        for here, there in pairs:
            gaps = [(places[there][k] - places[here][k]) - (there[k] - here[k]) for k in range(2)]
            near += max(abs(gap) for gap in gaps) <= 1
        return float(np.mean(list(best.values()))) * near / len(pairs)

    expected = (one_way(a, b) + one_way(b, a)) / 2
    got = likeness(torch.from_numpy(a), torch.from_numpy(b))
    assert got == pytest.approx(expected, abs=1e-6) and 0.5 < got < 0.99
    assert likeness(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(1)


def test_a_cut_is_where_a_shot_ends_and_where_another_begins(networks: Networks) -> None:
    here = [scene(1, j) for j in range(5)]
    there = [scene(2, j) for j in range(4)]
    assert found(networks, [*here, *there, *here]) == {5, 9}
    assert found(networks, [*here, there[0]]) == {5}


def test_none_within_a_shot(networks: Networks) -> None:
    moving = [scene(1, j, bright=1 + 0.5 * (j % 2)) for j in range(12)]
    assert found(networks, moving) == set()
    assert found(networks, moving[:1]) == set()


@pytest.mark.parametrize("count", [1, 2])
def test_a_flash_is_none(networks: Networks, count: int) -> None:
    flash = [scene(7)] * count
    shot_before, shot_after = [scene(1, j) for j in range(4)], [scene(1, j) for j in range(4, 8)]
    assert found(networks, [*shot_before, *flash, *shot_after]) == set()


def test_three_frames_of_another_place_are_a_shot(networks: Networks) -> None:
    shot_before, shot_after = [scene(1, j) for j in range(4)], [scene(1, j) for j in range(4, 8)]
    assert found(networks, [*shot_before, *[scene(7)] * 3, *shot_after]) == {4, 7}


def test_black_frames_part_only_different_shots(networks: Networks) -> None:
    before, black = [scene(1, j) for j in range(4)], [BLACK] * 9
    assert found(networks, [*before, *black, *before]) == set()
    assert found(networks, [*before, *black, *[scene(2)] * 4]) == set(range(4, 14))
    assert found(networks, [*black, *before, *black]) == set()


def test_zero_finds_none(networks: Networks) -> None:
    assert cuts(Features([scene(1), scene(2)], None), networks, 0.0) == frozenset()


def test_shots_are_numbered_by_their_cuts() -> None:
    assert [shot(j, {2, 5}) for j in range(7)] == [0, 0, 1, 1, 1, 2, 2]


def test_an_object_is_elsewhere_in_shots_without_its_given_mask() -> None:
    first, second = np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    first[0], second[0] = (1, 3), (3, 3)
    given = {0: first, 4: second}
    assert elsewhere(1, given, {4, 6}) == set()
    assert elsewhere(5, given, {4, 6}) == {1}
    assert elsewhere(7, given, {4, 6}) == {1, 3}
    assert elsewhere(7, given, frozenset()) == set()


def test_propagation_ends_at_a_cut_both_ways() -> None:
    clip = make_clip()
    propagation = Propagation(
        clip.features, clip.flow, clip.networks, TrackletsSettings(abort_ratio=0, abort_area=0)
    )
    vars(propagation)["cuts"] = frozenset({2, 5})
    starts = [clip.start(j, 1) for j in (0, 3, 6)]
    spans = [(t.first, len(t.masks)) for t in propagate(propagation, starts, [])]
    assert spans == [(0, 2), (2, 3), (5, 2)]
    whole = propagate(replace(propagation), starts[1:2], [])[0]
    assert len(whole.masks) == len(clip.features.rows)
